"""Updates on flat memory are those of recorded gradients, and everything else sees them."""

from __future__ import annotations

import io
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor

from bilevel_gym.sb3 import SoftDQN, SoftSAC
from bilevel_gym.sb3.flat import FlatNetworks, linear_layers
from bilevel_gym.sb3.soft_dqn import SoftQPolicy
from bilevel_gym.sb3.soft_sac import SoftSACPolicy
from bilevel_gym.sb3.updates import features_of

Patch = pytest.MonkeyPatch
Learner = SoftDQN | SoftSAC

KINDS: list[tuple[type[Learner], str]] = [(SoftDQN, "CartPole-v1"), (SoftSAC, "Pendulum-v1")]
every_kind = pytest.mark.parametrize(("kind", "env"), KINDS)


def small(kind: type[Learner], env: str, **options: Any) -> Learner:
    policy_kwargs = {"net_arch": [16, 16], **options.pop("policy_kwargs", {})}
    defaults: dict[str, Any] = {"temperature": 0.1, "gamma": 0.9, "seed": 0, "device": "cpu"}
    defaults |= {"learning_starts": 20, "batch_size": 32, "train_freq": 1, "gradient_steps": 1}
    policy = options.pop("policy", "MlpPolicy")
    return kind(policy, env, policy_kwargs=policy_kwargs, **{**defaults, **options})


def parameters(model: Learner) -> list[np.ndarray[Any, Any]]:
    return [p.detach().numpy().copy() for p in model.policy.parameters()]


def close(one: Learner, other: Learner, tolerance: float) -> None:
    for left, right in zip(parameters(one), parameters(other), strict=True):
        np.testing.assert_allclose(left, right, atol=tolerance)


@every_kind
def test_updates_are_those_of_recorded_gradients(
    monkeypatch: Patch, kind: type[Learner], env: str
) -> None:
    fast = small(kind, env).learn(120)
    assert fast._flat is not None and fast._flat.bound
    monkeypatch.setattr(kind, "_flat_networks", lambda *_: None)
    slow = small(kind, env).learn(120)
    assert slow._flat is None
    start = small(kind, env)
    moved = max(np.abs(a - b).max() for a, b in zip(*map(parameters, (start, fast)), strict=True))
    assert moved > 1e-2  # so that the agreement says something
    close(fast, slow, 1e-5)


@every_kind
def test_the_gradient_is_shortened_and_targets_wait(
    monkeypatch: Patch, kind: type[Learner], env: str
) -> None:
    options: dict[str, Any] = {"max_grad_norm": 1e-3} if kind is SoftDQN else {}
    options = options or {"target_update_interval": 3}
    fast = small(kind, env, **options).learn(60)
    monkeypatch.setattr(kind, "_flat_networks", lambda *_: None)
    close(fast, small(kind, env, **options).learn(60), 1e-5)


@every_kind
def test_files_and_parameters_from_elsewhere_are_gone_on_from(
    kind: type[Learner], env: str
) -> None:
    model = small(kind, env).learn(60)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    again = kind.load(file, env=model.get_env(), force_reset=False)
    for one, two in zip(parameters(model), parameters(again), strict=True):
        np.testing.assert_array_equal(one, two)
    for learner in (model, again):
        learner.learn(20, reset_num_timesteps=False)
    assert again._flat.bound
    state: Any = deepcopy(model.get_parameters())
    other = small(kind, env, seed=1).learn(40)
    other.set_parameters(state)
    assert not other._flat.bound  # the optimizer's state is another
    for one, two in zip(parameters(model), parameters(other), strict=True):
        np.testing.assert_array_equal(one, two)
    other.learn(40, reset_num_timesteps=False)
    assert other._flat.bound
    steps = [
        float(entry["step"])
        for optimizer in _optimizers(other)
        for entry in optimizer.state_dict()["state"].values()
    ]
    assert len(set(steps)) == 1 and steps[0] > 60  # counted on, for each parameter by itself


def _optimizers(model: Learner) -> list[th.optim.Optimizer]:
    if isinstance(model, SoftDQN):
        return [model.policy.optimizer]
    return [model.actor.optimizer, model.critic.optimizer]


