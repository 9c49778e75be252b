"""Any environment with finitely many states as a table, and so as a game with exact answers.

It stands among the environments, not with the models: it steps Gymnasium's environments, which
models know nothing of, and a task may be made of what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_choice, received
from ..core.mdp import FloatArray, Kernel
from ..core.progress import Progress, told_to
from .enumeration import END, DrawsError, Enumeration, State, keeper, probe
from .fingerprints import BOOKKEEPING, Key, fingerprint
from .sources import EnvLike, Source
from .tabulated import Tabulated
from .terms import CONSTANT, Objective, RecordTerms, Terms

__all__ = ["exposed_model", "tabulate"]

# Where a table may come from.
WAYS = ("auto", "P", "copies")

# Probabilities of one (s, a) may miss 1 by this much.
ROW_SUM_TOLERANCE = 1e-9


def tabulate(
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int | Sequence[int] = 0,
    by: str = "auto",
    key: Key | None = None,
    state: State | None = None,
    terms: Terms | None = None,
    reward: Objective | None = None,
    samples: int | None = None,
    max_states: int = 100_000,
    checked_steps: int = 1000,
    progress: Progress | None = None,
) -> Tabulated:
    """Return an environment as a table of all states that can be reached.

    Its states are found breadth first, by stepping copies of the environment with every action. An
    environment whose steps draw no random numbers gives an exact table. One that shows its model,
    as `P` and `initial_state_distrib`, gives that. Of others each action is sampled, and the
    standard errors of transitions and rewards are attributes of the table; a transition of
    probability p is missing with probability (1 - p)^samples.

    Time is no state: truncation is ignored, and `TimeLimit` with it. Attributes named like
    counters that grow by one in each step (`Tabulated.clocks`) are left out. A reward that depends
    on them, as MiniGrid's does, is refused unless it is replaced by `reward`. To find such
    dependence, each state that is reached in two ways has its outcomes compared, and a random walk
    is compared with the table; what shows in neither is not found.

    Args:
        env: The id of an environment, a function that makes one, "module:function", or one to copy.
        env_kwargs: Arguments of the environment, or of the function.
        seed: Seed of `reset`, which fixes a layout that is drawn there. Of several, the states of
            all are found, and episodes begin in the first one of each with equal probability.
        by: "P" for the model that the environment shows, "copies" to step copies; "auto" takes P
            where it is there, and nothing is given that P does not know.
        key: Function (environment) -> numbers, texts, arrays or tuples of them that tell states
            apart. None for all attributes but generators, spaces, pictures and clocks, or for `s`
            of an environment with `P`.
        state: Functions (environment) -> state and (environment, state) -> None, for environments
            whose copies do not go on where they are.
        terms: Terms of a reward, see `bilevel_gym.envs.terms.RecordTerms`: names of entries of
            `info`, or a function (observation, action, next_observation, info) -> {name: number}.
        reward: Another reward, a function of the same arguments or a name.
        samples: How often to step from each state with each action; None for once, where steps
            draw no random numbers.
        max_states: The most states that the table may have.
        checked_steps: Length of the random walk that is compared with an exact table.
        progress: Called back now and then; `bilevel_gym.core.progress.Lines(print)` prints lines.

    Returns:
        The table; `Tabulated.model` and `Tabulated.game` make a bilevel problem of it.

    Raises:
        ValueError: If an argument is out of range; the environment cannot be copied, has actions
            that are not `Discrete`, states without end or too many, or draws random numbers without
            `samples`; or a key stands for states that differ.
        gymnasium.error.Error: If there is no such environment.
        ImportError: If it needs what is not installed.

    Example:
        >>> from bilevel_gym import tabulate
        >>> table = tabulate("FrozenLake-v1")
        >>> table.num_states, table.num_actions
        (16, 4)
        >>> round(table.game(gamma=0.99, temperature=1e-4).evaluate([0.0] * 16).objective, 6)
        0.542026
    """
    check_choice("by", by, WAYS)
    seeds = [seed] if not isinstance(seed, Sequence) else list(seed)
    seeds = [check_at_least("seed", one, 0) for one in seeds]
    if not seeds:
        raise ValueError("`seed` must be a number or a list of some, got an empty one")
    count = 0 if samples is None else check_at_least("samples", samples, 1)
    check_at_least("max_states", max_states, 1)
    check_at_least("checked_steps", checked_steps, 0)
    source = Source(env, env_kwargs)
    made = _without_bookkeeping(source.make())
    actions = made.action_space
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(
            f"actions of {source.name} must be Discrete, got {actions}; `discretize` makes a table "
            "of continuous ones"
        )
    asked = any(option is not None for option in (key, state, terms, reward, samples))
    if by == "P" and asked:
        raise ValueError(
            '`by` must be "copies" where key, state, terms, reward or samples are given, got "P"'
        )
    if by == "P" and made is not made.unwrapped:
        raise ValueError(
            f'`by` must be "copies" for an environment with wrappers, which `P` does not know, got '
            f'"P" for {made}'
        )
    shows = hasattr(made.unwrapped, "P") and hasattr(made.unwrapped, "initial_state_distrib")
    with told_to(progress):
        if by == "P" or (by == "auto" and shows and not asked and made is made.unwrapped):
            found = _of_model(made.unwrapped, source.name, checked_steps)
            if found.num_states > max_states:
                raise ValueError(
                    f"`P` of {source.name} has {found.num_states} states, more than `max_states` "
                    f"= {max_states}"
                )
            return found
        recorder = None
        if terms is not None or reward is not None:
            recorder = RecordTerms(made, CONSTANT if terms is None else terms, objective=reward)
        return _of_copies(
            made,
            source.name,
            seeds,
            key=key,
            state=state,
            recorder=recorder,
            with_terms=terms is not None,
            samples=count,
            max_states=max_states,
            checked_steps=checked_steps,
        )


def _of_copies(
    env: gym.Env[Any, Any],
    name: str,
    seeds: Sequence[int],
    *,
    key: Key | None,
    state: State | None,
    recorder: RecordTerms | None,
    with_terms: bool,
    samples: int,
    max_states: int,
    checked_steps: int,
) -> Tabulated:
    """Return the table that stepping copies gives."""
    env.reset(seed=seeds[0])
    copies = keeper(env, state, name)
    seen = probe(env, seeds[0])
    if seen.draws and not samples:
        raise DrawsError(name)

    def enumerated(draws: bool) -> tuple[Enumeration, list[int]]:
        found = Enumeration(
            env,
            copies,
            key=key,
            clocks=seen.clocks,
            recorder=recorder,
            samples=samples if draws else 0,
            max_states=max_states,
            name=name,
        )
        start = [found.begin(seed) for seed in seeds]
        found.run()
        return found, start

    exact = not seen.draws
    try:
        found, start = enumerated(draws=seen.draws)
    except DrawsError:  # deeper than the walk that has looked for it
        if not samples:
            raise
        exact = False
        found, start = enumerated(draws=True)
    if exact:
        found.played(checked_steps, seeds)
    size = len(found.rows)
    previous, before = np.array(found.previous, dtype=np.int32).T.copy()
    return Tabulated(
        name=name,
        initial_distribution=np.bincount(start, minlength=size) / len(start),
        observations=_stacked(found.seen, name),
        keys=np.array(list(found.digests)),
        term_names=recorder.names if recorder is not None and with_terms else (),
        clocks=seen.clocks,
        previous=previous if exact else None,
        actions_before=before if exact else None,
        samples=0 if exact else samples,
        **_arrays(found, with_terms, exact),
    )


def _arrays(found: Enumeration, with_terms: bool, exact: bool) -> dict[str, Any]:
    """Return kernel, rewards and terms of the outcomes, and their standard errors."""
    entries = [
        (s, a, successor, count, reward, terms)
        for s, row in enumerate(found.rows)
        for a, outcomes in enumerate(row)
        for (successor, reward), (count, terms) in outcomes.items()
    ]
    shape = len(found.rows), len(found.rows[0])
    s, a, successor, count = np.array([entry[:4] for entry in entries], dtype=np.int64).T
    amounts = np.array([entry[4] for entry in entries])
    sums, total = np.zeros((*shape, len(entries[0][5]))), np.zeros(shape)
    np.add.at(total, (s, a), count)
    np.add.at(sums, (s, a), np.array([entry[5] for entry in entries]))
    reward, square = np.zeros(shape, order="F"), np.zeros(shape)
    share = count / total[s, a]
    np.add.at(reward, (s, a), share * amounts)
    np.add.at(square, (s, a), share * (amounts - reward[s, a]) ** 2)
    going = successor != END
    kernel = Kernel.from_triplets(
        *(part[going] for part in (s, a, successor, share)),
        num_states=shape[0],
        num_actions=shape[1],
    )
    terms = sums / total[..., None] if with_terms else np.empty((*shape, 0))
    table: dict[str, Any] = {"kernel": kernel, "reward": reward, "terms": terms}
    if not exact:
        stored = kernel.matrix.data
        states, moves, _ = kernel.triplets
        table["probability_error"] = np.sqrt(stored * (1.0 - stored) / total[states, moves])
        table["reward_error"] = np.sqrt(square / total)
    return table


def _stacked(seen: Sequence[Mapping[str, NDArray[Any]]], name: str) -> dict[str, NDArray[Any]]:
    """Return the parts of all observations, `[S, ...]` each."""
    try:
        return {part: np.array([one[part] for one in seen]) for part in seen[0]}
    except (KeyError, ValueError):
        raise ValueError(
            f"observations of {name} must have the same parts and shapes in each state"
        ) from None


def _without_bookkeeping(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Return an environment without the layers that keep count."""
    while isinstance(env, BOOKKEEPING):
        env = env.env
    layer = env
    while isinstance(layer, gym.Wrapper):
        while isinstance(layer.env, BOOKKEEPING):
            layer.env = layer.env.env
        layer = layer.env
    return env


