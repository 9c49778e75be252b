"""The leader's seat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NotRequired, TypedDict, cast

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from ..core.checks import check_at_least, check_flag, check_reset_options, received
from ..core.mdp import FloatArray
from ..core.progress import Lines, Progress, told_to
from ..envs.base import View, shown
from ..envs.ids import leader_id
from ..methods import Response, make_method
from ..methods.registry import WrongAnswer, checked_response
from ..model import BilevelModel, evaluate_batch
from ..model.protocols import LearntMethod, Resumable, Revisable, StepsTogether, Tells
from ..model.responses import EpisodicResponse
from ..model.starts import easier_models, suggested_starts
from ..optimizers import projected_gradient_norm
from ..optimizers.climb import Start
from ..optimizers.revisable import Report
from ..rendering import notebook_picture
from .reporting import answer_in_words
from .seats import GameT, NotThere, Seat, plain, take_seat

__all__ = ["HyperGradient", "LeaderInfo"]

RESET_OPTIONS = ("upper_params", "keep_learnt")

# Steps of an episode of the leader.
OUTER_STEPS = 100


class LeaderInfo(TypedDict):
    """`info` of the leader's seat; a key is absent where the method does not compute the value.

    Numbers have a dtype, as TorchRL's readers of infos ask for: NumPy scalars, and for flags arrays
    of shape (), which Gymnasium's vectors stack as they stack `bool`. Arrays are fresh in each
    step. `bilevel_gym.model.responses` says what is said of an answer.
    """

    objective: float  # F(x), as the method estimates it
    upper_params: FloatArray  # the x answered, float64
    hyper_gradient: FloatArray  # derivative of the reward by the action, float64, shape of x
    inner_residual: NotRequired[float]  # how well the follower's problem was solved
    inner_iterations: NotRequired[np.int64]
    inner_converged: NotRequired[NDArray[np.bool_]]  # shape ()
    inner_samples: NotRequired[np.int64]  # environment steps used
    lower_value: NotRequired[float]  # the follower's soft value at the start
    temperature: NotRequired[float]  # of this answer, where the method lowers it
    unregularised_optimistic: NotRequired[float]  # F without entropy, beside it
    unregularised_pessimistic: NotRequired[float]
    objective_se: NotRequired[float]  # standard errors of estimates
    hyper_gradient_se: NotRequired[FloatArray]  # float64, shape of x
    hyper_gradient_cosine: NotRequired[float]  # to the one without errors, as expected
    coverage: NotRequired[float]  # 0..1, share of a tabular follower's actions that were seen
    critic_loss: NotRequired[float]  # of followers who learn, as all that follow
    critic_explained: NotRequired[float]  # share of variance
    cut_share: NotRequired[float]  # of the watched episodes
    kl_predicted: NotRequired[float]  # of the follower's policy from the one before
    kl_measured: NotRequired[float]
    trust: NotRequired[float]  # 0..1; `response.trust_reason` says why
    trust_ratio: NotRequired[float]


class HyperGradient(Seat[GameT], RecordConstructorArgs):
    """The leader's seat: a step chooses x, the follower answers, the reward is F(x).

    Action: x, the game's `upper_space` (float64 actions are used at full precision).
    Observation: what the leader sees of the answer, the game's `leader_observation_space`.
    Reward: the objective F(x) = f(x, pi*(x)), to be maximised. It is what the method takes for it:
    exact for exact methods; f at their own policy for those that approximate the follower's answer,
    and an average over episodes for those that sample. `game.evaluate(x)` is exact in any case.
    Info, also from `reset` (at the initial x): a `LeaderInfo`.

    An episode has `outer_steps` steps and ends by truncation; stepping on afterwards keeps the
    inner learner's warm start. `reset` forgets the warm start, so a seed determines everything that
    follows. `reset(options={"upper_params": x})` starts elsewhere.

    `reset(options={"keep_learnt": True})` begins an episode without resetting the method: the
    follower goes on with all that it has learnt, and with its own random numbers. The answer is,
    bit by bit, that of a `step` at the same x, and so are all that follow; after
    `seat.method.load(path)` (of methods whose follower learns), in a fresh process too. Agents
    reset by themselves where an episode ends: with `HyperGradient(env, keep_learnt=True)` resets
    without a seed keep what was learnt.

    Where a follower learns, an answer may take long. With `seat.progress = show` it then calls
    `show(done, total, doing)`: the environment steps learnt so far under this x, all of them, and
    what is being done. Exact answers that take longer than a second call it with 0 of 0 steps, as
    nobody knows how many there will be. `verbose=1` prints that now and then, and a line for each
    answer.

    Every registered game comes in this seat, with its options beside those of the game:
    `gymnasium.make(id, method="trace", episodes=64, slip=0.2)`. Wrapping again replaces it:
    `HyperGradient(gymnasium.make(id), method=..., outer_steps=...)`.

    Source of the hyper-gradient: Yang, Gao, Yuan, AISTATS 2025, arXiv 2405.19697.

    Example:
        >>> import bilevel_gym, gymnasium as gym
        >>> env = gym.make("BilevelGridWorld-v0", outer_steps=20)
        >>> observation, info = env.reset(seed=0)
        >>> observation, objective, terminated, truncated, info = env.step(info["upper_params"])
        >>> print(f"{objective:.6f} {info['hyper_gradient'].shape}")
        -1.198591 (52,)
    """

    own_id = staticmethod(leader_id)

    def __init__(
        self,
        env: GameT | Seat[GameT] | gym.Env[Any, Any],
        method: str | None = None,
        outer_steps: int = OUTER_STEPS,
        keep_learnt: bool = False,
        verbose: int = 0,
        **method_options: Any,
    ) -> None:
        """Initialise the leader's seat.

        Args:
            env: A game, in no seat or in one that this seat replaces.
            method: Name of the method, a key of the game's `methods` (`bilevel_gym.methods.METHODS`
                unless its follower learns), a registered one, or "module:Class"; None for the
                game's default, which is "exact" wherever there is an exact answer.
            outer_steps: Steps of the leader's episode, at least 1.
            keep_learnt: Whether resets without a seed keep what was learnt, if anything was.
            verbose: 1 prints a line for each answer, and how far it is where the follower learns;
                0 prints nothing.
            **method_options: Options of the method, of JSON types (NumPy scalars are converted).

        Raises:
            TypeError: If a wrapper stands between the seat and the game, or the method does not
                take an option or does not suit the game.
            ValueError: If the method is unknown, or an option is out of range.
        """
        inner, game, _ = take_seat(HyperGradient, env)
        outer_steps = check_at_least("outer_steps", outer_steps, 1)
        keep_learnt = check_flag("keep_learnt", keep_learnt)
        verbose = check_at_least("verbose", verbose, 0, 1)
        method_options = plain(method_options)  # so that specs can be written
        given: dict[str, Any] = {} if method is None else {"method": method}
        method = game.default_method if method is None else method
        learner = make_method(method, game, **method_options)
        kept: dict[str, Any] = {"keep_learnt": True} if keep_learnt else {}
        kept |= {"verbose": verbose} if verbose else {}
        RecordConstructorArgs.__init__(
            self, method=method, outer_steps=outer_steps, **kept, **method_options
        )
        length = {} if outer_steps == OUTER_STEPS else {"outer_steps": outer_steps}
        self._options = {**given, **length, **kept, **method_options}
        gym.Wrapper.__init__(self, inner)
        self.game = cast("GameT", game)
        self.method = learner
        self.outer_steps, self._keep_learnt = outer_steps, keep_learnt
        self.action_space = game.upper_space
        self.observation_space = game.leader_observation_space
        game.draws_itself = False
        self._response: Response | None = None
        self._steps, self._samples, self._restored = 0, 0, False
        self._lines = Lines(partial(print, flush=True)) if verbose else None
        self.progress: Progress | None = None
        self._easier: Sequence[BilevelModel] = ()

    @property
    def response(self) -> Response:
        """The follower's last answer.

        Raises:
            ResetNeeded: Before the first `reset`.
        """
        if self._response is None:
            raise NotThere("the leader's seat has no answer yet; call `reset` first")
        return self._response

    @property
    def info(self) -> LeaderInfo:
        """What is reported of the follower's last answer, afresh."""
        response = self.response
        info: dict[str, Any] = {}
        for key, field in response.reported.items():
            value = getattr(response, field)
            if value is not None:
                # A copy: what the caller does to an array must not reach the response.
                copied = np.array(value)
                info[key] = copied if copied.dtype == np.bool_ else copied[()]
        return cast("LeaderInfo", info)

    def reset(  # type: ignore[override]  # a TypedDict is a dict
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, LeaderInfo]:
        """Start an episode of the leader.

        Args:
            seed: Seed of everything random that follows, the inner learner included.
            options: `{"upper_params": x}` starts at x instead of the game's initial one.
                `{"keep_learnt": True}` keeps what the method has learnt, and its random numbers;
                no seed goes with it. The default is that of the constructor.

        Raises:
            ResetNeeded: If nothing can have been learnt that would be kept.
            ValueError: If an option is unknown, x is out of range, or there is a seed for a method
                that is not reset; nothing changes.
        """
        options = check_reset_options(options, RESET_OPTIONS)
        method = self.method
        learnt = (
            self._response is not None
            or self._restored
            or (isinstance(method, LearntMethod) and bool(method.follower.answered))
        )
        options.setdefault("keep_learnt", self._keep_learnt and seed is None and learnt)
        kept = checked_keep(options, seed, learnt)
        del options["keep_learnt"]
        x = options.get("upper_params", self.game.initial_upper_params)
        x = self.game.validate_upper_params(x)
        if kept:
            # The method may draw from the game's generator: the game's own episode, which is there
            # for pictures, takes nothing out of it.
            generator = self.game.np_random.bit_generator
            drawn = generator.state
            self.env.reset(options=options)
            generator.state = drawn
        else:
            self.env.reset(seed=seed, options=options)
            self.method.reset(self.game.np_random)
        self._steps = 0
        return self._answer(x)

    def step(  # type: ignore[override]
        self, action: Any
    ) -> tuple[Any, float, bool, bool, LeaderInfo]:
        """Choose x and let the follower answer.

        Args:
            action: x, shape of `action_space`.

        Raises:
            ResetNeeded: Before the first `reset`.
            ValueError: If x is not finite, out of bounds or of the wrong shape; nothing changes.
        """
        if self._response is None:
            raise ResetNeeded("`step` needs a `reset` first: it starts the leader's episode")
        observation, info = self._answer(self.game.validate_upper_params(action), advance=1)
        return observation, float(info["objective"]), False, self._steps >= self.outer_steps, info

    # As `bilevel_gym.optimizers.climb` asks for, for climbs from many starts.

    def answers(self, xs: Sequence[FloatArray]) -> Iterator[LeaderInfo]:
        """Yield the `info` of several x, which count as steps; exact answers are found together.

        Those found together do not depend on what was answered before.
        """
        method, xs = self.method, [self.game.validate_upper_params(x) for x in xs]
        found: Iterable[Response] = map(method.step, xs)
        if isinstance(method, StepsTogether):
            with told_to(self._tell if self._lines or self.progress else None):
                found = method.step_together(xs)
        for x, response in zip(xs, found, strict=True):
            self._take(checked_response(response, x, method), advance=1)
            yield self.info

    def starts(self, x: FloatArray, most: int) -> list[Start]:
        """Return where else to start than at x; nowhere unless the answers are exact."""
        return suggested_starts(self._model, x, most) if self._model is not None else []

    def ease(self, x: FloatArray) -> int:
        """Return how many easier problems there are on the way from x, for `eased`."""
        self._easier = easier_models(self._model, x) if self._model is not None else ()
        return len(self._easier)

    def eased(self, number: int, xs: Sequence[FloatArray]) -> list[tuple[float, FloatArray]]:
        """Return objective and hyper-gradient of x in one of the easier problems."""
        self._tell(number + 1, len(self._easier), "easier problems")
        answers = evaluate_batch(self._easier[number], xs)
        return [(answer.objective, answer.hyper_gradient) for answer in answers]

    @property
    def suited_optimizer(self) -> str | None:
        """The optimizer that suits the answers: "climb", "safe", or None for one of plain steps.

        Exact answers allow for line searches, far starts and other problems in between; a follower
        who can be put back, and episodes that can be watched again, for the safe climb.
        """
        from ..methods.sampled import Sampled

        if self.method.exact:
            return "climb"
        return "safe" if isinstance(self.method, Revisable | Sampled) else None

    @property
    def _model(self) -> BilevelModel | None:
        model = self.game.model
        return model if self.method.exact and isinstance(model, BilevelModel) else None

    # As a `bilevel_gym.optimizers.revisable.Revisable`, for climbs that go back.

    def measure(self, x: FloatArray) -> Report:
        """Let the follower answer x more briefly than `step` does, without a hyper-gradient.

        Methods without a shorter way answer as usual.
        """
        self._answer(self.game.validate_upper_params(x), brief=True)
        return self.report()

    def watch(self, x: FloatArray) -> FloatArray:
        """Return the leader's values of fresh episodes of the follower as it is, `[N]`.

        Where there are no episodes, the follower answers x once more.
        """
        method, x = self.method, self.game.validate_upper_params(x)
        answer = method.watch(x) if isinstance(method, Revisable) else method.step(x)
        response = checked_response(answer, x, method)
        self._samples += response.samples or 0
        return self._values(response)

    def report(self) -> Report:
        """Return what is known of the last answer."""
        response = self.response
        known = {name: getattr(response, name, None) for name in ("metric", "spread")}
        spread, cosine = known["spread"], getattr(response, "hyper_gradient_cosine", None)
        values = self._values(response)
        length = response.summary[2] if isinstance(response, EpisodicResponse) else 0.0
        with np.errstate(divide="ignore"):
            units = None if spread is None else self.game.temperature / spread
        return Report(
            values=values,
            metric=known["metric"],
            units=units,
            cosine=1.0 if cosine is None else cosine,
            divergence=getattr(response, "kl_measured", None),
            watched=round(length * len(values)),
        )

    def snapshot(self) -> NDArray[Any] | None:
        """Return the follower's policy, without what it learns from; None if it has no memory."""
        method = self.method
        return method.follower.snapshot() if isinstance(method, LearntMethod) else None

    def restore(self, snapshot: NDArray[Any] | None) -> None:
        """Put the follower back to a policy of `snapshot`, as often as wanted."""
        method = self.method
        if snapshot is not None and isinstance(method, LearntMethod):
            method.follower.restore(snapshot)

    @property
    def can_go_back(self) -> bool:
        """Whether the follower learns, and can be put back where it was and watched."""
        return isinstance(self.method, Revisable) and isinstance(self.method, LearntMethod)

    @property
    def samples(self) -> int:
        """Environment steps used since this seat was made."""
        return self._samples

    def _values(self, response: Response) -> FloatArray:
        values = getattr(response, "values", None)
        return np.array([response.objective]) if values is None else values

    def state_dict(self) -> dict[str, Any]:
        """Return what all later answers depend on, as nested dicts of numbers and arrays.

        Raises:
            TypeError: If the method has no `state_dict`; those whose follower learns have `save`.
        """
        return {
            "method": self._resumable.state_dict(),
            "generator": self.game.np_random.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another seat was, made as this one, from what its `state_dict` returned.

        `reset(options={"keep_learnt": True, "upper_params": x})` then answers x, bit by bit, as a
        `step` of the other seat would have.

        Raises:
            TypeError: If the method has no `load_state_dict`.
            ValueError: If the state is that of something else.
        """
        method, generator = self._resumable, self.game.np_random
        try:
            generator.bit_generator.state = state["generator"]
            self.method.reset(generator)
            method.load_state_dict(state["method"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"`state` is not that of {self}: {error}") from error
        self._restored = True

    @property
    def _resumable(self) -> Resumable:
        if not isinstance(self.method, Resumable):
            raise TypeError(
                f"the method {type(self.method).__name__} has no `state_dict` and "
                "`load_state_dict`, which keep what it goes on from"
            )
        return self.method

    def render(self) -> Any:
        """Show x, the follower's answer to it and the hyper-gradient."""
        return self.game.show(self.view())

    def view(self) -> View:
        """Return what `render` shows."""
        response = self.response
        status: tuple[tuple[str, str], ...] = (("objective", shown(response.objective)),)
        if response.lower_value is not None:
            status += (("lower value", shown(response.lower_value)),)
        if response.hyper_gradient is not None:
            x, space = response.upper_params, self.game.upper_space
            low, high = (end.astype(np.float64) for end in (space.low, space.high))
            norm = projected_gradient_norm(x, response.hyper_gradient, low, high)
            status += (("|projected gradient|", f"{norm:.3g}"),)
        return View(
            title=self.game.headline("leader"),
            upper_params=response.upper_params,
            response=response,
            status=(*status, ("step", str(self._steps))),
        )

    def _tell(self, done: int, total: int, doing: str) -> None:
        """Say how far the answer under way is."""
        for tell in (self._lines, self.progress):
            if tell is not None:
                tell(done, total, doing)

    def _repr_png_(self) -> bytes | None:
        if self._response is None:
            return super()._repr_png_()
        return notebook_picture(lambda: self.game.draw(self.view()))

    def _said(self) -> dict[str, Any]:
        length = {"outer_steps": self.outer_steps} if "outer_steps" in self._options else {}
        return {"method": self.method, **length}

    def _answer(
        self, x: FloatArray, *, advance: int = 0, brief: bool = False
    ) -> tuple[Any, LeaderInfo]:
        method = self.method
        if isinstance(method, Tells) and (self._lines or self.progress):
            method.progress = self._tell
        ask = method.measure if brief and isinstance(method, Revisable) else method.step
        with told_to(self._tell if self._lines or self.progress else None):
            response = checked_response(ask(x), x, method)
        self._take(response, advance)
        info = self.info
        try:
            return self.game.observe(response), info
        except TypeError as error:
            wanted = f"an answer that {self.game.title} can observe"
            raise WrongAnswer(self.method, wanted, f"another: {error}") from error

    def _take(self, response: Response, advance: int) -> None:
        """Make a response the last one, and show it."""
        self._response = response
        self._samples += response.samples or 0
        self._steps += advance
        if self._lines is not None:
            said = answer_in_words(response, self._samples)
            self._lines.say(f"[{self._steps}/{self.outer_steps}] {said}")
        if self.render_mode == "human":
            self.render()


def checked_keep(options: dict[str, Any], seed: object, learnt: bool) -> bool:
    """Return whether a reset leaves what has been learnt, if anything has.

    Raises:
        ResetNeeded: If nothing can have been learnt that would be left.
        ValueError: If it is no flag, or there is a seed with it.
    """
    kept = check_flag("keep_learnt", options.get("keep_learnt", False))
    if kept and seed is not None:
        raise ValueError(
            "`seed` must be None with `keep_learnt`, under which the method goes on with its own "
            f"random numbers, got {received(seed)}"
        )
    if kept and not learnt:
        raise ResetNeeded("`keep_learnt` needs something learnt; first call `reset` without it")
    return kept
