"""x in the kernel and in the start, for methods that see only episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from bilevel_gym import HyperGradient
from bilevel_gym.core.adjoint import response_gradient
from bilevel_gym.core.mdp import FloatArray, Kernel
from bilevel_gym.core.soft import PolicyAnswer, solve_soft_mdp
from bilevel_gym.envs import TabularBilevelEnv
from bilevel_gym.envs.markov_game import BilevelMarkovGame
from bilevel_gym.envs.tax_design import BilevelTaxDesign
from bilevel_gym.methods import make_method
from bilevel_gym.methods.moved import moved_response, seen_direct_part
from bilevel_gym.model import ArrayModel
from bilevel_gym.model.jacobians import softmax, softmax_vjp
from bilevel_gym.model.objectives import (
    DiscountedReturn,
    LogLikelihood,
    PolicyCost,
    QuadraticCost,
    Sum,
    TruncatedReturn,
)
from bilevel_gym.testing import LogDerivativeError, check_hyper_gradient, check_log_derivatives

from .benchmarks.estimators import cosine
from .helpers import HOUSEHOLDS, refusals
from .models import numeric_gradient, relative_error
from .small_games import START, Moved, assert_unbiased, judged_game

pytestmark = pytest.mark.kernels

RETURN = Sum((DiscountedReturn(0.7), QuadraticCost(0.1)))


class MovedByLogs(Moved):
    """The game `Moved` by an author who thinks in log-probabilities."""

    kernel_vjp = ArrayModel.kernel_vjp
    start_distribution_vjp = ArrayModel.start_distribution_vjp
    wrong: ClassVar[dict[str, Any]] = {}

    def log_kernel_vjp(
        self,
        upper_params: FloatArray,
        states: NDArray[Any],
        actions: NDArray[Any],
        next_states: NDArray[Any],
        ended: NDArray[Any],
        cotangent: FloatArray,
    ) -> FloatArray:
        stored = self.initial_kernel.triplets
        slopes = np.zeros((2, 3, 2, 4))
        slopes[:, stored[0], stored[1], stored[2]] = self._directions()
        slopes[..., 3] = -slopes.sum(axis=3)
        chance = np.zeros((3, 2, 4))
        chance[..., :3] = self.kernel(upper_params).to_dense()
        chance[..., 3] = 1.0 - chance.sum(axis=2)
        at = states, actions, np.where(ended, 3, next_states)
        logs = slopes[(slice(None), *at)] / chance[at]
        return self.wrong.get("log_kernel_vjp", np.append(logs @ cotangent, [0.0, 0.0]))

    def log_start_vjp(
        self, upper_params: FloatArray, states: NDArray[Any], cotangent: FloatArray
    ) -> FloatArray:
        logs = (self.moving_start / self.start_distribution(upper_params))[states]
        product = np.zeros(4)
        product[2] = logs @ cotangent
        return self.wrong.get("log_start_vjp", product)


class HiddenMoved(MovedByLogs):
    """The same game, whose kernel and start are seen by its sampler and by its author alone."""

    inside = 0

    def _within(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.inside += 1
        try:
            return call(*arguments)
        finally:
            self.inside -= 1

    def _check(self) -> None:
        assert self.inside, "the model was read outside the sampler"

    def sampler(self, *arguments: Any) -> Any:
        return self._within(super().sampler, *arguments)

    def log_kernel_vjp(self, *arguments: Any) -> Any:
        return self._within(super().log_kernel_vjp, *arguments)

    def log_start_vjp(self, *arguments: Any) -> Any:
        return self._within(super().log_start_vjp, *arguments)

    def kernel(self, upper_params: FloatArray) -> Kernel:
        self._check()
        return super().kernel(upper_params)

    def start_distribution(self, upper_params: FloatArray) -> FloatArray:
        self._check()
        return super().start_distribution(upper_params)


def moved_game(kind: type[ArrayModel] = Moved, objective: Any = RETURN) -> TabularBilevelEnv:
    """Return a random game whose x moves rewards, kernel, ends of episodes and the start."""
    return judged_game(kind=kind, objective=objective)


def off_centre(game: TabularBilevelEnv, by: float, seed: int = 1) -> FloatArray:
    """Return an x near the initial one."""
    x = game.initial_upper_params
    return game.model.validate(x + by * np.random.default_rng(seed).normal(size=x.shape))


GAMES: dict[str, tuple[Callable[[], TabularBilevelEnv], float]] = {
    "markov game": (BilevelMarkovGame, 0.3),
    "markov game, endless": (lambda: BilevelMarkovGame(horizon=None), 0.3),
    "taxes": (lambda: BilevelTaxDesign(**HOUSEHOLDS), 0.05),
    "random": (moved_game, 0.05),
    "random, many terms": (
        lambda: moved_game(
            objective=Sum(
                (
                    DiscountedReturn(0.7),
                    TruncatedReturn(5, gamma=1.0),
                    PolicyCost(0.2),
                    LogLikelihood(np.array([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])),
                    QuadraticCost(0.1),
                )
            )
        ),
        0.05,
    ),
}


class TestLogDerivatives:
    """What a model says of log P and log rho."""

    @pytest.mark.parametrize("kind", [Moved, MovedByLogs])
    def test_they_are_those_of_log_probabilities(self, kind: type[ArrayModel]) -> None:
        model, rng = moved_game(kind).model, np.random.default_rng(0)
        states, actions, following = np.indices((3, 2, 4)).reshape(3, -1)
        possible = (following < 3) | (states == 2)  # episodes end in state 2 alone
        seen = [np.tile(part[possible], 2) for part in (states, actions, following)]  # each twice
        ended = seen[2] == 3
        cotangent = rng.normal(size=len(ended))

        def logs(x: FloatArray) -> float:
            dense = model.kernel(x).to_dense()
            whole = np.concatenate([dense, 1.0 - dense.sum(axis=2, keepdims=True)], axis=2)
            return float(cotangent @ np.log(whole[tuple(seen)]))

        x = model.initial_upper_params
        hidden = np.where(ended, -1, seen[2])  # it is not looked at
        product = model.log_kernel_vjp(x, seen[0], seen[1], hidden, ended, cotangent)
        assert relative_error(product, numeric_gradient(logs, x, 1e-4)) <= 1e-8

        places, weights = np.array([2, 0, 1, 0]), rng.normal(size=4)
        product = model.log_start_vjp(x, places, weights)
        slope = numeric_gradient(
            lambda x: float(weights @ np.log(model.start_distribution(x)[places])), x, 1e-4
        )
        assert relative_error(product, slope) <= 1e-8

    def test_actions_that_share_a_move_share_its_derivative(self) -> None:
        game = BilevelTaxDesign(**HOUSEHOLDS)
        model, x = game.model, off_centre(game, 0.05)
        rng = np.random.default_rng(0)
        states = rng.integers(25, size=40)
        actions, near = rng.integers(game.num_actions, size=40), rng.integers(-2, 3, size=40)
        following = np.clip(states + near, 0, 24)
        cotangent, ended = rng.normal(size=40), np.zeros(40, bool)

        def logs(x: FloatArray) -> float:
            dense = model.kernel(x).to_dense()
            return float(cotangent @ np.log(dense[states, actions, following]))

        product = model.log_kernel_vjp(x, states, actions, following, ended, cotangent)
        assert relative_error(product, numeric_gradient(logs, x, 1e-4)) <= 1e-6

    def test_either_kind_of_product_is_made_the_other(self) -> None:
        known, logs = (moved_game(kind) for kind in (Moved, MovedByLogs))
        assert logs.model.moves_kernel and logs.model.moves_start
        for by in (0.0, 0.05):
            x = off_centre(known, by)
            one, other = known.evaluate(x), logs.evaluate(x)
            assert relative_error(other.hyper_gradient, one.hyper_gradient) <= 1e-13
            assert relative_error(other.direct_gradient, one.direct_gradient) <= 1e-13

    def test_moves_have_the_derivatives_of_an_action_that_makes_them(self) -> None:
        class Shared(MovedByLogs):
            def kernel(self, upper_params: FloatArray) -> Kernel:
                return super().kernel(upper_params).with_moves([0, 1])

        plain, shared = moved_game(MovedByLogs), moved_game(Shared)
        x = plain.initial_upper_params
        found = shared.evaluate(x).hyper_gradient
        assert relative_error(found, plain.evaluate(x).hyper_gradient) <= 1e-13

    def test_a_model_whose_x_moves_nothing_has_none(self) -> None:
        model = moved_game(ArrayModel).model
        assert not model.moves_kernel and not model.moves_start
        none, ended, one = np.zeros(1, int), np.zeros(1, bool), np.ones(1)
        x = model.initial_upper_params
        assert not model.log_kernel_vjp(x, none, none, none, ended, one).any()
        assert not model.log_start_vjp(x, none, one).any()

    def test_a_game_passes_them_on(self) -> None:
        game = moved_game(MovedByLogs)
        x, state, one = game.initial_upper_params, np.array([2]), np.ones(1)
        seen = state, np.array([1]), np.array([-1]), np.array([True]), one
        np.testing.assert_array_equal(
            game.log_kernel_vjp(x, *seen), game.model.log_kernel_vjp(x, *seen)
        )
        np.testing.assert_array_equal(
            game.log_start_vjp(x, state, one), game.model.log_start_vjp(x, state, one)
        )

    def test_a_task_may_define_them(self) -> None:
        class Task(BilevelMarkovGame):
            """A game whose task says the logarithms, too."""

            asked = 0

            def log_kernel_vjp(self, upper_params: FloatArray, *seen: Any) -> FloatArray:
                Task.asked += 1
                return super().log_kernel_vjp(upper_params, *seen)

        method = make_method("trace", Task(), episodes=4, error_bars=False)
        method.step(off_centre(Task(), 0.3))
        assert Task.asked == 2  # for the direct part, and for the response


def log_product(model: Any, state: int, action: int, following: int, ended: bool) -> FloatArray:
    """Return d log P/dx of one transition."""
    seen = (np.array([part]) for part in (state, action, following, ended))
    product: FloatArray = model.log_kernel_vjp(model.initial_upper_params, *seen, np.ones(1))
    return product


class Wrong(MovedByLogs):
    """A game whose author returns what should not be returned."""


def wrong_step(**wrong: Any) -> None:
    Wrong.wrong = wrong
    make_method("trace", moved_game(Wrong), episodes=8).step(np.zeros(4))


test_impossible_transitions_are_named = refusals(
    lambda **seen: log_product(moved_game().model, **seen),
    (
        {"state": 1, "action": 0, "following": -1, "ended": True},
        "probability 0 for the transition from state 1 with action 0 to the end of the episode",
    ),
)
test_wrong_logs_are_named = refusals(
    wrong_step,
    ({"log_kernel_vjp": np.zeros(3)}, r"`log_kernel_vjp` .* shape of x = \(4,\), got \(3,\)"),
    ({"log_kernel_vjp": [0.0, np.nan, 0.0, 0.0]}, r"`log_kernel_vjp` .* finite, got nan at \[1\]"),
    ({"log_start_vjp": np.zeros((4, 1))}, r"`log_start_vjp` .* shape of x = \(4,\), got \(4, 1\)"),
    ({"log_start_vjp": np.full(4, np.inf)}, r"`log_start_vjp` must be finite, got inf at \[0\]"),
)


def test_states_where_no_episode_begins_have_no_log_derivative() -> None:
    model = BilevelMarkovGame().model
    with pytest.raises(ValueError, match="probability 0 for first state 4"):
        model.log_start_vjp(model.initial_upper_params, np.array([0, 4]), np.ones(2))
    with pytest.raises(ValueError, match="state 0 with action 1 to state 5"):
        log_product(model, 0, 1, 5, ended=False)


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("by", [0.0, 1.0])
def test_frequencies_that_are_the_probabilities_give_the_exact_gradient(
    name: str, by: float
) -> None:
    make, reach = GAMES[name]
    game = make()
    model, x = game.model, off_centre(game, by * reach)
    exact = game.evaluate(x)
    kernel = model.kernel(x).expanded()
    seen = kernel.matrix.data > 0.0
    counts = np.round(kernel.matrix.data[seen] * 1e15)  # as good as the rounding of ends
    states, actions, following = (part[seen] for part in kernel.triplets)
    frequencies = Kernel.from_triplets(
        states,
        actions,
        following,
        np.minimum(counts / 1e15, 1.0),
        num_states=kernel.num_states,
        num_actions=kernel.num_actions,
    )
    mdp = model.mdp_with(frequencies, x)
    outcome = model.outcome(x, PolicyAnswer(mdp=mdp, policy=exact.policy))
    upper = model.objective.evaluate(outcome)
    signed = response_gradient(
        solve_soft_mdp(model.lower_mdp(x)), upper.policy, log_policy_gradient=upper.log_policy
    ).reward
    direct = seen_direct_part(model, x, upper, outcome)
    moved = moved_response(model, x, frequencies, signed, exact.soft_value)
    assert np.linalg.norm(moved) > 1e-2 * np.linalg.norm(exact.hyper_gradient)
    assert relative_error(direct, exact.direct_gradient) <= 1e-10
    total = direct + model.reward_vjp(x, signed) + moved
    assert relative_error(total, exact.hyper_gradient) <= 1e-10


# What episodes tell in seconds: a game with a shorter view, and estimates of a few per cent.
QUICK: dict[str, tuple[Callable[[], TabularBilevelEnv], float]] = {
    "markov game": (lambda: BilevelMarkovGame(gamma=0.9, horizon=20), 0.3),
    "markov game, endless": (lambda: BilevelMarkovGame(gamma=0.9, horizon=None), 0.3),
    "taxes": GAMES["taxes"],
    "random": GAMES["random"],
}


class TestEstimates:
    """What methods that see only episodes make of it."""

    @pytest.mark.parametrize("name", QUICK)
    @pytest.mark.parametrize(
        ("method", "options"),
        [
            ("plug-in", {}),
            ("trace", {}),
            ("bc-hg", {}),
            ("hpgd", {}),
            ("sobirl", {"episodes": 2048}),
        ],
    )
    def test_they_are_right_in_the_mean(
        self, name: str, method: str, options: dict[str, Any]
    ) -> None:
        make, reach = QUICK[name]
        game = make()
        x = off_centre(game, reach)
        exact = game.evaluate(x)
        # It has 5400 pairs of a state and an action, few of which are seen often.
        rare = name == "taxes"
        learner = make_method(method, game, **{"episodes": 2048 if rare else 1024, **options})
        learner.reset(np.random.default_rng(12))
        found = [learner.step(x) for _ in range(20)]
        whole, direct = (
            np.stack([getattr(response, part) for response in found])
            for part in ("hyper_gradient", "direct_gradient")
        )
        assert_unbiased(direct, exact.direct_gradient, precision=0.05, bias=0.01)
        assert_unbiased(whole, exact.hyper_gradient, precision=0.1, bias=0.02)

    @pytest.mark.parametrize("method", ["plug-in", "trace"])
    @pytest.mark.parametrize(("name", "least"), [("taxes", 0.93), ("random", 0.97)])
    def test_few_episodes_tell_the_direction(self, name: str, least: float, method: str) -> None:
        make, reach = QUICK[name]
        game = make()
        x = off_centre(game, reach)
        exact = game.evaluate(x).hyper_gradient
        learner = make_method(method, game, episodes=256)
        found: list[Any] = [learner.step(x).hyper_gradient for _ in range(20)]
        assert np.mean([cosine(gradient, exact) for gradient in found]) >= least

    @pytest.mark.parametrize("kind", [Moved, ArrayModel])
    def test_what_was_seen_under_another_x_is_of_another_kernel(
        self, kind: type[ArrayModel]
    ) -> None:
        game = moved_game(kind)
        learner: Any = make_method("trace", game, episodes=16, inner="certainty-equivalence")
        samples = [learner.step(off_centre(game, 0.05, seed)).samples for seed in (1, 2)]
        halves = sum(half.visits.sum() for half in learner._halves)
        # The follower counts what it plays, and what it is watched at.
        counted = learner._learner._counts.visits.sum()
        moved = kind is Moved
        assert counted == (samples[1] if moved else sum(samples))
        assert halves == learner._critic.counts.visits.sum()

    @pytest.mark.parametrize(
        "method", ["plug-in", "trace", "bc-hg", "hpgd", "sobirl", "stoc-sobirl"]
    )
    def test_nothing_but_the_logarithms_is_asked_of_the_model(self, method: str) -> None:
        game = moved_game(HiddenMoved)
        inner = {"inner_options": {"episodes": 8}} if method != "stoc-sobirl" else {}
        learner = make_method(method, game, episodes=8, inner="certainty-equivalence", **inner)
        for seed in (1, 2):
            response = learner.step(off_centre(game, 0.05, seed))
            assert np.isfinite(response.hyper_gradient).all()  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match="outside the sampler"):
            game.model.kernel(game.initial_upper_params)

    def test_a_leader_who_judges_fragments_needs_an_x_in_the_rewards(self) -> None:
        with pytest.raises(TypeError, match="x moves the kernel of Moved.*fragments.*'exact'"):
            make_method("sobirl", judged_game(kind=Moved))


class OffByAThousandth(MovedByLogs):
    """An author who made a mistake in one entry."""

    where = "log_kernel_vjp"

    def log_kernel_vjp(self, *arguments: Any) -> Any:
        product = super().log_kernel_vjp(*arguments)
        product[1] *= 1.0 + 1e-3 * (self.where == "log_kernel_vjp")
        return product

    def log_start_vjp(self, *arguments: Any) -> Any:
        product = super().log_start_vjp(*arguments)
        product[2] *= 1.0 + 1e-3 * (self.where == "log_start_vjp")
        return product


class Claims(BilevelMarkovGame):
    """A task that claims a derivative of what cannot happen."""

    of_start = False

    def log_kernel_vjp(self, upper_params: FloatArray, *seen: Any) -> FloatArray:
        if self.of_start:
            return super().log_kernel_vjp(upper_params, *seen)
        strategy = softmax(upper_params).ravel()
        arrivals = np.zeros(6)
        np.add.at(arrivals, seen[2], seen[4] / strategy[seen[2]])
        return softmax_vjp(softmax(upper_params), arrivals.reshape(3, 2))

    def log_start_vjp(self, upper_params: FloatArray, *seen: Any) -> FloatArray:
        strategy = softmax(upper_params).ravel()
        first = np.zeros(6)
        np.add.at(first, seen[0], seen[1] / strategy[seen[0]])
        return softmax_vjp(softmax(upper_params), first.reshape(3, 2))


class ClaimsOfStart(Claims):
    """The same of a first state."""

    of_start = True


class TestTheCheck:
    """`check_log_derivatives`, and `check_hyper_gradient` with it."""

    @pytest.mark.parametrize(
        "make", [moved_game, lambda: moved_game(MovedByLogs), GAMES["taxes"][0], BilevelMarkovGame]
    )
    def test_right_ones_pass(self, make: Callable[[], TabularBilevelEnv]) -> None:
        game = make()
        check_log_derivatives(game.model)
        check_log_derivatives(game.model, off_centre(game, 0.05), seed=1)
        check_hyper_gradient(HyperGradient(game), min_response_share=0.0)

    @pytest.mark.parametrize(("name", "entry"), [("log_kernel_vjp", 1), ("log_start_vjp", 2)])
    def test_a_mistake_of_a_thousandth_is_named(self, name: str, entry: int) -> None:
        game = moved_game(OffByAThousandth)
        game.model.where = name  # type: ignore[attr-defined]
        for check in (
            lambda: check_log_derivatives(game.model),
            lambda: check_hyper_gradient(HyperGradient(game)),
        ):
            with pytest.raises(LogDerivativeError, match=rf"`{name}` must be .* at \[{entry}\]"):
                check()

    def test_what_cannot_happen_has_no_derivative(self) -> None:
        said = "`log_kernel_vjp` must be zero where the probability is, got .* from state . with"
        with pytest.raises(LogDerivativeError, match=said):
            check_log_derivatives(Claims().model)
        said = "`log_start_vjp` must be zero where the probability is, got .* for first state [2-5]"
        with pytest.raises(LogDerivativeError, match=said):
            check_log_derivatives(ClaimsOfStart().model)

    def test_a_narrow_box_has_short_steps(self) -> None:
        model = moved_game(MovedByLogs).model
        model.low, model.high = START - 1e-4, START + 1e-4
        check_log_derivatives(model)
        check_log_derivatives(moved_game(ArrayModel).model)  # nothing to compare
