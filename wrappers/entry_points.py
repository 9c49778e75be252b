"""What the ids of both seats make: the entry points that tasks are registered with.

The options of an id are those of the game and of the seat, told apart by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import TimeLimit

from ..core.checks import accepted_options, received, unknown_name
from ..envs.base import BilevelEnv
from ..methods.registry import NamesMethods, methods_that_take, resolve_method
from .copies import check_no_picture
from .hyper_gradient import HyperGradient
from .leader_vector import LeaderVectorEnv
from .lower_level import LowerLevel
from .lower_level_vector import LowerLevelVectorEnv
from .seats import Seat, plain

__all__ = [
    "bare_game",
    "creator_of",
    "follower",
    "follower_copies",
    "game_parameters",
    "leader",
    "leader_copies",
    "told_apart",
]


class Refused(TypeError):
    """A `TypeError` in one line: Gymnasium adds all arguments, arrays too, to those of creators."""

    def __init__(self, message: str) -> None:
        """Leave out what Gymnasium has added."""
        super().__init__(message.partition(" was raised from the environment creator")[0])


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise Refused(str(error)) from error


@_in_one_line()
def leader(*, game: Any, **options: Any) -> HyperGradient:
    """Make a game in the leader's seat.

    Args:
        game: Class of the game or function that makes it, or "module:name".
        **options: Arguments of the game, and of `HyperGradient` with the options of the method.

    Raises:
        TypeError: If neither game nor seat takes an option, or both do.
    """
    made, seat_options = _game(game, options, HyperGradient)
    return HyperGradient(made, **seat_options)


@_in_one_line()
def follower(*, game: Any, **options: Any) -> LowerLevel:
    """Make a game in the follower's seat; see `leader`. The options are those of `LowerLevel`."""
    made, seat_options = _game(game, options, LowerLevel)
    return LowerLevel(made, **seat_options)


# Games draw their own window; `gymnasium.make` reads here which modes there are.
leader.metadata = follower.metadata = BilevelEnv.metadata  # type: ignore[attr-defined]


@_in_one_line()
def leader_copies(num_envs: int, *, game: Any, **options: Any) -> LeaderVectorEnv:
    """Make copies of a tabular game in the leader's seat; see `leader` and `LeaderVectorEnv`."""
    if "max_episode_steps" in options:
        raise TypeError(
            "copies of the leader's seat have `outer_steps` for the length of an episode, got "
            f"max_episode_steps={received(options['max_episode_steps'])}"
        )
    check_no_picture(LeaderVectorEnv, options)
    arrays = accepted_options(LeaderVectorEnv)
    made, rest = _game(game, options, HyperGradient, arrays)
    for name in rest:
        if name not in arrays and name != "method" and rest.get("method") in (None, "exact"):
            raise TypeError(
                f"`LeaderVectorEnv` takes no `{name}`; a seat of each copy does: "
                'gymnasium.make_vec(id, num_envs, vectorization_mode="sync", ...)'
            )
    return LeaderVectorEnv(made, num_envs, **rest)


@_in_one_line()
def follower_copies(num_envs: int, *, game: Any, **options: Any) -> LowerLevelVectorEnv:
    """Make copies of a tabular game in the follower's seat; see `LowerLevelVectorEnv`."""
    check_no_picture(LowerLevelVectorEnv, options)
    limit = options.pop("max_episode_steps", None)
    made, rest = _game(game, options, LowerLevel, accepted_options(LowerLevelVectorEnv))
    limited: gym.Env[Any, Any] = made if limit is None else TimeLimit(made, limit)
    return LowerLevelVectorEnv(limited, num_envs, **rest)


def bare_game(env_id: str, **options: Any) -> gym.Env[Any, Any]:
    """Make the game of an id without a seat, whose default method may need what is not there."""
    spec = gym.spec(env_id)
    if "game" not in spec.kwargs:
        return gym.make(env_id, **options)
    made = _made(**{**spec.kwargs, **options})
    made.unwrapped.spec = replace(spec, kwargs={**spec.kwargs, **options})
    return made


