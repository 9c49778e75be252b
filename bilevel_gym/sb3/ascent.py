"""The hyper-gradient as an algorithm of Stable-Baselines3."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs
from stable_baselines3.common.type_aliases import Schedule as ProgressSchedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv

from ..core.checks import (
    check_at_least,
    check_choice,
    check_not_negative,
    check_options,
    check_positive,
    optional,
    received,
)
from ..core.mdp import FloatArray
from ..optimizers import (
    OPTIMIZERS,
    RULES,
    Climb,
    Optimum,
    Restarts,
    Schedule,
    UpdateRule,
    make_rule,
    make_schedule,
    starts_around,
)
from ..optimizers.climb import Start, Together
from ..optimizers.revisable import Report
from ..optimizers.safe import SafeClimb
from .archive import Archived, ArchivedPolicy, allow
from .told import Told

__all__ = ["HyperGradientAscent", "UpperParamsPolicy"]

# Optimizers that have no learning rate, and what is said of that.
WITHOUT_RATE = {"safe": "; its option is `length`", "climb": ""}


AnyClimb = Climb | SafeClimb | Told


class UpperParamsPolicy(ArchivedPolicy):
    """A policy whose action is x, whatever is observed.

    Attributes:
        x: The x, float64, shape of an action; NaN as long as it is unknown.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: ProgressSchedule | None = None,
        **kwargs: Any,
    ) -> None:
        """Start without an x; the library passes the learning rate to every policy."""
        super().__init__(observation_space, action_space, **kwargs)
        unknown = th.full(action_space.shape, math.nan, dtype=th.float64)
        self.x = th.nn.Parameter(unknown, requires_grad=False)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if bool(th.isnan(self.x).any()):
            raise RuntimeError(
                "there is no x to predict yet: it comes from the environment; call `learn` first"
            )
        parts = observation.values() if isinstance(observation, dict) else [observation]
        return self.x.expand(len(next(iter(parts))), *self.x.shape)


class _SeatOf:
    """The leader's seat in one of the copies of a vector environment, for safe climbs."""

    def __init__(self, env: Callable[[], VecEnv], number: int) -> None:
        self._env, self._number = env, number

    @property
    def samples(self) -> int:
        return self._env().get_attr("samples", self._number)[0]

    def __call__(self, x: FloatArray) -> tuple[float, FloatArray]:
        # Never called: `learn` steps all copies together, and tells the climbs.
        raise NotImplementedError("`learn` steps all copies together")

    def measure(self, x: FloatArray) -> Report:
        return self._asked("measure", x)

    def watch(self, x: FloatArray) -> FloatArray:
        return self._asked("watch", x)

    def report(self) -> Report:
        return self._asked("report")

    def snapshot(self) -> NDArray[Any] | None:
        return self._asked("snapshot")

    def restore(self, snapshot: Any) -> None:
        self._asked("restore", snapshot)

    # As `bilevel_gym.optimizers.climb` asks for.

    def starts(self, x: FloatArray, most: int) -> list[Start]:
        return self._asked("starts", x, most)

    def easier(self, x: FloatArray) -> list[Together]:
        count = self._asked("ease", x)
        return [partial(self._asked, "eased", number) for number in range(count)]

    def _asked(self, name: str, *arguments: Any) -> Any:
        return self._env().env_method(name, *arguments, indices=self._number)[0]


