"""The replay buffer whose rewards are evaluated when a batch is sampled."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from bilevel_gym.sb3 import RelabellingReplayBuffer, SoftDQN

from .helpers import assert_identical
from .test_soft_dqn import seat, small_dqn, state_of


def filled(action_space: spaces.Space[Any], observation_space: spaces.Space[Any]) -> Any:
    """Return a buffer with ten transitions of two environments."""
    buffer = RelabellingReplayBuffer(20, observation_space, action_space, device="cpu", n_envs=2)
    rng = np.random.default_rng(0)
    for step in range(10):
        observation = np.stack([observation_space.sample() for _ in range(2)])
        raw = rng.uniform(-1, 1, (2, *(action_space.shape or ()))).astype(np.float32)
        action = raw if isinstance(action_space, spaces.Box) else rng.integers(2, size=2)
        done = np.array([step == 4, step == 7])
        infos = [{}, {"TimeLimit.truncated": step == 7}]
        buffer.add(observation, observation, action, np.full(2, 7.0), done, infos)
    return buffer


def test_rewards_are_evaluated_on_what_the_environment_has_seen() -> None:
    box = spaces.Box(np.array([[-2.0], [0.0]], np.float32), np.array([[4.0], [8.0]], np.float32))
    buffer = filled(box, spaces.Box(-1, 1, (3,)))
    seen: list[Any] = []

    def reward(observations: Any, actions: Any) -> Any:
        seen.append((observations.copy(), actions.copy()))
        return observations[:, 0] + actions[:, 0, 0]

    buffer.reward_fn = reward
    np.random.seed(0)
    batch = buffer.sample(64)
    observations, actions = seen[0]
    assert observations.shape == (64, 3) and actions.shape == (64, 2, 1)
    assert actions.dtype == np.float32
    assert (actions >= box.low).all() and (actions <= box.high).all()
    middle, width = (box.high + box.low) / 2, (box.high - box.low) / 2
    scaled = batch.actions.numpy().reshape(64, 2, 1)
    np.testing.assert_allclose(actions, middle + scaled * width, rtol=1e-6)
    np.testing.assert_array_equal(observations, batch.observations.numpy())
    assert batch.rewards.shape == (64, 1) and batch.rewards.numpy().dtype == np.float32
    rewards = observations[:, 0] + actions[:, 0, 0]
    np.testing.assert_array_equal(batch.rewards.numpy()[:, 0], rewards)
    assert (buffer.rewards[:10] == 7.0).all()
    # One end is for good, the other is a cut.
    indices = np.repeat(np.arange(10), 20)
    ends = buffer.transitions(indices, np.random.default_rng(1)).dones
    assert {*indices[ends == 1.0].tolist()} == {4} and batch.dones.sum() > 0


def test_numbers_come_as_numbers() -> None:
    buffer = filled(spaces.Discrete(2), spaces.Discrete(5))
    shapes: list[Any] = []

    def reward(observations: Any, actions: Any) -> Any:
        shapes.append((observations.shape, actions.shape))
        return np.arange(5)[observations] + 10 * actions

    buffer.reward_fn = reward
    batch = buffer.sample(8)
    expected = batch.observations[:, 0] + 10 * batch.actions[:, 0]
    np.testing.assert_array_equal(batch.rewards[:, 0].numpy(), expected.numpy())
    assert shapes == [((8,), (8,))]
    transitions = buffer.transitions(np.arange(10), np.random.default_rng(0))
    assert transitions.observations.shape == transitions.rewards.shape == (10,)
    assert (transitions.rewards == 7.0).all()


def test_relabelling_draws_the_same_batches_and_a_copy_has_no_reward_and_says_so() -> None:
    buffer = filled(spaces.Discrete(2), spaces.Discrete(5))
    np.random.seed(4)
    plain = buffer.sample(32)
    buffer.reward_fn = lambda observations, actions: np.zeros(len(actions))
    np.random.seed(4)
    relabelled = buffer.sample(32)
    for one, other in zip(plain[:4], relabelled[:4], strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert (plain.rewards == 7.0).all() and (relabelled.rewards == 0.0).all()
    copied = pickle.loads(pickle.dumps(buffer))
    with pytest.raises(RuntimeError, match=r"`reward_fn` is not set.*set `model.reward_fn`"):
        copied.sample(4)
    copied.reward_fn = None
    assert (copied.sample(4).rewards == 7.0).all()
    copied.load_state_dict(buffer.state_dict())
    with pytest.raises(RuntimeError, match="`reward_fn` is not set"):
        copied.sample(4)


@pytest.mark.parametrize(
    ("reward_fn", "error", "message"),
    [
        (lambda o, a: np.zeros((len(a), 1)), ValueError, "`reward_fn` must return 4 numbers.*4, 1"),
        (lambda o, a: ["much"] * len(a), ValueError, "`reward_fn` must return 4 numbers.*dtype"),
        (lambda o, a: o / 0 * np.nan, ValueError, "finite numbers, got nan for observation"),
        (3.0, TypeError, "`reward_fn` must be None or a function.*got 3.0"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_reward_that_is_none_is_refused(reward_fn: Any, error: Any, message: str) -> None:
    buffer = filled(spaces.Discrete(2), spaces.Discrete(5))
    with pytest.raises(error, match=message):
        buffer.reward_fn = reward_fn
        buffer.sample(4)


def test_memory_may_be_spared(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "optimize_memory_usage": True,
        "replay_buffer_kwargs": {"handle_timeout_termination": False},
    }
    model, plain = small_dqn(**options).learn(56), small_dqn().learn(56)
    spared, full = model.replay_buffer, plain.replay_buffer
    assert spared is not None and full is not None
    assert not hasattr(spared, "next_observations")
    model.save(tmp_path / "model")
    loaded = SoftDQN.load(tmp_path / "model", seat(), device="cpu")
    assert_identical(state_of(loaded)["buffer"], state_of(model)["buffer"])
    # The first episode, and the last transition: what follows it is in a slot of its own.
    at = np.append(np.arange(19), 56 - 1)
    for buffer in (spared, loaded.replay_buffer):
        assert buffer is not None
        one = buffer.transitions(at, np.random.default_rng(0))
        other = full.transitions(at, np.random.default_rng(0))
        going_on = other.dones == 0.0
        assert going_on[-1] and other.next_observations[-1] != 0
        found, wanted = (each.next_observations[going_on] for each in (one, other))
        np.testing.assert_array_equal(found, wanted)


def test_a_full_memory_saving_buffer_does_not_give_the_torn_transition() -> None:
    options = {"buffer_size": 10, "optimize_memory_usage": True, "learning_starts": 30}
    handles = {"replay_buffer_kwargs": {"handle_timeout_termination": False}}
    learner = small_dqn(**options, **handles)
    learner.learn(13)
    buffer = learner.replay_buffer
    assert buffer is not None and buffer.full
    drawn = buffer.draw(1000, np.random.default_rng(0))
    assert {*drawn.tolist()} == {*range(10)} - {buffer.pos}