def creator_of(env_id: str) -> Any:
    """Return the class, or the function, that makes the game of an id."""
    spec = gym.spec(env_id)
    creator = spec.kwargs.get("game", spec.entry_point)
    return load_env_creator(creator) if isinstance(creator, str) else creator


def _made(*, game: Any, **options: Any) -> gym.Env[Any, Any]:
    creator: Any = load_env_creator(game) if isinstance(game, str) else game
    made: gym.Env[Any, Any] = creator(**options)
    if isinstance(made.unwrapped, BilevelEnv):
        # The render mode stands in the spec of whatever is made.
        made.unwrapped.made_with = {"game": game, **plain(options)}
        made.unwrapped.made_with.pop("render_mode", None)
    return made


def _game(
    game: Any, options: Mapping[str, Any], seat: type[Seat[Any]], others: Iterable[str] = ()
) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
    """Return a game made from its own options, and the options that are left."""
    creator = load_env_creator(game) if isinstance(game, str) else game
    own, rest = told_apart(creator, options, seat, others)
    return _made(game=game, **own), rest


def told_apart(
    creator: Any, options: Mapping[str, Any], seat: type[Seat[Any]], others: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options that are the game's, and those that are the seat's or among `others`.

    Raises:
        ImportError: If a method's module, or something that it needs, is not installed.
        TypeError: If nobody takes an option, or two do.
        ValueError: If the method is unknown.
    """
    of_seat = [name for name in [*accepted_options(seat), *others] if name != "render_mode"]
    what = "the follower's seat"
    if seat is HyperGradient:
        default = creator.default_method if isinstance(creator, NamesMethods) else "exact"
        method = options.get("method")
        method = default if method is None else method
        of_seat += accepted_options(resolve_method(method, creator))
        what = f"the method {method!r}"
    parameters = game_parameters(creator)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, value in options.items():
        if name in of_seat and name in parameters:
            by_hand = f"{seat.__name__}({_name(creator)}(...), {name}=...)"
            raise TypeError(
                f"both {_name(creator)} and {what} take `{name}`: say whose it is by {by_hand}"
            )
        if name not in of_seat and name != "render_mode" and name not in parameters:
            if not takes_all:
                known = [*parameters, *of_seat]
                said = _unknown(name, f"{_name(creator)} or {what}", known, creator, seat)
                # In Python's words too: TorchRL, which tries `frameskip` on every id, reads them.
                raise TypeError(f"{said} (unexpected keyword argument {name!r})")
        (rest if name in of_seat else own)[name] = value
    return own, rest


def _unknown(name: str, owners: str, known: list[str], creator: Any, seat: type[Seat[Any]]) -> str:
    """Return what is said of an option that nobody takes: whose else it is, or the nearest."""
    if seat is HyperGradient and name in accepted_options(LowerLevel):
        said = f"`{name}` is an option of the follower's seat, whose id ends in Follower"
        leaders = '; the leader chooses x by step(x), or reset(options={"upper_params": x})'
        return said + (leaders if name == "upper_params" else "")
    if seat is LowerLevel and name in accepted_options(HyperGradient):
        return f"`{name}` is an option of the leader's seat, and this is the follower's"
    if name == "autoreset_mode":
        return "`autoreset_mode` of single seats goes as vector_kwargs={'autoreset_mode': ...}"
    said = unknown_name(f"option of {owners}:", name, known)
    if name == "seed":
        return f"`seed` is no option of {owners}: whatever is drawn follows from reset(seed=...)"
    others = methods_that_take(name, creator)
    if others:
        methods = ", ".join(map(repr, others))
        whose = "of the leader's seat, with the method" if seat is LowerLevel else "of the method"
        return f"`{name}` is no option of {owners}, but {whose} {methods}"
    return said


def game_parameters(creator: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters of a game's class or function, without `render_mode`."""
    parameters = dict(inspect.signature(creator).parameters)
    parameters.pop("render_mode", None)
    return parameters


def _name(creator: Any) -> str:
    return getattr(creator, "__name__", repr(creator))
