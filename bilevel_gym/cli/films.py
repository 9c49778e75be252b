"""Films of runs: the follower's episodes, and pictures that stay for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gymnasium import Env

    from ..core.mdp import FloatArray
    from ..rendering import Film
    from ..wrappers import HyperGradient

__all__ = ["film_episode", "hold"]

Picture = NDArray[np.uint8]

# Pictures of the follower's episode, and frames that each of them lasts.
EPISODE_PICTURES, EPISODE_FRAMES = 24, 4

# The same where the follower learns, whose episodes are longer.
LEARNT_PICTURES, LEARNT_FRAMES = 40, 2


def film_episode(env: HyperGradient, x: FloatArray, film: Film, seed: int) -> list[Picture]:
    """Film the beginning of an episode of the follower under x, by its own policy.

    Of a follower who learns it is most of the episode, not every step of it. Nothing is filmed
    where there is no policy to draw actions from.

    Returns:
        The pictures, uint8 `[H, W, 3]`.
    """
    from ..wrappers import LowerLevel

    if not np.array_equal(env.response.upper_params, x):
        env.step(x)
    answer: Any = env.response
    learner: Any = getattr(env.method, "follower", None)
    if not hasattr(answer, "draw_action") and learner is None:
        return []
    follower: Any = LowerLevel(env, x)
    rng = np.random.default_rng(seed)
    state, _ = follower.reset(seed=seed)
    every, frames, pictures = 1, EPISODE_FRAMES, EPISODE_PICTURES
    if learner is not None:
        pictures, frames = LEARNT_PICTURES, LEARNT_FRAMES
        every = max(1, follower.game.episode_steps // pictures)
    shown = [hold(film, follower, frames)]
    for step in range(1, every * pictures + 1):
        if learner is None:
            action = answer.draw_action(state, rng)
        else:
            action = learner.draw(np.asarray(state)[None], rng)[0]
        state, _, terminated, truncated, _ = follower.step(action)
        if step % every == 0:
            shown.append(hold(film, follower, frames))
        if terminated or truncated:
            break
    return shown


def hold(film: Film, env: Env[Any, Any], frames: int) -> Picture:
    """Film what an environment shows for some frames, which take the room of one; return it."""
    picture: Any = env.render()
    for _ in range(frames):
        film.add(picture)
    shown: Picture = picture
    return shown
