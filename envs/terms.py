"""Terms of a reward, and the leader's objective, evaluated once a step by the environment itself.

What a term reads may be known only when the step is made: the state of a simulator, an entry of
`info`, a component of a vector reward. So terms are kept with the step, and a reward x . terms can
be computed under any x later on.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ..core.checks import first_line, received, unknown_name
from ..core.plugins import imported_function

__all__ = ["CONSTANT", "OWN_REWARD", "Objective", "RecordTerms", "Terms"]

# The term that is the environment's own reward, and the one that is the same in each step.
OWN_REWARD, CONSTANT = "own_reward", "constant"

# In single precision, as replays keep terms.
LARGEST = float(np.finfo(np.float32).max)

# Those that are components of a vector reward.
COMPONENT = re.compile(r"reward\[(\d+)\]")

# (observation, action, next observation, info) -> numbers by name; or names of entries of `info`.
Terms = Callable[[Any, Any, Any, dict[str, Any]], Mapping[str, float]] | str | Sequence[str]

# The same arguments -> a number; or a name.
Objective = Callable[[Any, Any, Any, dict[str, Any]], float] | str

# What is read of a step: observation, action, next observation, info, the environment's reward.
Step = tuple[Any, Any, Any, dict[str, Any], Any]


class RecordTerms(gym.Wrapper[Any, Any, Any, Any]):
    """Evaluates terms of a reward at each step, for `info["terms"]`; the reward is an objective.

    Terms are told by names, of numeric entries of the environment's `info`, "reward[i]" for a
    component of its reward where that is an array, "own_reward" for the reward itself, "constant"
    for -1 in each step; or by a function (observation, action, next_observation, info) ->
    {name: number}, whose names must always be the same. `info["terms"]` has their values, float64
    `[K]`.

    Example:
        >>> import gymnasium as gym
        >>> def speed(observation, action, next_observation, info):
        ...     return {"speed": abs(next_observation[1]), "effort": -(action[0] ** 2)}
        >>> env = RecordTerms(gym.make("MountainCarContinuous-v0"), speed)
        >>> _ = env.reset(seed=0)
        >>> *_, info = env.step(env.action_space.high)
        >>> env.names, info["terms"].round(4)
        (('speed', 'effort'), array([ 0.0011, -1.    ]))

    Attributes:
        names: Names of the terms, in the order of their values; () before a function was first
            called.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        terms: Terms,
        *,
        objective: Objective | None = None,
        also: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        """Wrap an environment.

        Args:
            env: The environment.
            terms: The terms, names or a function; "module:function" is imported.
            objective: The reward: a function of the same arguments that returns a number, or a
                name; None for the environment's own.
            also: Names of further terms, beside those of a function.
            names: Names that the function is known to return, in the order wanted.

        Raises:
            TypeError: If terms or objective are neither names nor functions.
            ValueError: If there are no terms, or one of them is named twice.
            ImportError: If a module cannot be imported.
        """
        super().__init__(env)
        self._function: Callable[..., Any] | None = None
        named: Sequence[str] = ()
        if callable(terms) or (isinstance(terms, str) and ":" in terms):
            self._function = imported_function("terms", terms)
        else:
            named = _checked_names(terms)
        self._named = (*named, *also)
        self._objective: Any = objective
        if objective is not None and (not isinstance(objective, str) or ":" in objective):
            self._objective = imported_function("objective", objective)
        self.names: tuple[str, ...] = tuple(names)
        if self._function is None:
            self.names = _distinct(self._named)
        self._seen: Any = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        observation, info = self.env.reset(**options)
        self._seen = copy.copy(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Make a step, and evaluate its terms; see `gymnasium.Env.step`.

        Raises:
            TypeError: If a function returns something else than it should.
            ValueError: If a value is not a finite number, a name is unknown, or names have changed.
        """
        following, reward, terminated, truncated, info = self.env.step(action)
        step = self._seen, action, following, info, reward
        terms = self._evaluated(step)
        objective = self._of_leader(step)
        self._seen = copy.copy(following)
        return following, objective, terminated, truncated, {**info, "terms": terms}

    def follow(self, env: gym.Env[Any, Any], observation: Any) -> Self:
        """Go on in another copy of the environment, which has shown an observation last."""
        self.env, self._seen = env, copy.copy(observation)
        return self

    def _evaluated(self, step: Step) -> NDArray[np.float64]:
        """Return the values of all terms, `[K]`."""
        values: dict[str, Any] = {}
        if self._function is not None:
            found = _called("terms", self._function, step)
            if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
                raise TypeError(
                    f"`terms` must return a dict of numbers by name, got {received(found)} "
                    f"{_of(step)}"
                )
            values = dict(found)
            if not self.names:
                self.names = _distinct([*values, *self._named])
            known = self.names[: len(self.names) - len(self._named)]
            if {*values} != {*known}:
                raise ValueError(
                    f"`terms` must return the same names each time, {list(known)} at first, got "
                    f"{list(values)} {_of(step)}"
                )
        for name in self._named:
            values[name] = _entry(name, step)
        return np.array([_number("term", name, values[name], step) for name in self.names])

    def _of_leader(self, step: Step) -> float:
        """Return the leader's reward of a step."""
        objective, reward = self._objective, step[-1]
        if objective is None:
            if np.size(reward) != 1:
                raise ValueError(
                    f"the reward has {np.size(reward)} components: `objective` must say what is "
                    'wanted, such as "reward[0]", an entry of `info` or a function, got None'
                )
            return _number("the environment's", "reward", reward, step)
        if isinstance(objective, str):
            return _number("objective", objective, _entry(objective, step), step)
        return _number("the", "objective", _called("objective", objective, step), step)


def _checked_names(terms: Any) -> tuple[str, ...]:
    """Return names of terms as a tuple; one may be given by itself."""
    names = (terms,) if isinstance(terms, str) else terms
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "`terms` must be a function (observation, action, next_observation, info) -> "
            '{name: number}, "module:function", or names of entries of `info`, got '
            f"{received(terms)}"
        )
    if not names:
        raise ValueError(f"`terms` must name one term at least, got {received(terms)}")
    return tuple(names)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of terms, of which there must be some, none of them twice."""
    if not names:
        raise ValueError("`terms` must return one term at least, got none")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"names of terms must be different, got {twice[0]!r} twice")
    return tuple(names)


def _entry(name: str, step: Step) -> Any:
    """Return what a name stands for in a step.

    Raises:
        ValueError: If nothing in the step has that name.
    """
    info, reward = step[-2:]
    component = COMPONENT.fullmatch(name)
    if name in info:
        return info[name]
    if name == OWN_REWARD:
        return reward
    if name == CONSTANT:
        return -1.0
    if component and int(component[1]) < np.size(reward):
        return np.ravel(reward)[int(component[1])]
    parts = [f"reward[{i}]" for i in range(np.size(reward))] if np.ndim(reward) else [OWN_REWARD]
    known = [entry for entry, value in info.items() if _is_number(value)]
    raise ValueError(
        unknown_name("entry of `info`", name, [*known, *parts])
        + " (a function may use info.get for entries that are not always there)"
    )


def _called(name: str, function: Callable[..., Any], step: Step) -> Any:
    """Return what a function of the user's makes of a step."""
    try:
        return function(*step[:-1])
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"`{name}` raised {reason} {_of(step)}") from error


def _is_number(value: Any) -> bool:
    return np.size(value) == 1 and np.asarray(value).dtype.kind in "biuf"


def _number(kind: str, name: str, value: Any, step: Step) -> float:
    """Return a value as a float; `name` is that of the term."""
    if type(value) is not float:
        if not _is_number(value):
            raise TypeError(f"{kind} {name!r} must be a number, got {received(value)} {_of(step)}")
        value = float(np.asarray(value).item())
    if not abs(value) <= LARGEST:
        raise ValueError(f"{kind} {name!r} must be finite, got {value} {_of(step)}")
    return value


def _of(step: Step) -> str:
    """Return which step it was, for messages."""
    return f"for observation {received(step[0])} and action {received(step[1])}"