@every_kind
def test_saved_states_of_optimizers_share_no_memory(kind: type[Learner], env: str) -> None:
    model = small(kind, env).learn(40)
    for optimizer in _optimizers(model):
        before = [float(entry["step"]) for entry in optimizer.state.values()]
        next(iter(optimizer.state.values()))["step"].add_(1.0)
        after = [float(entry["step"]) for entry in optimizer.state.values()]
        assert after == [before[0] + 1.0, *before[1:]]


class Doubled(th.nn.Linear):
    """A layer that is not quite linear."""

    def forward(self, inputs: th.Tensor) -> th.Tensor:
        return 2.0 * super().forward(inputs)


def test_other_networks_are_not_taken_for_plain_ones() -> None:
    nn = th.nn
    assert linear_layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))) is not None
    for network in (
        nn.Linear(2, 3),
        nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)),
        nn.Sequential(Doubled(2, 3), nn.ReLU(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 1)),
        nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1)),
    ):
        assert linear_layers(network) is None


@every_kind
@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {"activation_fn": th.nn.Tanh},
        {"optimizer_class": th.optim.SGD},
        {"optimizer_kwargs": {"weight_decay": 0.1}},
    ],
)
def test_other_policies_learn_as_ever(
    kind: type[Learner], env: str, policy_kwargs: dict[str, Any]
) -> None:
    model = small(kind, env, policy_kwargs=policy_kwargs).learn(40)
    assert model._flat is None and model._n_updates == 20
    inside = np.zeros(model.observation_space.shape or (), np.float32)
    assert model.action_space.contains(model.predict(inside)[0])


@every_kind
def test_actions_are_those_of_the_policy(kind: type[Learner], env: str) -> None:
    model = small(kind, env).learn(60)
    rng = np.random.default_rng(0)
    shape = model.observation_space.shape or ()
    for observations in (rng.normal(size=shape), rng.normal(size=(5, *shape))):
        for deterministic in (False, True):
            seen = observations.astype(np.float32)
            found = []
            for predict in (model.predict, model.policy.predict):
                th.manual_seed(3)
                found.append(predict(seen, deterministic=deterministic)[0])
            one, other = found
            assert one.shape == other.shape and one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="shape"):
        model.predict(np.zeros((3, 9), np.float32))


def _critic(model: Learner) -> Any:
    return model.q_net.q_net if isinstance(model, SoftDQN) else model.critic.q_networks[0]


def _owner(model: Learner) -> Any:
    return model.policy if isinstance(model, SoftDQN) else model.critic


def _freeze(model: Learner) -> None:
    _critic(model)[0].weight.requires_grad_(False)


def _thaw(model: Learner) -> None:
    _freeze(model)
    model.learn(30)
    _critic(model)[0].weight.requires_grad_(True)


def _decay(model: Learner) -> None:
    _owner(model).optimizer.param_groups[0]["weight_decay"] = 0.3


def _replace_optimizer(model: Learner, kind: Any = th.optim.Adam) -> None:
    parameters = _owner(model).optimizer.param_groups[0]["params"]
    _owner(model).optimizer = kind(parameters, lr=1e-2)


def _replace_layer(model: Learner) -> None:
    th.manual_seed(1)
    _critic(model)[2] = th.nn.Linear(16, 16)
    critics = model.q_net if isinstance(model, SoftDQN) else model.critic
    _owner(model).optimizer = th.optim.Adam(critics.parameters(), lr=1e-3)


def _replace_activation(model: Learner) -> None:
    _critic(model)[1] = th.nn.Tanh()


def _replace_policy(model: Learner) -> None:
    model.policy = deepcopy(model.policy)
    model._create_aliases()


def _hook(model: Learner) -> None:
    _critic(model)[0].register_forward_hook(lambda _module, _inputs, found: 0.5 * found)


