"""What methods need of games, and what may be asked of methods, as Protocols."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..core.mdp import FloatArray
from ..core.progress import Progress
from ..episodes.recorded import Batch, LearntEpisodes
from .judges import Judge
from .responses import Response

__all__ = [
    "Follower",
    "LearntGame",
    "LearntMethod",
    "PreferenceGame",
    "Resumable",
    "Revisable",
    "StepsTogether",
    "Tells",
]


class LearntGame(Protocol):
    """A game whose follower learns: environments to act in, and rewards of batches.

    Batches are of B steps: `observations` `[B, ...]` and `actions` `[B, ...]`, in the shapes and
    units of the follower's spaces. Environments and spaces are those of Gymnasium.

    Rewards may also read terms, numbers that only the environment knows when a step is made, such
    as a reading of its simulator. With `term_names`, each step's `info["terms"]` has them, `[K]`;
    `reward`, `reward_vjp` and `reward_jacobian` then take those of a batch, `[B, K]`, as an
    argument `terms`.

    Attributes:
        title: Name of the game, for messages and files.
        observation_space: What the follower observes: a `Box` or `Discrete`.
        lower_space: The follower's actions: a finite `Box` or `Discrete`.
        upper_space: x, a finite `Box`.
        initial_upper_params: The x to start from.
        gamma: The follower's discount, in [0, 1).
        temperature: The weight of the entropy of its policy, positive.
        upper_gamma: The leader's discount, in [0, 1].
        episode_steps: Steps after which an episode is cut.
        term_names: Names of the terms, K of them; none where rewards read none.
        moves_dynamics: Whether x changes the environment; `configure` then sets it up.
    """

    observation_space: Any
    lower_space: Any
    upper_space: Any
    initial_upper_params: FloatArray
    upper_gamma: float
    episode_steps: int
    term_names: tuple[str, ...]
    moves_dynamics: bool

    # Games do not let these be set.
    @property
    def title(self) -> str: ...  # noqa: D102

    @property
    def gamma(self) -> float: ...  # noqa: D102

    @property
    def temperature(self) -> float: ...  # noqa: D102

    def make_environment(self) -> Any:
        """Return a fresh environment of the follower; its rewards go to `upper_reward`."""
        ...

    def configure(self, environment: Any, upper_params: FloatArray) -> bool:
        """Make the episodes of an environment that begin from now on those of x.

        It is called where x moves the dynamics, and returns whether they are others than before.
        """
        ...

    def transition_score(
        self,
        upper_params: FloatArray,
        observations: Batch,
        actions: Batch,
        next_observations: Batch,
    ) -> FloatArray:
        """Return dlog P(s'|s, a)/dx for each entry of a batch, `[B, D]`, zero where x is elsewhere.

        It is called where x moves the dynamics.

        Raises:
            TypeError: If it is not known.
        """
        ...

    def reward(self, upper_params: FloatArray, observations: Batch, actions: Batch) -> FloatArray:
        """Return the follower's reward r_x for each entry of a batch, `[B]`."""
        ...

    def reward_vjp(
        self, upper_params: FloatArray, observations: Batch, actions: Batch, weights: FloatArray
    ) -> FloatArray:
        """Return sum_b weights(b) dr_x(s_b, a_b)/dx, shape of x; `weights` is `[B]`."""
        ...

    def reward_jacobian(
        self, upper_params: FloatArray, observations: Batch, actions: Batch
    ) -> FloatArray:
        """Return dr_x/dx for each entry of a batch, `[B, D]`; it is asked for where D is small."""
        ...

    def upper_reward(self, observations: Batch, actions: Batch, rewards: FloatArray) -> FloatArray:
        """Return the leader's reward for each entry of a batch, `[B]`.

        Args:
            observations: `[B, ...]`.
            actions: `[B, ...]`.
            rewards: The environment's own rewards, `[B]`.
        """
        ...

    def direct_part(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray]:
        """Return F less the leader's return, and dF/dx at a fixed policy, shape of x.

        Args:
            upper_params: x.
            played: Episodes of the follower's policy under x.
        """
        ...


class PreferenceGame(LearntGame, Protocol):
    """A game whose leader learns r_x from preferences between fragments of episodes.

    Attributes:
        fragment_steps: H, the steps of a fragment.
        judge: Who compares fragments.
        entropy_offset: What `reward` is below r_x in each step; 0 unless entropy is relative.
    """

    fragment_steps: int
    judge: Judge

    @property
    def entropy_offset(self) -> float: ...  # noqa: D102


class Follower(Protocol):
    """A follower who learns, and plays episodes.

    Attributes:
        model: The algorithm that it learns by.
        answered: How many x it has learnt under since it was last reset.
    """

    model: Any
    answered: int

    def play(
        self,
        upper_params: FloatArray,
        episodes: int,
        rng: np.random.Generator,
        *,
        keep: bool = False,
        steps: int = 0,
        wanted: int = 0,
        most: int | None = None,
        seed: int | None = None,
    ) -> LearntEpisodes:
        """Return whole episodes of its policy; with `keep` they are learnt from later on.

        With `most` there are more than `episodes`, as many as take about so many `steps`, or twice
        as many until there are as many as are `wanted`.
        Environments are seeded by `seed`, or by the generator, which draws the actions.
        """
        ...

    def spectator(self) -> Follower:
        """Return one who shares what is learnt, with environments of its own to play in."""
        ...

    def snapshot(self) -> NDArray[Any]:
        """Return its policy, without what it learns from, as bytes."""
        ...

    def restore(self, snapshot: NDArray[Any]) -> None:
        """Go back to a policy of `snapshot`, as often as wanted."""
        ...


@runtime_checkable
class LearntMethod(Protocol):
    """What a method whose follower learns has beside `bilevel_gym.model.responses.Method`.

    Attributes:
        follower: The follower.
    """

    follower: Follower

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save all that was learnt."""
        ...

    def load(self, path: str | os.PathLike[str], *, trust: bool = False) -> None:
        """Go on where the method that was saved is; `trust` is whether code in the file may run."""
        ...


@runtime_checkable
class Tells(Protocol):
    """A method that says how far it is with an answer, where that takes long.

    Attributes:
        progress: What it calls; None for nobody.
    """

    progress: Progress | None


@runtime_checkable
class Revisable(Protocol):
    """What a method may have beside `bilevel_gym.model.responses.Method`, to be climbed on safely.

    Its responses have the fields of `bilevel_gym.model.responses.EpisodicResponse`.
    """

    def measure(self, upper_params: FloatArray) -> Response:
        """Let the follower answer x more briefly, without a hyper-gradient."""
        ...

    def watch(self, upper_params: FloatArray) -> Response:
        """Return what fresh episodes of the follower as it is say of x, nothing being learnt."""
        ...


@runtime_checkable
class StepsTogether(Protocol):
    """What a method may have beside `bilevel_gym.model.responses.Method`: answers to many x."""

    def step_together(self, upper_params: Sequence[FloatArray]) -> Sequence[Response]:
        """Return the answers to several x, in less time than one after the other."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """What a method may have beside `bilevel_gym.model.responses.Method`, to be gone on with.

    Its generator is not part of the state: it belongs to the seat.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return what it goes on from, as nested dicts and lists of numbers and arrays."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` has returned."""
        ...