# A model that the environment shows --------------------------------------------------------------


def _of_model(env: gym.Env[Any, Any], name: str, checked_steps: int) -> Tabulated:
    """Return the table of `P`, whose states are numbered as the environment's own."""
    kernel, reward = exposed_model(env, name)
    start: Any = np.asarray(env.get_wrapper_attr("initial_state_distrib"), dtype=np.float64)
    _check_steps(env, name, checked_steps)
    return Tabulated(
        name=name,
        kernel=kernel,
        reward=reward,
        initial_distribution=start,
        observations={"": np.arange(kernel.num_states)},
        keys=np.array([_digest(env, state) for state in range(kernel.num_states)]),
        terms=np.empty((*reward.shape, 0)),
    )


def _digest(env: gym.Env[Any, Any], number: int) -> str:
    return fingerprint(env, lambda _: number)


def _check_steps(env: Any, name: str, steps: int) -> None:
    """Raise a `ValueError` if a random walk makes a step that is not in `P`."""
    if getattr(env, "fickle_passenger", False):
        raise ValueError(
            f"`P` of {name} must have the steps that the environment makes, got "
            'fickle_passenger=True, which `P` does not know; give by="copies" and `samples`'
        )
    rng, over = np.random.default_rng(0), True
    state: Any = None
    for _ in range(steps):
        if over:
            state, _ = env.reset(seed=int(rng.integers(2**31)))
        action = int(rng.integers(env.action_space.n))
        successor, reward, over, _, _ = env.step(action)
        entries = exposed_entries(env.P, int(state), action, name)
        if not any(
            p > 0.0 and t == successor and r == reward and bool(done) == bool(over)
            for p, t, r, done in entries
        ):
            raise ValueError(
                f"`P` of {name} must have the steps that the environment makes, got one from "
                f"{state=} with {action=} to {successor} that is not in {received(entries)}"
            )
        state = successor


