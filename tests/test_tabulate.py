"""Tables of environments: what they hold, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from bilevel_gym import Tabulated, tabulate
from bilevel_gym.envs.fingerprints import fingerprint
from bilevel_gym.testing import check_hyper_gradient
from bilevel_gym.wrappers import HyperGradient

MINIGRID = "MiniGrid-Empty-5x5-v0"


class Chain(gym.Env[Any, Any]):
    """Cells 0..length-1 in a row; action 1 goes right, 0 stays, and the last cell ends it."""

    def __init__(self, length: int = 5, *, real: bool = False, trap: str = "") -> None:
        self.length, self.trap = length, trap
        self.observation_space = (
            spaces.Box(-1e9, 1e9, (1,), np.float64) if real else spaces.Discrete(length)
        )
        self.action_space: Any = spaces.Discrete(2, start=1)
        self.real = real

    def _seen(self) -> Any:
        return np.array([self.cell], np.float64) if self.real else int(self.cell)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.cell: float = 0
        self.step_count = 0
        self._hidden = (i for i in "x") if self.trap == "iterator" else None
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.step_count += 1
        if self.real:
            self.cell = 1.01 * self.cell + action
            return self._seen(), 0.0, False, False, {}
        self.cell += action - 1
        over = self.cell == self.length - 1
        if self.trap == "time" and self.step_count > 7:
            self.cell, over = 0, False
        reward = float(over)
        if self.trap == "nan" and over:
            reward = np.nan
        truncated = self.step_count >= 3
        return self._seen(), reward, over, truncated, {"ended": over, "right": action - 1}


def test_a_chain_is_what_it_is() -> None:
    table = tabulate(Chain, seed=3)
    assert (table.num_states, table.num_actions, table.clocks) == (4, 2, ("Chain.step_count",))
    expected = np.zeros((4, 2, 4))
    for cell in range(4):
        expected[cell, 0, cell] = 1.0
        if cell < 3:  # the last step ends it
            expected[cell, 1, cell + 1] = 1.0
    np.testing.assert_array_equal(table.kernel.to_dense(), expected)
    np.testing.assert_array_equal(table.reward, [[0, 0]] * 3 + [[0, 1]])
    np.testing.assert_array_equal(table.observations[""], range(4))
    np.testing.assert_array_equal(table.initial_distribution, [1, 0, 0, 0])
    assert table.actions_to(2) == [1, 1]
    assert (table.samples, table.probability_error) == (0, None)
    env = gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(Chain()), 20)
    env.reset(seed=0)
    env.step(2)
    assert table.state_of(env) == 1


def test_terms_and_another_reward_are_tabulated() -> None:
    table = tabulate(Chain, terms=("ended", "right"), reward="right")
    np.testing.assert_array_equal(table.reward, [[0, 1]] * 4)
    np.testing.assert_array_equal(table.terms[3], [[0, 0], [1, 1]])
    model = table.model(upper_reward=table.terms[..., 0], temperature=0.2)
    assert model.low.shape == (2,)
    assert check_hyper_gradient(HyperGradient(table.game(temperature=0.2, upper_cost=0.1)))


def test_layouts_of_several_seeds_are_in_one_table() -> None:
    class Drawn(Chain):
        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.length = int(self.np_random.integers(3, 6))
            return self._seen(), {}

    tables = [tabulate(Drawn, seed=seed) for seed in range(6)]
    sizes = [table.num_states for table in tables]
    assert len({*sizes}) > 1 and {*sizes} <= {2, 3, 4}
    both = tabulate(Drawn, seed=list(range(6)))
    assert both.num_states == sum({*sizes})
    for size in {*sizes}:
        assert both.initial_distribution[both.initial_distribution > 0].sum() == pytest.approx(1.0)
        assert sizes.count(size) / 6 in both.initial_distribution


def test_what_cannot_be_copied_is_stepped_by_setting_its_state() -> None:
    def get(env: Any) -> Any:
        return env.unwrapped.cell, env.unwrapped.step_count

    def put(env: Any, state: Any) -> None:
        env.unwrapped.cell, env.unwrapped.step_count = state

    options: dict[str, Any] = {"env_kwargs": {"trap": "iterator"}, "key": lambda env: env.cell}
    with pytest.raises(ValueError, match=r"cannot be copied.*give `state`"):
        tabulate(Chain, **options)
    table = tabulate(Chain, state=(get, put), **options)
    expected = tabulate(Chain)
    np.testing.assert_array_equal(table.kernel.to_dense(), expected.kernel.to_dense())
    np.testing.assert_array_equal(table.reward, expected.reward)


def test_long_work_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilevel_gym.core.progress.SILENT", 0.0)
    told: list[str] = []
    tabulate(Chain, progress=lambda done, total, doing: told.append(doing))
    assert told and all("of Chain found" in said or "Chain: " in said for said in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_kwargs": {"real": True}}, "no end of states.*`discretize`"),
        ({"max_states": 3}, r"more states than `max_states` = 3.*changed is Chain\.cell\)"),
        ({"key": lambda env: 0, "env_kwargs": {"length": 3}}, "one key has two outcomes"),
        ({"key": lambda env: object()}, "`key` must return numbers"),
        ({"env_kwargs": {"trap": "time"}}, "one key has two outcomes.*time"),
        ({"env_kwargs": {"trap": "iterator"}}, "_hidden.*give `key`|cannot be copied"),
        ({"env_kwargs": {"trap": "nan"}}, "must be finite numbers, got nan"),
        ({"by": "P"}, "which has none"),
        ({"by": "P", "samples": 3}, '`by` must be "copies"'),
        ({"by": "magic"}, "unknown by 'magic'"),
        ({"seed": []}, "`seed` must be"),
        ({"seed": -1}, "`seed` must be"),
        ({"samples": 0}, "`samples` must be"),
    ],
)
def test_what_cannot_be_a_table_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tabulate(Chain, **options)


def test_a_model_that_is_shown_has_a_limit_too() -> None:
    with pytest.raises(ValueError, match="has 16 states, more than `max_states` = 15"):
        tabulate("FrozenLake-v1", max_states=15)
    assert tabulate("FrozenLake-v1", max_states=16).num_states == 16


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("Pendulum-v1", "must be Discrete"),
        ("CartPole-v1", "no end of states"),
        ("Blackjack-v1", "give `samples`"),
    ],
)
def test_environments_without_a_table_are_refused_at_once(env_id: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tabulate(env_id)


def test_observations_that_show_time_are_refused() -> None:
    watch = gym.wrappers.TimeAwareObservation
    with pytest.raises(ValueError, match="shows two different observations.*such as time"):
        tabulate(lambda: watch(gym.wrappers.TimeLimit(Chain(), 20)))
    with pytest.raises(ValueError, match="shows two different observations"):
        tabulate(lambda: watch(gym.make("FrozenLake-v1")), samples=2)


def test_a_simulator_whose_copies_begin_anew_is_refused() -> None:
    pytest.importorskip("mujoco")
    with pytest.raises(ValueError, match="begin a new episode; give `state`"):
        actions = gym.wrappers.TransformAction
        tabulate(lambda: actions(gym.make("Hopper-v5"), lambda a: [0] * 3, spaces.Discrete(2)))


# Toy texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "CliffWalking-v1"])
def test_stepped_copies_give_the_environments_own_table(env_id: str) -> None:
    options = {"is_slippery": False} if "Lake" in env_id else {}
    own = tabulate(env_id, env_kwargs=options)
    env: Any = gym.make(env_id, **options).unwrapped
    assert own.num_states == len(env.P)
    # Their steps draw a number though one outcome is certain, so that one sample is exact.
    stepped = tabulate(env_id, env_kwargs=options, samples=1)
    states = stepped.observations[""]
    assert len(states) == {"F": 11, "C": 37}[env_id[0]]
    dense = own.kernel.to_dense()[states][:, :, states]
    np.testing.assert_array_equal(stepped.kernel.to_dense(), dense)
    np.testing.assert_array_equal(stepped.reward, own.reward[states])


def test_counted_samples_are_as_good_as_they_say() -> None:
    own, sampled = tabulate("FrozenLake-v1"), tabulate("FrozenLake-v1", samples=100)
    states = sampled.observations[""]
    dense = own.kernel.to_dense()[states][:, :, states]
    counted, moves, successors = sampled.kernel.triplets
    assert sampled.probability_error is not None and sampled.reward_error is not None
    misses = np.abs(dense[counted, moves, successors] - sampled.kernel.matrix.data)
    # Of some 130 entries each is within four standard errors, with probability .99.
    assert (misses <= 4.0 * np.sqrt(dense * (1 - dense) / 100)[counted, moves, successors]).all()
    assert 0.02 < sampled.probability_error.max() <= 0.5 / np.sqrt(100)
    assert (np.abs(sampled.reward - own.reward[states]) <= 4 * 0.48 / np.sqrt(100)).all()
    again = tabulate("FrozenLake-v1", samples=100)
    np.testing.assert_array_equal(again.kernel.matrix.data, sampled.kernel.matrix.data)


def test_a_model_that_the_environment_departs_from_is_refused() -> None:
    with pytest.raises(ValueError, match="fickle_passenger=True"):
        tabulate("Taxi-v4", env_kwargs={"fickle_passenger": True})

    class Generous(type(gym.make("FrozenLake-v1").unwrapped)):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            observation, reward, *others = super().step(action)
            return observation, reward + 1.0, *others

    with pytest.raises(ValueError, match="must have the steps that the environment makes"):
        tabulate(Generous)


# Files -------------------------------------------------------------------------------------------


def test_a_table_is_saved_and_loaded(tmp_path: Path) -> None:
    table = tabulate(Chain, terms="ended")
    table.save(tmp_path / "chain")
    loaded = Tabulated.load(tmp_path / "chain.npz")
    for name in ("name", "term_names", "clocks", "samples"):
        assert getattr(loaded, name) == getattr(table, name)
    for name in ("reward", "terms", "keys", "initial_distribution", "previous", "actions_before"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
    np.testing.assert_array_equal(loaded.kernel.to_dense(), table.kernel.to_dense())
    np.testing.assert_array_equal(loaded.observations[""], table.observations[""])


def test_other_files_are_no_tables(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, keys=np.array([object()], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    for wrong in (path, tmp_path / "text.npz"):
        with pytest.raises(ValueError, match="holds no table of `tabulate`"):
            Tabulated.load(wrong)
    with pytest.raises(FileNotFoundError):
        Tabulated.load(tmp_path / "missing.npz")


# MiniGrid ----------------------------------------------------------------------------------------


def test_minigrids_reward_depends_on_time_and_is_refused() -> None:
    pytest.importorskip("minigrid", reason='needs pip install -e ".[minigrid]"')
    with pytest.raises(ValueError, match="one key has two rewards.*give `reward`"):
        tabulate(MINIGRID)


def test_minigrid_in_numbers() -> None:
    pytest.importorskip("minigrid", reason='needs pip install -e ".[minigrid]"')
    table = tabulate(MINIGRID, reward=lambda o, a, following, info: -1.0)
    # Eight free cells and the goal, where the episode ends, in four directions.
    assert (table.num_states, table.num_actions) == (32, 7)
    assert table.observations["image"].shape == (32, 7, 7, 3)
    ending = np.argwhere(table.kernel.row_sums == 0.0)
    assert ending.tolist() == [[s, 2] for s in ending[:, 0]] and len(ending) == 2


class Deep(gym.Env[Any, Any]):
    """A corridor longer than a random walk goes, which ends with a toss."""

    observation_space = gym.spaces.Discrete(32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin in front."""
        super().reset(seed=seed)
        self.at = 0
        return 0, {}

    def step(self, action: Any) -> Any:
        """Go on, or back to the front; toss at the end."""
        if self.at < 14:
            self.at = self.at + 1 if action == 1 else 0
            return self.at, 0.0, False, False, {}
        self.at = 0
        win = bool(self.np_random.random() < 0.5)
        return 31 if win else 0, float(win), win, False, {}


def test_random_numbers_deep_in_an_environment_are_noticed() -> None:
    with pytest.raises(ValueError, match="draw random numbers: give `samples`"):
        tabulate(Deep)
    table = tabulate(Deep, samples=200)
    assert table.samples == 200 and table.probability_error is not None
    assert table.reward[14] == pytest.approx(0.5, abs=0.15)


def test_tensors_are_told_apart_by_their_numbers() -> None:
    th = pytest.importorskip("torch")
    texts = []
    for number in (1.0, 1.0, 2.0):
        env = Chain()
        env.reset(seed=0)
        env.held = th.tensor([number])  # type: ignore[attr-defined]
        texts.append(fingerprint(env, None))
    assert texts[0] == texts[1] != texts[2]


def test_a_table_is_found_under_the_name_it_was_saved_by(tmp_path: Any) -> None:
    tabulate("FrozenLake-v1").save(tmp_path / "lake")
    assert Tabulated.load(tmp_path / "lake").num_states == 16
