"""The reachable states of an environment, found breadth first by stepping copies of it."""

from __future__ import annotations

import copy
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.checks import first_line
from ..core.mdp import FloatArray
from ..core.progress import tell
from .fingerprints import Key, attributes, clocks_of, differing, fingerprint
from .simulators import goes_on
from .terms import RecordTerms

__all__ = [
    "END",
    "DrawsError",
    "Enumeration",
    "Outcome",
    "State",
    "keeper",
    "leaves",
    "probe",
    "reseed",
]

Env = gym.Env[Any, Any]

# An environment, and what it has shown last.
Kept = tuple[Any, Any]

# Functions (environment) -> state, and (environment, state) -> None, that set it back.
State = tuple[Callable[[Env], Any], Callable[[Env, Any], Any]]

# The successor of what ends the episode.
END = -1

# Steps of the walk that is made before all else.
PROBED = 200

# States of real numbers, after which there should have been steps to known ones: so many to each.
TRIED, FEW_MET = 200, 0.05

# Rewards that differ by less, relatively, are equal: the same sum may have been rounded otherwise.
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a step led to: the state's number or END, its reward and terms `[T]`."""

    successor: int
    reward: float
    terms: FloatArray


# Copies ------------------------------------------------------------------------------------------


class Keeper(ABC):
    """Keeps where an environment is, and returns to it any number of times."""

    @abstractmethod
    def keep(self, env: Env) -> Any:
        """Return what is needed to go back to where the environment is."""

    @abstractmethod
    def back(self, kept: Any) -> Env:
        """Return an environment that is there again; one returned before may be gone."""


class Pickled(Keeper):
    """Copies by pickle, several times as fast as `copy.deepcopy`."""

    def keep(self, env: Env) -> bytes:
        """Return the environment as bytes."""
        return pickle.dumps(env, protocol=pickle.HIGHEST_PROTOCOL)

    def back(self, kept: bytes) -> Env:
        """Return a copy."""
        # Bytes that this process has made itself: they come from no file.
        return pickle.loads(kept)  # nosec B301


class Copied(Keeper):
    """Copies by `copy.deepcopy`, which also takes functions without a name."""

    def keep(self, env: Env) -> Env:
        """Return a copy."""
        return copy.deepcopy(env)

    def back(self, kept: Env) -> Env:
        """Return a copy."""
        return copy.deepcopy(kept)


class Restored(Keeper):
    """One environment, whose state is read and written by functions of the user's."""

    def __init__(self, env: Env, state: State) -> None:
        """Bind the environment."""
        self._env, (self._get, self._set) = env, state

    def keep(self, env: Env) -> Any:
        """Return the state."""
        return copy.deepcopy(self._get(env))

    def back(self, kept: Any) -> Env:
        """Return the environment in that state."""
        self._set(self._env, copy.deepcopy(kept))
        return self._env


def keeper(env: Env, state: State | None, name: str) -> Keeper:
    """Return what copies an environment that has been reset.

    Raises:
        ValueError: If copies cannot be made, or are not where the original is.
    """
    if state is not None:
        return Restored(env, state)
    hint = "give `state`, two functions that read and write where it is"
    if not goes_on(env):
        raise ValueError(f"copies of {name} begin a new episode; {hint}")
    reasons = []
    kinds: tuple[Keeper, ...] = Pickled(), Copied()
    for kind in kinds:
        try:
            made = kind.back(kind.keep(env))
        except Exception as error:  # of whatever cannot be copied
            reasons.append(f"{type(error).__name__}: {first_line(error)}")
            continue
        if type(made) is type(env) and [n for n, _ in attributes(made)] == [
            n for n, _ in attributes(env)
        ]:
            return kind
        reasons.append("the copy has other attributes")
    raise ValueError(f"{name} cannot be copied ({reasons[-1]}); {hint}")


def reseed(env: Env, *seed: int) -> None:
    """Give an environment a generator of its own."""
    env.unwrapped.np_random = np.random.default_rng(seed)


def drawn(env: Env) -> Any:
    """Return where the environment's generator is; it is elsewhere once a number was drawn."""
    return env.unwrapped.np_random.bit_generator.state


# A walk before long work -------------------------------------------------------------------------


class DrawsError(ValueError):
    """Steps draw random numbers, and nobody has said how often to step."""

    def __init__(self, name: str) -> None:
        """Say what to do about it."""
        super().__init__(
            f"steps of {name} draw random numbers: give `samples`, how often to step from each "
            "state with each action, such as 1000; the table then has errors, which it states"
        )


@dataclass(frozen=True)
class Probed:
    """What a random walk has shown: attributes that count steps, and whether steps draw numbers."""

    clocks: tuple[str, ...]
    draws: bool


def probe(env: Env, seed: int) -> Probed:
    """Walk at random from the first state, and look."""
    rng, actions = np.random.default_rng(0), _actions(env)
    clocks: set[str] | None = None
    draws, over = False, True
    for action in rng.choice(actions, PROBED).tolist():
        if over:
            env.reset(seed=seed)
        before, generator = dict(attributes(env)), drawn(env)
        over = env.step(action)[2]
        counted = clocks_of(before, dict(attributes(env)))
        clocks = counted if clocks is None else clocks & counted
        draws = draws or drawn(env) != generator
    return Probed(tuple(sorted(clocks or ())), draws)