class _Climbs:
    """The climbs of a leader, one for each environment, which the library saves like a module."""

    def __init__(self, begin: Callable[[FloatArray, int], AnyClimb]) -> None:
        self._begin = begin
        self.all: list[AnyClimb] = []

    def begin(self, start: FloatArray) -> None:
        self.all.append(self._begin(start, len(self.all)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state, arrays as tensors."""
        states = [climb.state_dict() for climb in self.all]
        return {"climbs": [_converted(state, np.ndarray, th.from_numpy) for state in states]}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        self.all = []
        for saved in state["climbs"]:
            arrays = _converted(saved, th.Tensor, lambda value: value.detach().cpu().numpy().copy())
            self.begin(arrays["x"])
            self.all[-1].load_state_dict(arrays)


def _converted(value: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """Return nested dicts with all values of a kind converted."""
    if isinstance(value, dict):
        return {key: _converted(entry, kind, convert) for key, entry in value.items()}
    return convert(value) if isinstance(value, kind) else value


Self = TypeVar("Self", bound="HyperGradientAscent")


class HyperGradientAscent(Archived):
    """Train the leader by the hyper-gradient that its seat reports.

    An action is x itself, whatever is observed. Each step evaluates an x, receives the reward F(x)
    and moves x along `info["hyper_gradient"]` by an update rule of `bilevel_gym.optimizers`.
    Episodes end and begin without changing x; where the inner learner has a warm start to lose,
    take `outer_steps` as long as the training.

    Each of several environments is a climb of its own, with its own optimiser state: the first
    starts at the game's initial x, the others around it (or where their
    `reset(options={"upper_params": x})` puts them); the best of all is what `predict` returns.

    The first `learn` fixes the starts. Later ones continue from the current x, also after `save`
    and `load`; with `reset_num_timesteps=False` they continue the schedule too. A schedule runs
    over the steps of one `learn`, unless `schedule_steps` says how many there are altogether: with
    it (or a constant schedule) two calls are the same as one.

    Values are those of the vector environment; most keep them in float32. Where they are sampled,
    the best of many is biased upwards; `predicts="last"` does not select.

    Source of the hyper-gradient: Yang, Gao, Yuan, AISTATS 2025, arXiv 2405.19697.

    Example:
        >>> import gymnasium as gym
        >>> from bilevel_gym.sb3 import HyperGradientAscent
        >>> env = gym.make("BilevelGridWorld-v0")
        >>> model = HyperGradientAscent("UpperParamsPolicy", env, seed=0).learn(201)
        >>> x, _ = model.predict(env.reset()[0])
        >>> print(x.shape, round(model.optimum.best.value, 3))
        (52,) 0.461
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"UpperParamsPolicy": UpperParamsPolicy}
    states: ClassVar[frozenset[str]] = frozenset({"policy", "climbs"})

    def __init__(
        self,
        policy: str | type[UpperParamsPolicy],
        env: GymEnv | str | None,
        learning_rate: float | ProgressSchedule | None = None,
        optimizer: str | None = None,
        optimizer_options: dict[str, Any] | None = None,
        schedule: str | Schedule = "cosine",
        schedule_steps: int | None = None,
        spread: float = 0.02,
        predicts: Literal["best", "last"] = "best",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "cpu",
        _init_setup_model: bool = True,
    ) -> None:
        """Initialise the algorithm on one environment or several.

        Args:
            policy: "UpperParamsPolicy".
            env: The leader's seat, as `gymnasium.make` returns it, its id, or a vector environment
                of the library made of such.
            learning_rate: Learning rate at the start, positive, or the library's schedule, a
                callable of the remaining progress; None for the default of the optimizer.
            optimizer: What moves x: a key of `bilevel_gym.optimizers.RULES`, "climb" or "safe", see
                the modules of these names in `bilevel_gym.optimizers`. None for "normalized" if
                there is a learning rate; else for "climb" where the answers are exact, "safe" where
                a follower learns who can be put back, and otherwise "normalized".
            optimizer_options: Options of the rule, or of the climb.
            schedule: Factor of the learning rate, a key of `bilevel_gym.optimizers.SCHEDULES` or a
                callable (step, steps) -> factor.
            schedule_steps: Steps of each climb that the schedule runs over; None for those of the
                `learn` under way.
            spread: Standard deviation of the further starts, as a share of the width of the box.
            predicts: Whether `predict` returns the x of the largest value found ("best") or the
                current one of the climb that found it ("last").
            stats_window_size: Episodes over which statistics of episodes are averaged.
            tensorboard_log: Folder for TensorBoard, None for no such log.
            policy_kwargs: Arguments of the policy.
            verbose: 0 for silence, 1 for tables, 2 for debugging.
            seed: Seed of the further starts, and of everything random in the environments.
            device: Device of the policy; an accelerator would not speed anything up.
            _init_setup_model: Whether to build everything at once; `load` does it later.

        Raises:
            ValueError: If a name is unknown or an option is out of range.
            TypeError: If the rule does not take an option.
        """
        if isinstance(policy, str):
            check_choice("policy", policy, self.policy_aliases)
        if optimizer is not None:
            check_choice("`optimizer`", optimizer, (*RULES, *WITHOUT_RATE))
        if optimizer in WITHOUT_RATE and learning_rate is not None:
            raise ValueError(
                f"`learning_rate` must be None: optimizer {optimizer!r} has none, got "
                f"{received(learning_rate)}{WITHOUT_RATE[optimizer]}"
            )
        optional(check_at_least, "seed", seed, 0, 2**32 - 1)  # what Stable-Baselines3 takes
        if not isinstance(optimizer_options, dict | None):
            raise TypeError(
                f"`optimizer_options` must be a dict, got {received(optimizer_options)}"
            )
        super().__init__(
            policy=policy,
            env=env,
            learning_rate=0.0 if learning_rate is None else learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=(spaces.Box,),
        )
        if optimizer is None:
            suited = _suited(self.env) if learning_rate is None else None
            optimizer = suited or "normalized"
        if learning_rate is None:
            # Only rules have one.
            self.learning_rate = (
                RULES[optimizer] if optimizer in RULES else UpdateRule
            ).learning_rate
        self.optimizer = optimizer
        self.optimizer_options = dict(optimizer_options or {})
        self.schedule, self.schedule_steps = schedule, schedule_steps
        self.spread, self.predicts = spread, predicts
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        box = self._box()

        options = self.optimizer_options

        def begin(start: FloatArray, number: int) -> AnyClimb:
            if self.optimizer in RULES:
                return Climb(start, *box, make_rule(self.optimizer, *box, **options))
            seated = {"seed": (self.seed or 0) + number, **options}
            seat = _SeatOf(self._copies, number)
            return (SafeClimb if self.optimizer == "safe" else Told)(start, *box, seat, **seated)

        if self.optimizer in WITHOUT_RATE:
            reserved = ("callback", "between", "steps", "samples", "max_evaluations")
            run = OPTIMIZERS[self.optimizer]
            check_options(f"optimizer {self.optimizer!r}", run, options, reserved=reserved)
        else:
            make_rule(self.optimizer, *box, **options)
        if not callable(self.learning_rate):
            check_positive("learning_rate", self.learning_rate)
        make_schedule(self.schedule)
        optional(check_at_least, "schedule_steps", self.schedule_steps, 1)
        check_not_negative("spread", self.spread)
        check_choice("`predicts`", self.predicts, ("best", "last"))
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.climbs = _Climbs(begin)
        self.policy = self.policy_class(
            self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs
        ).to(self.device)

    @property
    def restarts(self) -> Restarts:
        """What each climb has found so far.

        Raises:
            RuntimeError: Before the first step of `learn`.
        """
        optima = [
            climb.optimum(f"{climb.evaluations} steps taken")
            for climb in self.climbs.all
            if climb.best is not None
        ]
        if not optima:
            raise RuntimeError("nothing has been found yet; call `learn` first")
        return Restarts.ranked(optima)

    @property
    def optimum(self) -> Optimum:
        """What the best climb has found so far, as `restarts`."""
        return self.restarts.optimum

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 10,
        tb_log_name: str = "HyperGradientAscent",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Maximise F; the arguments are those of `learn` in Stable-Baselines3.

        `total_timesteps` are leader steps, of all environments together; `log_interval` are steps
        between two entries of the log, None for no log. Callbacks are called after
        x has moved, so that what they save continues without a gap. With `reset_num_timesteps` the
        count and the schedule start again; x and the state of the optimiser continue in any case.

        Raises:
            TypeError: If the environment is not the leader's seat, or its method reports no
                hyper-gradient.
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        env = self.env
        assert env is not None
        self._begin(env)
        schedule = make_schedule(self.schedule)
        # The last x evaluated is the one that the last step of the schedule leads to.
        steps = self.schedule_steps or max(1, math.ceil(total_timesteps / self.n_envs) - 1)
        climbs = self.climbs.all[: self.n_envs]
        for climb in climbs:
            if not isinstance(climb, Climb):
                climb.extend(max(1, math.ceil(total_timesteps / self.n_envs)))
        iteration = 0
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps:
            callback.on_rollout_start()
            actions = np.stack([climb.x for climb in climbs])
            new_obs, rewards, dones, infos = env.step(actions)
            values = rewards
            if self._vec_normalize_env is not None:
                values = self._vec_normalize_env.get_original_reward()
            gradients = [_hyper_gradient(info) for info in infos]
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            rate = self.lr_schedule(self._current_progress_remaining)
            rate *= schedule(self.num_timesteps // self.n_envs, steps)
            for climb, value, gradient, info in zip(
                climbs, values.tolist(), gradients, infos, strict=True
            ):
                if isinstance(climb, Climb):
                    climb.move(value, gradient, rate)
                elif isinstance(climb, SafeClimb):
                    climb.take(value, gradient)
                else:  # searches along a line compare values in double precision
                    climb.move(float(info.get("objective", value)), gradient)
            self._n_updates += 1
            self._publish()
            self._last_obs, self._last_episode_starts = new_obs, dones  # type: ignore[assignment]
            self._update_info_buffer(infos, dones)
            self.num_timesteps += env.num_envs
            iteration += 1
            callback.update_locals(locals())
            if not callback.on_step():
                break
            callback.on_rollout_end()
            if log_interval is not None and iteration % log_interval == 0:
                self.logger.record("train/learning_rate", rate)
                self.dump_logs(iteration)
        for climb in climbs:
            if isinstance(climb, SafeClimb):
                climb.finish()
        self._publish()
        callback.on_training_end()
        return self

    def dump_logs(self, iteration: int = 0) -> None:
        """Write an entry of the log, after so many steps of this `learn`."""
        record = self.logger.record
        last = [c.last for c in self.climbs.all[: self.n_envs] if c.last is not None]
        for name, numbers in {
            "objective": [iterate.value for iterate in last],
            "hyper_gradient_norm": [float(np.linalg.norm(iterate.gradient)) for iterate in last],
            "projected_gradient_norm": [iterate.projected_gradient_norm for iterate in last],
        }.items():
            # Short evaluations of the safe climb have no gradient.
            record(f"train/{name}", safe_mean([number for number in numbers if number == number]))
        record("train/best_objective", self.optimum.best.value)
        record("train/n_updates", self._n_updates, exclude="tensorboard")
        # The entries on episodes and time are those of algorithms that learn from rollouts.
        OnPolicyAlgorithm.dump_logs(self, iteration)  # type: ignore[arg-type]

    def _copies(self) -> VecEnv:
        """Return the environments, which may be replaced."""
        assert self.env is not None
        return self.env

    def _box(self) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of x."""
        assert isinstance(self.action_space, spaces.Box)
        return self.action_space.low.astype(np.float64), self.action_space.high.astype(np.float64)

    def _begin(self, env: VecEnv) -> None:
        """Give every environment a climb, the best ones if there are more climbs."""
        if len(self.climbs.all) > self.n_envs:
            self.climbs.all.sort(key=_found, reverse=True)
        if len(self.climbs.all) < self.n_envs:
            infos = env.unwrapped.reset_infos
            starts = [np.asarray(info["upper_params"]) for info in infos if "upper_params" in info]
            if len(starts) < self.n_envs:
                raise TypeError(
                    "`HyperGradientAscent` needs the leader's seat, as gymnasium.make(id) returns "
                    'it: an environment whose `reset` reports info["upper_params"]; got '
                    f"{env.unwrapped}"
                )
            rng = np.random.default_rng(self.seed)
            around = starts_around(
                starts[0], *self._box(), self.n_envs, spread=self.spread, seed=rng
            )
            for number in range(len(self.climbs.all), self.n_envs):
                chosen = not np.array_equal(starts[number], starts[0])
                self.climbs.begin(starts[number] if chosen else around[number])
        self._publish()

    def _publish(self) -> None:
        """Tell the policy what to predict."""
        leader = max(self.climbs.all, key=_found)
        best = leader.best if self.predicts == "best" else None
        x = leader.x if best is None else best.upper_params
        assert isinstance(self.policy, UpperParamsPolicy)
        self.policy.x.copy_(th.from_numpy(x.copy()))

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "climbs"], []


allow(UpperParamsPolicy)


def _suited(env: VecEnv | None) -> str | None:
    """Return the optimizer without a learning rate that suits all copies, None if there is none."""
    if env is None or not env.has_attr("suited_optimizer"):
        return None
    if all(env.get_attr("can_go_back")):
        return "safe"
    return "climb" if set(env.get_attr("suited_optimizer")) == {"climb"} else None


def _found(climb: AnyClimb) -> float:
    """Return the largest value that a climb has found."""
    return -math.inf if climb.best is None else climb.best.value


def _hyper_gradient(info: Mapping[str, Any]) -> FloatArray:
    if info.get("hyper_gradient") is None:
        raise TypeError(
            '`HyperGradientAscent` needs info["hyper_gradient"], got an environment whose `step` '
            "reports none: it is not the leader's seat, or its method computes no hyper-gradient"
        )
    return np.array(info["hyper_gradient"], dtype=np.float64)
