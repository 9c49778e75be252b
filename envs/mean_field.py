"""Games whose followers are a crowd: the episode of one of them, in the equilibrium of all.

The mathematics is `bilevel_gym.model.MeanFieldModel`, which a `MeanFieldEnv` has; the tasks are in
`congestion` and `market_entry`.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from ..core.checks import received
from ..episodes.transitions import TransitionTables
from ..methods import METHODS
from ..model.base import evaluate
from ..model.mean_field import MeanFieldModel
from ..model.responses import CrowdResponse, ExactCrowdResponse, Response
from .base import BilevelEnv, View, upper_box

__all__ = ["MeanFieldEnv"]


class MeanFieldEnv(BilevelEnv):
    """A game with finitely many states and actions, whose followers are many.

    `MeanFieldEnv(model)` makes a game of a model. The follower's seat is that of one of them: all
    others are in equilibrium at x, and what one does makes no difference to them. So an episode is
    an ordinary one, with rewards (and a kernel) that x and the equilibrium fix.

    Observation: the follower's state, `Discrete(S)`. The leader observes the crowd, `Box [K]`: the
    discounted share of followers in each group, or where there is no discount the expected visits.

    Attributes:
        model: The bilevel problem.
        num_states: S.
        num_actions: A.
        action_mask: Which actions exist, bool `[S, A]`; None when all do.
    """

    kind = (
        "a game whose followers are a crowd: what one of them is seen to do says nothing of how "
        "the others answer x"
    )
    methods = {name: METHODS[name] for name in ("exact", "direct", "zero-order", "annealed")}
    undiscounted = True

    def __init__(self, model: MeanFieldModel, *, render_mode: str | None = None) -> None:
        """Make a game of a model.

        Args:
            model: The bilevel problem.
            render_mode: None, "human" or "rgb_array".
        """
        self.model = model
        self.num_states, self.num_actions = model.num_states, model.num_actions
        most = np.inf if model.gamma == 1.0 else 1.0
        super().__init__(
            upper_space=upper_box(model.low, model.high, model.low.shape),
            lower_space=spaces.Discrete(self.num_actions),
            observation_space=spaces.Discrete(self.num_states),
            leader_observation_space=spaces.Box(0.0, most, (model.num_groups,), np.float32),
            gamma=model.gamma,
            temperature=model.temperature,
            initial_upper_params=model.initial_upper_params,
            render_mode=render_mode,
        )
        self.action_mask = model.action_mask
        self._state: int | None = None
        self._start = np.cumsum(model.initial_distribution)
        self._start /= self._start[-1]
        # Made for the x in force when they are first needed.
        self._tables: TransitionTables | None = None

    def evaluate(self, upper_params: ArrayLike, **options: Any) -> ExactCrowdResponse:
        """Return the exact answer to x; `MeanFieldModel.respond` has the options."""
        return evaluate(self.model, upper_params, **options)

    def equilibria(self, upper_params: ArrayLike, **options: Any) -> list[ExactCrowdResponse]:
        """Return the different equilibria found; see `MeanFieldModel.equilibria`."""
        return self.model.equilibria(upper_params, **options)

    def observe(self, response: Response) -> NDArray[np.float32]:
        """Return the crowd, float32 `[K]`.

        Raises:
            TypeError: If the response has none.
        """
        if not isinstance(response, CrowdResponse):
            raise TypeError(
                "`response` must be a CrowdResponse, as `bilevel_gym.model.evaluate` returns one, "
                f"got {type(response).__name__}"
            )
        most = np.inf if self.gamma == 1.0 else 1.0
        return np.clip(response.crowd, 0.0, most).astype(np.float32)

    def begin(self) -> tuple[int, dict[str, Any]]:
        """Draw the first state; the info has `action_mask` where actions vary."""
        uniform = self.np_random.random()
        self._state = int(np.searchsorted(self._start, uniform, side="right"))
        self._over = False
        return self._state, self._state_info()

    def advance(
        self, upper_params: ArrayLike, action: Any
    ) -> tuple[int, float, bool, bool, dict[str, Any]]:
        """Make one transition of the follower under x; see `BilevelEnv.advance`."""
        self._check_under_way()
        try:
            index = operator.index(action)
        except TypeError:
            index = -1
        if not 0 <= index < self.num_actions:
            raise ValueError(
                f"the follower's action must be an integer in 0..{self.num_actions - 1}, got "
                f"{received(action)}"
            )
        x = self.commit(upper_params)
        if self._tables is None:
            crowd = self._equilibrium().crowd
            self._tables = TransitionTables(
                self.model.member_mdp(x, crowd), self.model.checked_upper_reward(x, crowd)
            )
        assert self._state is not None
        uniform = self.np_random.random()
        found = self._tables.sample(self._state, index, uniform)
        self._state, self._over, reward, upper_reward = found
        self._count(reward, upper_reward)
        info = {"upper_reward": np.float64(upper_reward), **self._state_info()}
        return self._state, reward, self._over, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions exist in the follower's state, bool `[A]`."""
        if self.action_mask is None or self._state is None:
            return np.ones(self.num_actions, dtype=bool)
        return self.action_mask[self._state].copy()

    def view(self) -> View:
        """Return the follower's episode over the equilibrium at the leader's x."""
        self._equilibrium()
        return View(
            title=self.headline("follower"),
            upper_params=self._upper_params,
            response=self._answer,
            state=self._state,
            status=self._status(self._state is not None),
        )

    def _equilibrium(self) -> ExactCrowdResponse:
        """Return the equilibrium at the x in force."""
        if self._answer is None:
            self._answer = self.evaluate(self._upper_params)
        answer: ExactCrowdResponse = self._answer
        return answer

    def _forget(self) -> None:
        self._tables = None

    def _state_info(self) -> dict[str, Any]:
        if self.action_mask is None:
            return {}
        return {"action_mask": self.action_mask[self._state].astype(np.int8)}