def exposed_model(env: gym.Env[Any, Any], name: str) -> tuple[Kernel, FloatArray]:
    """Return the kernel of `P` without its ending mass, and the expected reward `[S, A]`.

    Raises:
        ValueError: If there is no `P`, or something else in it.
    """
    table: Any = getattr(env, "P", None)
    if table is None or not hasattr(env, "initial_state_distrib"):
        raise ValueError(
            "`env_id` must name an environment with a model, `P` and `initial_state_distrib`, "
            f"got {received(name)}, which has none"
        )
    sizes = []
    for kind, space in (("observation", env.observation_space), ("action", env.action_space)):
        if not isinstance(space, spaces.Discrete) or space.start != 0:
            raise ValueError(
                f"`env_id` must name an environment whose {kind} space is Discrete and starts at "
                f"0, got {space} of {name!r}"
            )
        sizes.append(int(space.n))
    rows = [
        (state, action, *entry)
        for state, action in np.ndindex(sizes[0], sizes[1])
        for entry in exposed_entries(table, state, action, name)
    ]
    s, a, p, t, r, done = np.array(rows, dtype=np.float64).T
    s, a, t = (index.astype(np.int64) for index in (s, a, t))
    reward, mass = np.zeros(sizes, order="F"), np.zeros(sizes)
    np.add.at(reward, (s, a), p * r)
    np.add.at(mass, (s, a), p)
    for what, wrong in (
        ("finite rewards", ~np.isfinite(reward)),
        ("probabilities that sum to 1", ~(np.abs(mass - 1.0) <= ROW_SUM_TOLERANCE)),
    ):
        if wrong.any():
            state, action = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"`P` of {name!r} must have {what}, got {table[state][action]} in "
                f"{state=}, {action=}"
            )
    going = done == 0.0
    triplets = (part[going] for part in (s, a, t, p))
    return Kernel.from_triplets(*triplets, num_states=sizes[0], num_actions=sizes[1]), reward


def exposed_entries(table: Any, state: int, action: int, name: str) -> Sequence[Any]:
    """Return the transitions of (s, a), each probability, successor, reward, done."""
    try:
        entries: Sequence[Any] = table[state][action]
        if entries and all(len(entry) == 4 for entry in entries):
            return entries
    except (KeyError, IndexError, TypeError):
        pass
    raise ValueError(
        f"`P` of {name!r} must list (probability, successor, reward, done) for every state "
        f"and action, got something else in {state=}, {action=}"
    )