def _actions(env: Env) -> range:
    """Return all actions of an environment, which are discrete."""
    space: Any = env.action_space
    return range(int(space.start), int(space.start + space.n))


# Breadth first -----------------------------------------------------------------------------------


class Enumeration:
    """States in the order in which they were found, and the outcomes of their actions.

    Attributes:
        digests: Number of each state by its digest.
        seen: What each state's observation holds, by parts.
        rows: For each state and action, its outcomes with their counts.
        previous: The state and the action that led to each state first; (END, END) for first ones.
    """

    def __init__(
        self,
        env: Env,
        keeper: Keeper,
        *,
        key: Key | None,
        clocks: Sequence[str],
        recorder: RecordTerms | None,
        samples: int,
        max_states: int,
        name: str,
    ) -> None:
        """Begin with no state; see `tabulate` for the arguments."""
        self.digests: dict[str, int] = {}
        self.seen: list[dict[str, NDArray[Any]]] = []
        self.rows: list[list[dict[tuple[int, float], tuple[int, FloatArray]]]] = []
        self.previous: list[tuple[int, int]] = []
        self._env, self._keeper, self._recorder = env, keeper, recorder
        self._key, self._clocks, self._name = key, clocks, name
        self._samples, self._most = samples, max_states
        self._actions = _actions(env)
        space = env.observation_space
        # Whether states may be real numbers, and how many steps have led to a state known before.
        self._real = key is None and isinstance(space, gym.spaces.Box) and space.dtype != np.uint8
        self._met = 0
        self._kept: list[Kept | None] = []
        self._first: Any = None
        # States reached once more before their outcomes were known, and those compared already.
        self._again: dict[int, Kept] = {}
        self._compared: set[int] = set()

    def begin(self, seed: int) -> int:
        """Reset the environment, and return the number of its first state."""
        observation, _ = self._env.reset(seed=seed)
        return self._number(self._env, observation, (END, END))

    def run(self) -> None:
        """Find all states that can be reached from those known.

        Raises:
            ValueError: If there are too many states, or a key stands for states with different
                outcomes.
        """
        state = 0
        while state < len(self._kept):
            tell(self._so_far)
            kept = self._kept[state]
            assert kept is not None
            self.rows.append([self._outcomes(state, kept, a) for a in range(len(self._actions))])
            self._kept[state] = None  # it is not needed any more
            if state in self._again:
                self._compare(state, self._again.pop(state))
            state += 1
            if state == TRIED and self._real and self._met < FEW_MET * state:
                raise ValueError(
                    f"{self._name} seems to have no end of states, as real numbers have none: "
                    f"from {state} of them steps led to {len(self._kept)}; `discretize` puts a "
                    "grid over them, and `key` may tell which ones count as one"
                )

    def _so_far(self) -> str:
        found, done = len(self._kept), len(self.rows)
        return f"{found} states of {self._name} found, {found - done} still to be stepped from"

    def played(self, steps: int, seeds: Sequence[int]) -> None:
        """Walk at random in the environment, and compare each step with the table.

        Raises:
            ValueError: If a step has another outcome.
        """
        rng = np.random.default_rng(0)
        env, over, state = self._env, True, END
        observation: Any = None
        for _ in range(steps):
            tell(lambda: f"{self._name}: {steps} random steps are compared with the table")
            if over:
                observation, _ = env.reset(seed=int(rng.choice(seeds)))
                state = self._known(env)
            action = int(rng.integers(len(self._actions)))
            found, observation, over = self._step(env, observation, action)
            self._same(state, action, found)
            state = found.successor

    def _outcomes(
        self, state: int, kept: Kept, action: int
    ) -> dict[tuple[int, float], tuple[int, FloatArray]]:
        """Return the outcomes of an action by successor and reward, with counts and terms."""
        found: dict[tuple[int, float], tuple[int, FloatArray]] = {}
        for sample in range(max(1, self._samples)):
            env = self._keeper.back(kept[0])
            if self._samples:
                reseed(env, state, action, sample)
            generator = drawn(env)
            outcome, _, _ = self._step(env, kept[1], action, (state, action))
            if not self._samples and drawn(env) != generator:
                raise DrawsError(self._name)
            entry = outcome.successor, outcome.reward
            count, terms = found.get(entry, (0, np.zeros_like(outcome.terms)))
            found[entry] = count + 1, terms + outcome.terms
            if self._samples and sample == 0 and drawn(env) == generator:
                break  # nothing was drawn: there is one outcome
        return found

    def _step(
        self, env: Env, observation: Any, action: int, path: tuple[int, int] | None = None
    ) -> tuple[Outcome, Any, bool]:
        """Make a step; return its outcome, the observation, and whether the episode ended.

        With a `path` a state that is not known yet becomes known.
        """
        move = self._actions[action]
        terms = np.empty(0)
        if self._recorder is None:
            following, reward, terminated, _, _ = env.step(move)
        else:
            following, reward, terminated, _, info = self._recorder.follow(env, observation).step(
                move
            )
            terms = info["terms"]
        amount = np.asarray(reward, np.float64)
        if amount.size != 1 or not np.isfinite(amount).all():
            raise ValueError(
                f"rewards of {self._name} must be finite numbers, got {reward}; give `reward`"
            )
        successor = END
        if not terminated and path is not None:
            successor = self._number(env, following, path)
        elif not terminated:
            successor = self._known(env)
        return Outcome(successor, amount.item(), terms), following, bool(terminated)

    def _known(self, env: Env) -> int:
        """Return the number of a state that must be known."""
        digest = fingerprint(env, self._key, self._clocks)
        if digest not in self.digests:
            raise ValueError(
                f"a step in {self._name} led to a state that was not found before: what the key "
                "leaves out, or a generator other than np_random, decides what follows; give `key`"
            )
        return self.digests[digest]

    def _number(self, env: Env, observation: Any, path: tuple[int, int]) -> int:
        """Return the number of a state, known or new; one that was reached twice is compared."""
        digest = fingerprint(env, self._key, self._clocks)
        number = self.digests.setdefault(digest, len(self._kept))
        if number == len(self._kept):
            if number >= self._most:
                raise ValueError(
                    f"{self._name} has more states than `max_states` = {self._most}; give more, "
                    f"or a `key` that leaves out what makes no difference{self._moved(env)}"
                )
            kept = self._keeper.keep(env)
            if number == 0:
                self._first = kept
            self._kept.append((kept, copy.deepcopy(observation)))
            self.seen.append(leaves(observation))
            self.previous.append(path)
            return number
        self._met += 1
        if number in self._compared:
            return number
        self._compared.add(number)
        self._check_seen(number, observation)
        if not self._samples:
            again = self._keeper.keep(env), copy.deepcopy(observation)
            if number < len(self.rows):
                self._compare(number, again)
            else:
                self._again[number] = again
        return number

    def _moved(self, env: Env) -> str:
        """Return what is not as in the first state, for a message."""
        if self._key is not None:
            return ""
        here = self._keeper.keep(env)
        names = differing(self._keeper.back(self._first), self._keeper.back(here))
        names = [name for name in names if name not in self._clocks]
        return f" (what has changed is {', '.join(names)})" if names else ""

    def _compare(self, state: int, again: Kept) -> None:
        """Compare the outcomes of a state that was reached in another way with those known."""
        for action in range(len(self._actions)):
            env = self._keeper.back(again[0])
            found, _, _ = self._step(env, again[1], action)
            self._same(state, action, found)

    def _check_seen(self, state: int, observation: Any) -> None:
        """Raise a `ValueError` unless a state shows what it has shown before."""
        seen = leaves(observation)
        for part, value in self.seen[state].items():
            real = value.dtype.kind == "f"
            if part not in seen or not np.array_equal(value, seen[part], equal_nan=real):
                raise ValueError(
                    f"state {state} of {self._name} shows two different observations"
                    f"{f' in {part!r}' if part else ''}: its key leaves out what they depend on, "
                    "such as time; give `key`"
                )

    def _same(self, state: int, action: int, found: Outcome) -> None:
        """Raise a `ValueError` unless an outcome is the known one."""
        ((successor, reward), (_, terms)), *_ = self.rows[state][action].items()
        where = f"in state {state} of {self._name}, action {action}"
        if found.successor != successor:
            ends = [
                "the end of the episode" if s == END else f"state {s}"
                for s in (successor, found.successor)
            ]
            raise ValueError(
                f"one key has two outcomes: {where} leads to {ends[0]} and to {ends[1]}. What the "
                "key leaves out, such as time, or a generator other than np_random decides; give "
                "`key`"
            )
        scale = ROUNDING * max(1.0, abs(reward))
        if abs(found.reward - reward) > scale:
            raise ValueError(
                f"one key has two rewards: {where} gives {reward} and {found.reward}. The reward "
                "depends on what the key leaves out, such as time; give `reward`, another one, or "
                "`key`"
            )
        if not np.allclose(found.terms, terms, rtol=ROUNDING, atol=ROUNDING):
            raise ValueError(
                f"one key has two values of terms: {where} gives {terms} and {found.terms}. They "
                "depend on what the key leaves out, such as time; give other `terms`, or `key`"
            )


def leaves(observation: Any, name: str = "") -> dict[str, NDArray[Any]]:
    """Return the arrays that an observation holds, of any shape, by "part/part".

    One without parts is "".
    """
    parts: Sequence[tuple[Any, Any]] = ()
    if isinstance(observation, dict):
        parts = list(observation.items())
    elif isinstance(observation, tuple):
        parts = list(enumerate(observation))
    if not parts:
        return {name: np.array(observation)}
    found: dict[str, NDArray[Any]] = {}
    for part, value in parts:
        found |= leaves(value, f"{name}/{part}" if name else str(part))
    return found
