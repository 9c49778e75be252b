"""Parameters of an environment that x sets between episodes: attributes, arguments, entries.

A parameter is named by what it is in the environment without its wrappers:

* `"length"` or `"world.gravity"`, an attribute that is a number;
* `"model.body_mass[torso]"`, `"model.actuator_gear[hip, 0]"`, an entry of an array: indices, or a
  name that MuJoCo's model knows;
* any other name that is an argument of the constructor: the environment is then made anew;
* any name at all, with a function (environment, value) that sets it.

What a constructor has computed from an attribute stays as it was: CartPole's `polemass_length` does
not follow its `length`. A function sets both.

A method `transition_score` of an environment declares how x moves its transitions; see
`bilevel_gym.envs.parameters.DeclaresScore`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from ..core.checks import first_line, received, unknown_name
from ..core.mdp import FloatArray
from ..core.plugins import imported_function
from ..episodes.recorded import Batch
from .learnable import checked_array
from .sources import Source

__all__ = ["DeclaresScore", "EnvParameters", "WithParameters"]

# "path" or "path[entry]".
NAME = re.compile(r"(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\[(?P<entry>[^\[\]]+)\])?")

Env = gym.Env[Any, Any]


@runtime_checkable
class DeclaresScore(Protocol):
    """An environment that knows how its transitions depend on its parameters."""

    def transition_score(
        self, observations: Batch, actions: Batch, next_observations: Batch
    ) -> Mapping[str, FloatArray]:
        """Return dlog P(s'|s, a)/dp of each parameter p by name, `[B]` each, at its present value.

        Observations and actions are in the units of the environment; the first state must not
        depend on p. Parameters that are not named have none.
        """
        ...


@dataclass(frozen=True)
class Parameter:
    """A parameter of an environment, with its bounds.

    Attributes:
        name: What it is called.
        low: Its least value.
        high: Its largest value.
        path: Names of attributes, the last one that of the number or of an array.
        entry: Indices or names of an entry of the array, none of a number.
        argument: Whether it is an argument of the constructor.
        setter: (environment, value) -> None; None where it is set by name.
    """

    name: str
    low: float
    high: float
    path: tuple[str, ...] = ()
    entry: tuple[str, ...] = ()
    argument: bool = False
    setter: Callable[[Any, float], object] | None = None

    def get(self, env: Any) -> Any:
        """Return the value in an environment without wrappers.

        Raises:
            AttributeError: If there is no such attribute.
            LookupError: If there is no such entry.
        """
        found = self.held(env)
        return np.asarray(found)[self._index(env)] if self.entry else found

    def set(self, env: Any, value: float) -> None:
        """Set the value in an environment without wrappers."""
        if self.setter is not None:
            self.setter(env, value)
            return
        if self.entry:
            self.held(env)[self._index(env)] = value
            return
        owner = env
        for name in self.path[:-1]:
            owner = getattr(owner, name)
        setattr(owner, self.path[-1], value)

    def held(self, env: Any) -> Any:
        """Return what the path leads to in an environment: the array of an entry, or the number."""
        found = env
        for name in self.path:
            found = getattr(found, name)
        return found

    def _index(self, env: Any) -> tuple[int, ...]:
        """Return the indices of the entry; a name is looked up in MuJoCo's model."""
        return tuple(
            int(at) if at.lstrip("-").isdigit() else self._named(env, at) for at in self.entry
        )

    def _named(self, env: Any, name: str) -> int:
        kind = self.path[-1].partition("_")[0]
        model: Any = getattr(env, "model", None)
        found = getattr(model, {"jnt": "joint", "dof": "joint"}.get(kind, kind))(name).id
        return int(model.jnt_dofadr[found] if kind == "dof" else found)


class EnvParameters:
    """The parameters that x sets, in the order of its last entries.

    Attributes:
        names: Their names.
        low: Their bounds, `[P]`.
        high: Their bounds, `[P]`.
        start: Their values in the environment as it is, `[P]`; the middle where that is not known.
        scored: Whether it declares how its transitions depend on them.
    """

    def __init__(self, source: Source, given: Mapping[str, Sequence[Any]]) -> None:
        """Find them in an environment.

        Args:
            source: Where the environment comes from.
            given: (low, high) by name, or (low, high, function).

        Raises:
            TypeError: If `given` is no mapping to tuples, or a function is none.
            ValueError: If the environment does not have a parameter, it is no number, or its value
                is not within its bounds.
        """
        if not isinstance(given, Mapping) or not given:
            raise TypeError(
                "`env_params` must be a dict of (low, high) by the name of a parameter of the "
                f"environment, got {received(given)}"
            )
        self._source = source
        made = source.make()
        try:
            known = source.arguments().items()
            arguments = {n: value for n, value in known if value is None or _is_number(value)}
            self._all = [_parameter(n, spec, made, arguments) for n, spec in given.items()]
            start = np.array([_value(each, made, arguments) for each in self._all])
            self._check_arrays(made)
            self.scored = isinstance(made.unwrapped, DeclaresScore)
        finally:
            made.close()
        self.names = tuple(each.name for each in self._all)
        self.low = np.array([each.low for each in self._all])
        self.high = np.array([each.high for each in self._all])
        self.start = np.where(np.isnan(start), (self.low + self.high) / 2.0, start)
        self._scorer: WithParameters | None = None
        for each, value in zip(self._all, self.start, strict=True):
            if not each.low <= value <= each.high:
                raise ValueError(
                    f"`env_params` must have bounds around what {source.name} has, {value:g} of "
                    f"{each.name!r}, got ({each.low:g}, {each.high:g})"
                )

    def _check_arrays(self, made: Env) -> None:
        """Raise a `ValueError` where an entry would be rounded, or set in others as well."""
        entries = [each for each in self._all if each.entry]
        other = self._source.make() if entries else made
        try:
            for each in entries:
                array, twin = each.held(made.unwrapped), each.held(other.unwrapped)
                what = f"`env_params` cannot set {each.name!r} of {_title(made)}:"
                if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                    kind = getattr(array, "dtype", type(array).__name__)
                    raise ValueError(f"{what} it must be in an array of floats, got {kind}")
                if not array.flags.writeable:
                    raise ValueError(f"{what} its array is read-only; give a function")
                if np.shares_memory(array, twin):
                    raise ValueError(
                        f"{what} all environments share its array; give a function, or an "
                        "environment that has one of its own"
                    )
        finally:
            if other is not made:
                other.close()

    def make(self, render_mode: str | None, values: FloatArray) -> Env:
        """Return a fresh environment whose arguments have their values among `[P]`."""
        pairs = zip(self._all, values.tolist(), strict=True)
        return self._source.make(
            render_mode, {each.name: value for each, value in pairs if each.argument}
        )

    def set(self, env: Any, values: FloatArray) -> None:
        """Set the others in an environment without wrappers."""
        for each, value in zip(self._all, values.tolist(), strict=True):
            if not each.argument:
                each.set(env, value)
        if any("model" in each.path for each in self._all) and hasattr(env, "data"):
            _derive(env)

    @property
    def count(self) -> int:
        """P."""
        return len(self._all)

    def scores(
        self, values: FloatArray, observations: Batch, actions: Batch, next_observations: Batch
    ) -> FloatArray:
        """Return dlog P(s'|s, a)/dp of each at their values `[P]`, `[B, P]`; see `DeclaresScore`.

        Raises:
            TypeError: If the environment does not declare them all.
            ValueError: If they are of another shape, or not finite.
        """
        if self._scorer is None:
            self._scorer = WithParameters(self)
        self._scorer.set_parameters(values)
        self._scorer.enter()
        raw, found = self._scorer.unwrapped, {}
        if isinstance(raw, DeclaresScore):
            found = dict(raw.transition_score(observations, actions, next_observations))
        missing = [name for name in self.names if name not in found]
        if missing:
            raise TypeError(
                f"`score` needs to know how likely transitions become with {', '.join(missing)}, "
                f'and {self._source.name} declares no `transition_score` of it; take "zero-order"'
            )
        shape, what = (len(observations),), f"`transition_score` of {self._source.name} for"
        columns = [checked_array(f"{what} {n!r}", found[n], shape, "[B]") for n in self.names]
        return np.stack(columns, axis=1)

    def same_arguments(self, one: FloatArray, other: FloatArray) -> bool:
        """Whether two of their values, `[P]`, have the same arguments."""
        return all(
            a == b for each, a, b in zip(self._all, one, other, strict=True) if each.argument
        )


class WithParameters(gym.Wrapper[Any, Any, Any, Any]):
    """An environment whose parameters are set where an episode begins.

    Copies have the same values.
    """

    def __init__(self, parameters: EnvParameters, render_mode: str | None = None) -> None:
        """Make an environment of the values that they start at."""
        values = parameters.start
        super().__init__(parameters.make(render_mode, values))
        self._parameters, self._mode = parameters, render_mode
        self._values, self._wanted = values, values
        parameters.set(self.unwrapped, values)

    def set_parameters(self, values: FloatArray) -> bool:
        """Set the values of the episodes that begin from now on, `[P]`; return if they change."""
        before, self._wanted = self._wanted, np.array(values, dtype=np.float64)
        return not np.array_equal(before, self._wanted)

    def enter(self) -> None:
        """Take on the values wanted; random numbers go on."""
        old, new = self._values, self._wanted
        if np.array_equal(old, new):
            return
        if not self._parameters.same_arguments(old, new):
            generator = self.unwrapped.np_random
            self.env.close()
            self.env = self._parameters.make(self._mode, new)
            self.unwrapped.np_random = generator
        self._parameters.set(self.unwrapped, new)
        self._values = new

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; see `gymnasium.Env.reset`."""
        self.enter()
        return self.env.reset(**options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the values once more: simulators in C are copied by making new ones."""
        self.__dict__.update(state)
        self._parameters.set(self.unwrapped, self._values)


def _parameter(name: str, spec: Any, made: Env, arguments: Mapping[str, Any]) -> Parameter:
    """Return a parameter as it was given."""
    if not isinstance(spec, Sequence) or isinstance(spec, str) or len(spec) not in (2, 3):
        raise TypeError(
            f"`env_params` must have (low, high) for {name!r}, or (low, high, function), got "
            f"{received(spec)}"
        )
    low, high = spec[:2]
    numbers = all(isinstance(end, Real) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not -np.inf < low < high < np.inf:
        raise ValueError(
            f"`env_params` must have finite bounds low < high for {name!r}, got {received(spec)}"
        )
    bounds: dict[str, Any] = {"name": name, "low": float(low), "high": float(high)}
    if len(spec) == 3:
        return Parameter(**bounds, setter=imported_function(f"env_params[{name!r}]", spec[2]))
    parts = NAME.fullmatch(name) if isinstance(name, str) else None
    if parts is not None:
        entry = tuple(at.strip() for at in (parts["entry"] or "").split(",") if at.strip())
        found = Parameter(**bounds, path=tuple(parts["path"].split(".")), entry=entry)
        try:
            value = found.get(made.unwrapped)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            if entry and hasattr(made.unwrapped, found.path[0]):
                raise ValueError(
                    f"{_title(made)} has no parameter {name!r} of `env_params`: {first_line(error)}"
                ) from error
        else:
            if _is_number(value):
                return found
            if name not in arguments:
                raise ValueError(
                    f"`env_params` are numbers, and {name!r} of {_title(made)} is "
                    f"{received(value)}; name an entry, {name}[0] for example"
                )
    if name in arguments:
        return Parameter(**bounds, argument=True)
    own = {n for n, v in vars(made.unwrapped).items() if _is_number(v) and not n.startswith("_")}
    kind = f"parameter of {_title(made)} in `env_params`:"
    raise ValueError(unknown_name(kind, name, {*own, *arguments}))


def _value(parameter: Parameter, made: Env, arguments: Mapping[str, Any]) -> float:
    """Return what a parameter is in an environment, NaN where that is not known."""
    if parameter.setter is not None:
        return np.nan
    if not parameter.argument:
        return float(parameter.get(made.unwrapped))
    value = arguments[parameter.name]
    return np.nan if value is None else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)


def _title(env: Env) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__


def _derive(env: Any) -> None:
    """Compute what MuJoCo's model derives from masses, lengths and so on, and keep the state."""
    import mujoco

    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    state = np.empty(mujoco.mj_stateSize(env.model, kind))
    mujoco.mj_getState(env.model, env.data, state, kind)
    mujoco.mj_setConst(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, state, kind)
    mujoco.mj_forward(env.model, env.data)
