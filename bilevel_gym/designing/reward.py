"""From an environment to the best weights of terms of a reward, in one call."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.checks import check_at_least, check_flag, received
from ..core.files import check_regular, claim, loaded_versions
from ..core.plain import readable
from ..core.threads import one_torch_thread
from .results import Design
from .run import CONFIG, LOCK, Progress, Run, write_json

if TYPE_CHECKING:
    from ..envs.sources import EnvLike
    from ..envs.terms import Objective, Terms
    from ..wrappers import HyperGradient as Seat

__all__ = ["MOST_BYTES", "design_reward"]

# Steps of uniform actions that terms are measured in, at most, and one of how many of all steps.
MEASURED, MEASURED_PART = 500, 10

# Steps of learning under the first x, and under each later one, where there are enough of them, and
# as which part of all steps at most.
FIRST_STEPS, FIRST_PART, STEPS, STEPS_PART = 3000, 6, 1000, 20

# Numbers of a run depend on their versions.
LIBRARIES = ("bilevel_gym", "gymnasium", "numpy", "torch", "stable_baselines3", "mujoco")

# The most bytes of a configuration.
MOST_BYTES = 1 << 20


def design_reward(
    env: EnvLike,
    terms: Terms,
    *,
    objective: Objective | None = None,
    steps: int = 50_000,
    seed: int = 0,
    own_reward: bool = True,
    constant: bool = True,
    start: Mapping[str, float] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    episode_steps: int | None = None,
    gamma: float = 0.95,
    temperature: float = 0.05,
    method: str | None = None,
    method_options: Mapping[str, Any] | None = None,
    against_direct: bool = False,
    held_out: int = 30,
    folder: str | Path | None = None,
    trust: bool = False,
    progress: bool | Progress = True,
) -> Design:
    """Find the weights of terms of a reward with which a follower reaches an objective best.

    A follower learns by the reward sum_i weight_i term_i; a leader changes the weights, and keeps
    those under which the follower then does most for the objective. So terms may reward what leads
    there long before anything is reached. The climb is `bilevel_gym.optimizers.safe`.

    Ctrl-C ends it early, with the best so far. With a `folder` the same call goes on later from
    where it was interrupted or killed. Nothing in the folder is run when it is read.

    Args:
        env: The environment: its id or "module:Id"; a function that makes a new one each time, or
            "module:function"; or one to copy. Observations and actions are `Box` or `Discrete`.
        terms: A function (observation, action, next_observation, info) -> {name: number}, or
            "module:function"; or names of entries of `info`, and "reward[i]" for components of a
            reward that is an array.
        objective: What is wanted, summed over an episode: a function of the same arguments that
            returns a number, "module:function", or such a name; None for the environment's reward.
        steps: Environment steps in all: measuring, learning, watching, comparing. There must be
            enough to learn and to watch some episodes under the first weights.
        seed: Seed of everything random.
        own_reward: Whether the environment's reward is one more term, "own_reward".
        constant: Whether there is one more, "constant", that is -1 in each step.
        start: Weights to start from, by name; 0 for those that are not given.
        env_kwargs: Arguments of the environment.
        episode_steps: Steps after which episodes are cut; None for the environment's own limit.
        gamma: The follower's discount, in [0, 1).
        temperature: The weight of its policy's entropy, positive; terms have a spread of 1.
        method: Name of the method that estimates hyper-gradients; None for the default.
        method_options: Its options, in place of defaults.
        against_direct: Whether to train the same learner on the objective itself, too, for as many
            steps, and to compare.
        held_out: Fresh episodes for each follower that is compared, at least 2. Their steps and
            those of direct training come on top.
        folder: Folder of the run; None to keep nothing.
        trust: Whether a game console's state in the folder is restored; see `load` of the methods.
        progress: Whether to print how far it is, or what is called with the steps so far, all
            steps, and what is going on.

    Raises:
        ImportError: If Stable-Baselines3, or what the environment needs, is not installed.
        TypeError: If an argument is of another type than it may be.
        ValueError: If a value is out of range; `steps` are too few for one evaluation; terms or
            objective are not finite, unknown or change their names; the environment cannot be
            seeded, or no follower can learn in it; or the folder has something else in it, or is in
            use.

    Example:
        >>> import bilevel_gym
        >>> def swing(observation, action, next_observation, info):
        ...     return {"speed": abs(next_observation[1]), "place": next_observation[0]}
        >>> found = bilevel_gym.design_reward(
        ...     "MountainCarContinuous-v0", swing, steps=900, episode_steps=30, progress=False
        ... )
        >>> list(found.weights)
        ['speed', 'place', 'own_reward', 'constant']
        >>> observation, _ = found.game.make_environment().reset(seed=0)
        >>> found.model.predict(observation)[0].shape
        (1,)
    """
    show = _shown(progress)
    steps = check_at_least("steps", steps, 1)
    check_at_least("seed", seed, 0)
    check_at_least("held_out", held_out, 2)
    check_flag("against_direct", against_direct)
    asked = {
        "env": _named(env),
        "terms": _named(terms),
        "objective": _named(objective),
        "steps": steps,
        "seed": seed,
        "own_reward": own_reward,
        "constant": constant,
        "start": dict(start or {}),
        "env_kwargs": dict(env_kwargs or {}),
        "episode_steps": episode_steps,
        "gamma": gamma,
        "temperature": temperature,
        "method": method,
        "method_options": dict(method_options or {}),
    }
    with contextlib.ExitStack() as stack:
        kept: dict[str, Any] = {}
        if folder is not None:
            folder = Path(folder)
            stack.enter_context(_claimed(folder))
            kept = _checked_config(folder, asked)
        show(0, steps, "measuring the terms")  # before PyTorch is loaded, which takes seconds
        from ..envs.simulators import require

        require("design_reward", "sb3", "stable_baselines3", "torch")
        from ..envs.designed import DesignGame
        from ..wrappers import HyperGradient

        game = DesignGame(
            env,
            terms,
            objective=objective,
            own_reward=own_reward,
            constant=constant,
            env_kwargs=env_kwargs,
            episode_steps=episode_steps,
            measured_steps=_measured(steps),
            scales=kept.get("scales"),
            seed=seed,
            gamma=gamma,
            temperature=temperature,
        )
        if kept and kept.get("term_names") != [*game.term_names]:
            raise ValueError(
                f"terms of the run in {folder} are {kept.get('term_names')}, got "
                f"{[*game.term_names]}"
            )
        x = game.of_weights(start or {})
        options = {**_options(steps), **dict(method_options or {})}
        seat = HyperGradient(game, method, **options)
        _check_enough(steps, seat, dict(method_options or {}))
        stack.enter_context(one_torch_thread())
        if folder is not None and not kept:
            names = {"term_names": game.term_names, "scales": game.scales.tolist()}
            write_json(folder / CONFIG, {**asked, **names, "versions": loaded_versions(*LIBRARIES)})
        run = Run(seat, steps, folder, show)
        run.climb(x, seed, trust=trust)
        return run.result(seed, held_out, options if against_direct else None)


def _shown(progress: bool | Progress) -> Progress:
    """Return what shows how far a run is."""
    if callable(progress):
        return progress
    if not check_flag("progress", progress):
        return lambda done, total, text: None
    return lambda done, total, text: print(f"[{done}/{total}] {text}", flush=True)


def _measured(steps: int) -> int:
    """Return in how many of so many steps terms are measured."""
    return min(MEASURED, max(1, steps // MEASURED_PART))


def _check_enough(steps: int, seat: Seat[Any], given: Mapping[str, Any]) -> None:
    """Raise a `ValueError` for steps in which the first weights cannot be evaluated.

    `given` are options of the method that take the place of those that suit the steps. Episodes are
    taken to last as long as in the measurement of the terms.
    """
    from ..learnt.estimators import FEWEST

    game: Any = seat.game
    method: Any = seat.method
    follower = method.follower
    episodes = given.get("episodes", "auto")
    episodes = FEWEST if episodes == "auto" else episodes
    watched = episodes * game.episode_length
    if not math.isfinite(watched):  # nobody knows how long they last
        return

    def needed(steps: int) -> int:
        first = given.get("first_inner_steps", _options(steps)["first_inner_steps"])
        learning = (follower.first_steps if first is None else first) + follower.measured_steps
        return _measured(steps) + learning + math.ceil(watched)

    least = steps
    while needed(least) > least:  # which grows more slowly
        least = needed(least)
    if least > steps:
        raise ValueError(
            f"`steps` must be at least {least} to evaluate the first weights, of which {episodes} "
            f"episodes of about {game.episode_length:.0f} steps are watched, got {steps}; with a "
            "smaller `episode_steps` fewer do"
        )


def _options(steps: int) -> dict[str, Any]:
    """Return options of the method that suit so many steps in all."""
    first = min(FIRST_STEPS, max(1, steps // FIRST_PART))
    return {
        "first_inner_steps": first,
        "inner_steps": min(STEPS, max(1, steps // STEPS_PART)),
        # The replay holds all there is, and no more.
        "inner_options": {
            "buffer_size": 2 * max(steps, 1000),
            "learning_starts": min(100, first // 2),
        },
    }


def _named(value: Any) -> Any:
    """Return how a run's configuration calls an environment, terms or an objective."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return list(map(_named, value))
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Make a folder, and keep other processes from a run in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        if not claim(file):
            raise ValueError(f"the run in {folder} is still going on in another process")
        yield


def _checked_config(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the run in a folder, which must be what is asked; {} for none.

    Raises:
        ValueError: If it is another run, or something else is in the folder.
    """
    path = folder / CONFIG
    if not path.exists():
        others = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK)
        if others:
            raise ValueError(f"`folder` must be empty or of a run, got {folder} with {others[0]!r}")
        return {}
    with readable(path):
        check_regular(path, MOST_BYTES)
        kept = dict(json.loads(path.read_text(encoding="utf-8")))
    for name, value in json.loads(json.dumps(asked, default=repr)).items():
        if kept.get(name) != value:
            raise ValueError(
                f"`{name}` of the run in {folder} is {received(kept.get(name))}, got "
                f"{received(value)}; the same call goes on with it, another one needs another "
                "`folder`"
            )
    return kept
