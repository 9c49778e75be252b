"""Films of runs: the follower's episodes, and pictures that stay for a while."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arguments import CommandError

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..rendering import Film
    from ..wrappers import HyperGradient


Picture = NDArray[np.uint8]

# Pictures of the follower's episode, and frames that each of them lasts.
EPISODE_PICTURES, EPISODE_FRAMES = 24, 4

# The same where the follower learns, whose episodes are longer.
LEARNT_PICTURES, LEARNT_FRAMES = 40, 2


def check_picture(what: str, env_id: str, env: HyperGradient) -> None:
    """Raise a `CommandError` unless a game has a picture."""
    from ..envs.base import BilevelEnv

    if type(env.game).draw is BilevelEnv.draw:
        raise CommandError(f"{what} needs a task with a picture, and {env_id} has none")


def film_episode(env: HyperGradient, x: FloatArray, film: Film, seed: int) -> list[Picture]:
    """Film the beginning of an episode of the follower under x; return the pictures.

    Of a follower who learns it is most of the episode, not every step of it. Nothing is filmed
    where there is no policy to draw actions from.
    """
    from ..methods import GaussianResponse, TabularResponse
    from ..model.responses import EpisodicResponse
    from ..wrappers import LowerLevel

    if not np.array_equal(env.response.upper_params, x):
        env.step(x)
    answer: Any = env.response
    game: Any = env.game
    learner: Any = env.method
    if isinstance(answer, TabularResponse | GaussianResponse):
        every, frames, pictures = 1, EPISODE_FRAMES, EPISODE_PICTURES
        draw: Any = answer.draw_action
    elif isinstance(answer, EpisodicResponse):
        frames, pictures = LEARNT_FRAMES, LEARNT_PICTURES
        every = max(1, game.episode_steps // pictures)

        def draw(state: Any, rng: np.random.Generator) -> Any:
            return learner.follower.draw(np.asarray(state)[None], rng)[0]

    else:
        return []
    follower: Any = LowerLevel(env, x)
    rng = np.random.default_rng(seed)
    state, _ = follower.reset(seed=seed)

    def picture() -> Picture:
        view = game.view()
        if isinstance(answer, EpisodicResponse):  # whoever sees it play is to know how able it is
            learnt = ("follower has learnt for", f"{learner.follower.model.num_timesteps:,} steps")
            view = replace(view, status=(*view.status, learnt))
        return hold(film, game.show(view), frames)

    shown = [picture()]
    for step in range(1, every * pictures + 1):
        state, _, terminated, truncated, _ = follower.step(draw(state, rng))
        if step % every == 0:
            shown.append(picture())
        if terminated or truncated:
            break
    return shown


def hold(film: Film, picture: Picture, frames: int) -> Picture:
    """Film a picture for some frames, which take the room of one; return it."""
    film.add(picture, frames)
    return picture
