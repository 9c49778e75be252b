"""Toy-text environments of Gymnasium as bilevel games: model, anchors, pictures, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from scipy.sparse import csr_array

import bilevel_gym  # noqa: F401  (registers the ids)
from bilevel_gym.core.mdp import Kernel
from bilevel_gym.envs import BilevelToyText
from bilevel_gym.optimizers import lbfgsb, normalized_ascent
from bilevel_gym.rendering import draw_grid, frame, grid_layout
from bilevel_gym.testing import check_hyper_gradient
from bilevel_gym.wrappers import exact_objective

NAMES = ("FrozenLake", "CliffWalking", "Taxi")

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("FrozenLake", {}),
    ("FrozenLake", {"map_name": "8x8"}),
    ("FrozenLake", {"is_slippery": False, "desc": ["SFH", "FFG"]}),
    ("CliffWalking", {}),
    ("CliffWalking", {"is_slippery": True}),
    ("Taxi", {}),
    ("Taxi", {"is_rainy": True}),
)
every_variant = pytest.mark.parametrize(("name", "env_kwargs"), VARIANTS)


def newest(name: str) -> str:
    """Return the versioned id that this Gymnasium registers."""
    (found,) = (env_id for env_id in gym.registry if env_id.rpartition("-v")[0] == name)
    return found


def toy(name: str, env_kwargs: dict[str, Any] | None = None, **options: Any) -> BilevelToyText:
    return BilevelToyText(newest(name), env_kwargs=env_kwargs, **options)


# The model --------------------------------------------------------------------------------------


@every_variant
def test_the_model_is_the_environments_own(name: str, env_kwargs: dict[str, Any]) -> None:
    env: Any = gym.make(newest(name), **env_kwargs).unwrapped
    game = toy(name, env_kwargs)
    dense = game.kernel(game.initial_upper_params).to_dense()
    reward = game.upper_reward(game.initial_upper_params)
    for state in range(env.observation_space.n):
        for action in range(env.action_space.n):
            expected, mean = np.zeros(len(dense)), 0.0
            for probability, successor, amount, done in env.P[state][action]:
                expected[successor] += probability * (not done)
                mean += probability * amount
            np.testing.assert_allclose(dense[state, action], expected, rtol=0, atol=1e-15)
            assert reward[state, action] == pytest.approx(mean, abs=1e-15)
    np.testing.assert_array_equal(game.initial_distribution, env.initial_state_distrib)
    # And the environment's own steps are among its transitions.
    state, _ = env.reset(seed=0)
    env.action_space.seed(1)
    for _ in range(300):
        action = env.action_space.sample()
        successor, _, done, _, _ = env.step(action)
        assert dense[state, action].sum() < 1.0 if done else dense[state, action, successor] > 0.0
        state = env.reset()[0] if done else successor


# Anchors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "temperature", "value"),
    [("FrozenLake", 1e-4, 0.542026), ("CliffWalking", 0.01, -12.247898), ("Taxi", 0.01, 6.327464)],
)
def test_at_a_low_temperature_no_shaping_gives_the_published_anchor(
    name: str, temperature: float, value: float
) -> None:
    game = toy(name, gamma=0.99, temperature=temperature)
    assert game.evaluate(game.initial_upper_params).objective == pytest.approx(value, abs=6e-7)
    # And that is the most that any policy earns, by value iteration.
    kernel, reward = game.kernel(game.initial_upper_params), game.upper_reward(np.zeros(0))
    best = np.zeros(kernel.num_states)
    for _ in range(3000):
        best = (reward + 0.99 * kernel.expect(best)).max(axis=1)
    assert game.initial_distribution @ best == pytest.approx(value, abs=6e-7)


@pytest.mark.parametrize(
    ("game_id", "start", "norm", "best", "acts"),
    [
        ("BilevelFrozenLake-v0", 0.166104, 2.061482, 0.401520, 52.5),
        ("BilevelCliffWalking-v0", -18.056124, 7.543376, -12.641884, 18.1),
        ("BilevelTaxi-v0", 3.188041, 0.795845, 4.938095, 14.9),
    ],
)
def test_the_registered_tasks_have_the_values_of_their_page(
    game_id: str, start: float, norm: float, best: float, acts: float
) -> None:
    game: Any = gym.make(game_id).unwrapped
    response = game.evaluate(game.initial_upper_params)
    assert response.objective == pytest.approx(start, abs=6e-7)
    assert np.linalg.norm(response.hyper_gradient) == pytest.approx(norm, abs=6e-7)
    assert response.occupancy.sum() / (1.0 - game.gamma) == pytest.approx(acts, abs=0.06)
    assert not response.direct_gradient.any()
    assert game.best_known.value == pytest.approx(best, abs=6e-7)
    objective, box = exact_objective(game.model), (game.model.low, game.model.high)
    climbed = normalized_ascent(objective, game.initial_upper_params, *box)
    found = lbfgsb(objective, climbed.best.upper_params, *box, max_evaluations=1000)
    assert found.best.value == pytest.approx(best, abs=6e-7)


@pytest.mark.parametrize(
    ("game_id", "shaping", "value"),
    [
        ("BilevelFrozenLake-v0", 0.0, 0.1661),
        ("BilevelCliffWalking-v0", -0.85, -12.8969),
        ("BilevelTaxi-v0", -0.3, 4.5461),
    ],
)
def test_one_number_for_all_states_has_the_value_of_the_page(
    game_id: str, shaping: float, value: float
) -> None:
    game: Any = gym.make(game_id).unwrapped
    numbers = np.linspace(-1.0, 1.0, 41)
    xs = numbers[:, None] * np.ones(game.upper_space.shape)
    values = [answer.objective for answer in game.evaluate_batch(xs)]
    assert numbers[np.argmax(values)] == pytest.approx(shaping, abs=1e-9)
    assert max(values) == pytest.approx(value, abs=6e-5)


def test_a_hot_cliff_is_a_plateau() -> None:
    game = toy("CliffWalking", temperature=1.0)
    response = game.evaluate(game.initial_upper_params)
    assert response.objective == pytest.approx(-100.0, abs=1e-6)
    assert np.linalg.norm(response.hyper_gradient) < 1e-10


# The hyper-gradient -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_hyper_gradient_of_features_is_the_derivative(name: str) -> None:
    states, actions = {"FrozenLake": (16, 4), "CliffWalking": (48, 4), "Taxi": (500, 6)}[name]
    features = np.random.default_rng(0).normal(size=(states, actions, 3))
    game = toy(name, features=features, temperature=0.1 if name == "FrozenLake" else 0.5)
    env = bilevel_gym.HyperGradient(game)
    x = np.array([0.02, -0.03, 0.04])
    assert check_hyper_gradient(env, x).relative_error <= 1e-6
    # A sparse matrix with action-major rows is the same.
    rows = csr_array(features.transpose(1, 0, 2).reshape(-1, 3))
    options = {"features": rows, "temperature": game.temperature}
    assert toy(name, **options).evaluate(x).objective == pytest.approx(game.evaluate(x).objective)


def test_features_of_single_states_are_the_shaping_of_states() -> None:
    features = np.repeat(np.eye(16)[:, None, :], 4, axis=1)
    shaped, linear = toy("FrozenLake"), toy("FrozenLake", features=features)
    x = np.random.default_rng(3).uniform(-0.5, 0.5, 16)
    for attribute in ("objective", "hyper_gradient", "lower_value"):
        np.testing.assert_allclose(
            getattr(shaped.evaluate(x), attribute), getattr(linear.evaluate(x), attribute)
        )


# Ids, specs and arguments -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_id_without_a_version_is_the_newest(name: str) -> None:
    one, other = BilevelToyText(name), BilevelToyText(newest(name))
    np.testing.assert_array_equal(one.upper_reward(np.zeros(0)), other.upper_reward(np.zeros(0)))


class Line(gym.Env[int, int]):
    """Two states; `table` and the spaces are what a test wants them to be."""

    def __init__(self, table: Any = None, start: Any = (1.0, 0.0), **spaces: Any) -> None:
        right = [(0.5, 1, -1.0, False), (0.5, 1, -3.0, False)]
        self.P = table or {0: {0: right}, 1: {0: [(1.0, 1, 5.0, True)]}}
        self.initial_state_distrib = np.array(start)
        self.observation_space: Any = spaces.get("observation", gym.spaces.Discrete(2))
        self.action_space: Any = gym.spaces.Discrete(1)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Callable[..., BilevelToyText]:
    """Return what makes a game of `Line` with given arguments."""

    def make(**options: Any) -> BilevelToyText:
        entry_point: Any = lambda: Line(**options)  # noqa: E731
        spec = EnvSpec("Line-v0", entry_point=entry_point)
        monkeypatch.setitem(gym.registry, "Line-v0", spec)
        return BilevelToyText("Line", gamma=0.5)

    return make


def test_any_environment_with_a_model_will_do(line: Callable[..., BilevelToyText]) -> None:
    game = line()
    # -2 on average, and then 5, at half.
    assert game.evaluate(np.zeros(2)).objective == pytest.approx(0.5)
    assert isinstance(game.kernel(np.zeros(2)), Kernel)
    assert not game.has_map
    assert game.draw(game.view()).get_width() > 1000  # a table
    for call in (lambda: game.scene(game.view()), lambda: game.cell_of(0)):
        with pytest.raises(RuntimeError, match="no map"):
            call()


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"table": {0: {0: [(1.0, 1, 0.0, False)]}}}, ("`P`", "state=1, action=0")),
        ({"table": {0: {0: [(1.0, 1)]}, 1: {0: []}}}, ("`P`", "state=0, action=0")),
        (
            {"table": {0: {0: [(0.5, 1, 0.0, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}},
            ("sum to 1", "0.5"),
        ),
        (
            {"table": {0: {0: [(1.0, 1, np.inf, False)]}, 1: {0: [(1.0, 1, 0.0, True)]}}},
            ("finite", "inf"),
        ),
        ({"start": (1.0, 0.0, 0.0)}, ("initial_state_distrib", "(3,)")),
        ({"start": (0.7, 0.0)}, ("initial_distribution", "0.7")),
        ({"observation": gym.spaces.Discrete(2, start=1)}, ("observation", "start")),
        ({"observation": gym.spaces.Box(0.0, 1.0)}, ("observation", "Box")),
    ],
)
def test_a_broken_model_is_refused(
    line: Callable[..., BilevelToyText], options: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as caught:
        line(**options)
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value


# Pictures ---------------------------------------------------------------------------------------


def test_the_maps_show_holes_and_cliff_where_they_are_fatal() -> None:
    lake, cliff = toy("FrozenLake"), toy("CliffWalking")
    for game in (lake, cliff):
        cells = game.scene(game.view()).cells
        for state in range(cells.size):
            assert game.state_of(game.cell_of(state)) == state
    lake_cells = lake.scene(lake.view()).cells
    assert lake_cells.ravel()[[5, 7, 11, 12]].tolist() == ["H"] * 4
    assert lake_cells.ravel()[[0, 15]].tolist() == ["S", "G"]
    table: Any = gym.make(newest("CliffWalking")).unwrapped.get_wrapper_attr("P")
    cells = cliff.scene(cliff.view()).cells
    for state in range(24, 36):  # the row above
        fatal = table[state][2][0][2] == -100
        assert (cells[3, state - 24] == "H") == fatal
    assert cells[3, 0] == "S" and cells[3, 11] == "G"


@pytest.mark.parametrize(
    ("name", "env_kwargs"), [("FrozenLake", {"is_slippery": False}), ("CliffWalking", {})]
)
def test_the_arrows_of_a_map_point_where_the_follower_goes(
    name: str, env_kwargs: dict[str, Any]
) -> None:
    game = toy(name, env_kwargs, temperature=0.5)
    scene, answer = game.scene(game.view()), game.evaluate(game.initial_upper_params)
    kernel = game.kernel(game.initial_upper_params)
    row, column = divmod(state := 14 if name == "CliffWalking" else 9, scene.cells.shape[1])
    assert scene.policy is not None
    for move, (down, right) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
        there = game.state_of((row + down, column + right))
        (action,) = (
            action
            for action in range(4)
            if there in kernel.row(state, action)[0]
            or (there == 5 and name == "FrozenLake" and not kernel.row(state, action)[0].size)
        )
        assert scene.policy[row, column, move] == pytest.approx(answer.policy[state, action])


def test_the_city_of_taxi_sums_over_passengers_and_destinations() -> None:
    game = toy("Taxi", temperature=0.5)
    assert not game.has_map and game.state_of((0, 0)) is None
    assert game.cell_of(499) == (4, 4) and game.cell_of(20) == (0, 1)
    scene = game.scene(game.view())
    answer = game.evaluate(game.initial_upper_params)
    assert scene.occupancy is not None and scene.gradient is not None and scene.policy is not None
    assert scene.occupancy.sum() == pytest.approx(answer.occupancy.sum())
    assert scene.gradient[2, 3] == pytest.approx(answer.hyper_gradient[260:280].sum())
    np.testing.assert_allclose(scene.policy.sum(axis=-1), 1.0)


def test_the_city_of_taxi_has_its_walls_and_landmarks() -> None:
    game = toy("Taxi", temperature=0.5)
    scene = game.scene(game.view())
    city, plain, layout = (
        frame(game.draw(game.view())),
        frame(draw_grid(scene)),
        grid_layout((5, 5)),
    )
    drawn = (city != plain).any(axis=2)
    walls, landmarks = set(), set()
    for row, column in np.ndindex(5, 5):
        x, y = layout.cell_corner(row, column)
        if drawn[y + layout.cell // 2, x + layout.cell - 1]:
            walls.add((row, column))
        if drawn[y + layout.cell // 16 + 2, x + layout.cell // 8]:
            landmarks.add((row, column))
    # Cells left of a wall, and the landmarks, read off the map that Gymnasium documents.
    assert walls == {(0, 1), (1, 1), (3, 0), (3, 2), (4, 0), (4, 2)}
    assert landmarks == {(0, 0), (0, 4), (4, 0), (4, 3)}


def test_features_have_a_picture_but_no_cells_to_paint() -> None:
    game = toy("FrozenLake", features=np.ones((16, 4, 2)), render_mode="rgb_array")
    game.reset(seed=0)
    assert game.render() is not None and not game.has_map