@every_kind
@pytest.mark.parametrize(
    ("change", "stays"),
    [
        (_freeze, False),
        (_thaw, False),
        (_decay, False),
        (_replace_optimizer, True),
        (partial(_replace_optimizer, kind=th.optim.SGD), False),
        (_replace_layer, True),
        (_replace_activation, False),
        (_replace_policy, True),
        (_hook, False),
    ],
)
def test_what_users_change_by_hand_is_learnt_with(
    monkeypatch: Patch, kind: type[Learner], env: str, change: Any, stays: bool
) -> None:
    fast = small(kind, env).learn(30)
    assert fast._flat is not None
    change(fast)
    seen = np.ones((4, *(fast.observation_space.shape or ())), np.float32)
    found, right = (p.predict(seen, deterministic=True)[0] for p in (fast, fast.policy))
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    fast.learn(30)
    assert (fast._flat is not None) == stays
    monkeypatch.setattr(kind, "_flat_networks", lambda *_: None)
    slow = small(kind, env).learn(30)
    change(slow)
    # Where a gradient is next to zero, Adam makes a whole step of its rounding.
    close(fast, slow.learn(30), 3e-4)


class Tenth(FlattenExtractor):
    """Features with nothing to learn that are not the observations."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return 0.1 * super().forward(observations)


@every_kind
def test_features_and_policies_of_others_are_their_own(kind: type[Learner], env: str) -> None:
    model = small(kind, env, policy_kwargs={"features_extractor_class": Tenth}).learn(40)
    assert model._flat is None
    plain = SoftQPolicy if kind is SoftDQN else SoftSACPolicy

    class Sure(plain):  # type: ignore[misc, valid-type]
        def _predict(self, observation: Any, deterministic: bool = False) -> Any:
            return super()._predict(observation, deterministic=True)

    model = small(kind, env, policy=Sure).learn(40)
    assert model._flat is None
    seen = np.ones((4, *(model.observation_space.shape or ())), np.float32)
    best, drawn = (model.predict(seen, deterministic=sure)[0] for sure in (True, False))
    np.testing.assert_array_equal(best, drawn)


def test_features_are_those_of_the_library() -> None:
    kinds: list[tuple[spaces.Space[Any], Any]] = [
        (spaces.Discrete(4), np.array([1, 3])),
        (spaces.Box(-1.0, 1.0, (2, 3)), np.ones((2, 2, 3))),
    ]
    for space, observations in kinds:
        found = features_of(observations, space)
        assert found is not None and found.dtype == np.float32 and found.shape[0] == 2
    np.testing.assert_array_equal(
        features_of(np.array([1, 3]), spaces.Discrete(4)), np.eye(4)[[1, 3]]
    )
    assert features_of(np.zeros((2, 3)), spaces.MultiBinary(3)) is None
    images = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    assert features_of(np.zeros((1, 36, 36, 3), np.uint8), images) is None


def test_networks_share_one_tensor() -> None:
    networks = [
        th.nn.Sequential(th.nn.Linear(3, 5), th.nn.ReLU(), th.nn.Linear(5, 2)) for _ in range(3)
    ]
    inputs = th.randn(7, 3)
    expected = th.stack([network(inputs) for network in networks])
    weights = th.randn(3, 7, 2)
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad for network in networks for p in network.parameters()]
    owned = [p for network in networks for p in network.parameters()]
    layers = [linear_layers(network) for network in networks]
    flat = FlatNetworks([each for each in layers if each is not None])
    with th.no_grad():
        values = flat.forward(inputs)
        th.testing.assert_close(values[-1], expected)
        np.testing.assert_allclose(flat.evaluate(inputs.numpy()), expected.detach(), atol=1e-6)
        gradient = th.zeros_like(flat.memory)
        flat.backward(values, weights, flat.views(gradient))
        found = dict(zip(map(id, flat.parameters), flat.pieces(gradient), strict=True))
        for parameter, right in zip(owned, gradients, strict=True):
            th.testing.assert_close(found[id(parameter)], right)
        flat.memory.zero_()
    assert all(not p.any() for p in owned) and flat.bound
    networks[0][0].weight.data = th.ones(5, 3)
    assert not flat.bound
