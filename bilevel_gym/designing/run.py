"""A climb on the weights of terms of a reward, and what is kept of it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.files import replacing
from ..core.plain import readable
from ..core.progress import Paced, Progress
from ..core.state import read_tree, write_tree
from ..optimizers.safe import SafeClimb, safe
from ..plotting import load as load_plotting
from .results import Design, Score, plot_history, verdict_of

if TYPE_CHECKING:
    from ..core.mdp import FloatArray
    from ..envs.designed import DesignGame
    from ..learnt.followers import Follower
    from ..optimizers import Iterate
    from ..wrappers import HyperGradient

__all__ = ["CONFIG", "FILES", "LOCK", "Progress", "Run", "write_json"]

# What is in the folder of a run, and what of it is of use later on.
CONFIG, STATE, METHOD, LOCK = "config.json", "climb.npz", "method-{}.zip", "design.lock"
HISTORY, RESULT, PLOT, MODEL = "history.csv", "result.json", "progress.png", "follower.zip"
FILES = (HISTORY, RESULT, PLOT, MODEL)

# The state of a run is written so seldom that it takes this share of the time.
SHARE = 0.05

# Between two lines about a follower who is learning, in seconds.
SECONDS = 5.0

# What the method says of an estimate, for the history.
SAID = ("objective_se", "trust", "critic_explained", "kl_measured")


class Run:
    """A climb on the weights of terms, and what is kept of it."""

    def __init__(
        self, seat: HyperGradient[Any], steps: int, folder: Path | None, show: Progress
    ) -> None:
        """Begin at the leader's seat of a `DesignGame`, with so many environment steps in all."""
        game: Any = seat.game
        self._seat, self._steps, self._folder, self._show = seat, steps, folder, show
        self._game: DesignGame = game
        self._before = game.measured_steps  # environment steps that are not the seat's
        self._history: list[dict[str, Any]] = []
        self._seen = np.inf, -np.inf  # least and largest value of episodes watched
        self._start: tuple[FloatArray, Any] | None = None  # x and the follower's policy
        self._best: Iterate | None = None
        self._climb: SafeClimb | None = None
        self._due = 0.0  # when the state is written next
        self._pace = Paced(SECONDS)
        self._pace.again()
        self.interrupted = False

    @property
    def _follower(self) -> Follower:
        method: Any = self._seat.method  # which has another one once it was loaded
        follower: Follower = method.follower
        return follower

    @property
    def _used(self) -> int:
        return self._before + self._seat.samples

    def climb(self, x: FloatArray, seed: int, *, trust: bool) -> None:
        """Make the run, or what is left of it; the best follower is in the seat in the end."""
        from ..wrappers import LeaderObjective

        if self._folder is not None:
            load_plotting()
        leader = LeaderObjective(self._seat)
        resumes = self._folder is not None and (self._folder / STATE).exists()
        leader.resume(seed=None if resumes else seed)
        if not resumes:
            self._show(self._used, self._steps, "the follower learns under the first weights")
        try:
            found = safe(
                leader,
                x,
                leader.low,
                leader.high,
                samples=max(1, self._steps - self._game.measured_steps),
                seed=seed,
                callback=self._note,
                between=partial(self._between, trust=trust),
            )
        except KeyboardInterrupt:
            if self._climb is None or self._start is None:
                raise
            self._show(self._used, self._steps, "interrupted; keeping the best so far")
            self.interrupted = True
            found = self._climb.stop("interrupted")
        self._best = found.best

    def _tick(self, before: int, made: int, _: int, text: str) -> None:
        """Show how far a follower is that learns, now and then."""
        if self._pace.due():
            self._show(before + made, self._steps, text)

    def _note(self, iterate: Iterate) -> None:
        """Record an evaluation."""
        response: Any = self._seat.response
        values = self._seat.report().values
        least, most = self._seen
        self._seen = min(least, float(values.min())), max(most, float(values.max()))
        if self._start is None:
            self._start = iterate.upper_params, self._seat.snapshot()
        said = {name: getattr(response, name, None) for name in SAID}
        self._history.append(
            {
                "environment_steps": self._used,
                "phase": "climb" if np.isfinite(iterate.gradient).all() else "screen",
                "objective": iterate.value,
                **{name: value for name, value in said.items() if value is not None},
                "weights": self._game.weights(iterate.upper_params),
            }
        )
        best = max(entry["objective"] for entry in self._history)
        text = f"objective {iterate.value:.4g}, best {best:.4g}"
        self._show(self._used, self._steps, text)
        self._pace.again()

    # The folder ----------------------------------------------------------------------------------

    def _between(self, climb: SafeClimb, *, trust: bool) -> None:
        """Restore the state of a run that goes on, or keep it between two evaluations."""
        folder, first = self._folder, self._climb is None
        self._climb = climb
        if folder is not None and first and (folder / STATE).exists():
            self._restore(folder, trust)
        elif folder is not None and self._history:
            self._write_history(folder)
            if climb.over or time.monotonic() >= self._due:
                began = time.monotonic()
                self._keep(folder)
                now = time.monotonic()
                self._due = now + (now - began) / SHARE
        self._follower.progress = partial(self._tick, self._used)

    def _keep(self, folder: Path) -> None:
        assert self._climb is not None and self._start is not None
        method: Any = self._seat.method
        name = METHOD.format(len(self._history))
        method.save(folder / name)
        start = {"x": self._start[0], "policy": self._start[1]}
        state = {"used": self._used, "seen": self._seen, "history": self._history, "start": start}
        # Either both files count or those before them.
        write_tree(folder / STATE, {**state, "method": name, "climb": self._climb.state_dict()})
        for other in folder.glob(METHOD.format("*")):
            if other.name != name:
                other.unlink()

    def _restore(self, folder: Path, trust: bool) -> None:
        assert self._climb is not None
        method: Any = self._seat.method
        with readable(folder):
            state = read_tree(folder / STATE)
            method.load(folder / Path(state["method"]).name, trust=trust)
            self._before = int(state["used"])
            least, most = state["seen"]
            self._seen, self._history = (float(least), float(most)), list(state["history"])
            self._start = state["start"]["x"], state["start"]["policy"]
            self._climb.load_state_dict(state["climb"])
        self._show(self._used, self._steps, "going on")

    def _write_history(self, folder: Path) -> None:
        names = self._game.term_names
        columns = ["environment_steps", "phase", "objective", *SAID]
        with replacing(folder / HISTORY) as temporary, temporary.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow([*columns, *names])
            for entry in self._history:
                weights = [entry["weights"][name] for name in names]
                rows.writerow([*(entry.get(name, "") for name in columns), *weights])

    # The result ----------------------------------------------------------------------------------

    def result(self, seed: int, held_out: int, direct_options: Mapping[str, Any] | None) -> Design:
        """Compare the best follower with the one at the start, and with direct training."""
        assert self._best is not None and self._start is not None
        game, follower, used = self._game, self._follower, self._used
        rng = np.random.default_rng([seed, 1])
        x, direct = self._best.upper_params, None
        if self.interrupted:  # whoever interrupts does not wait for fresh episodes
            assert self._climb is not None
            start, objective = map(Score.of, self._climb.values)
        else:
            self._show(used, self._steps, f"comparing in {held_out} fresh episodes of each")
            policy = follower.snapshot()
            follower.restore(self._start[1])
            start = _score(game, follower, self._start[0], held_out, rng)
            follower.restore(policy)
            objective = _score(game, follower, x, held_out, rng)
        if direct_options is not None and not self.interrupted:
            try:
                text = f"training directly on the objective, {used} steps"
                self._show(0, self._steps, text)
                trained = _direct(game, direct_options, used, seed, partial(self._tick, 0))
                direct = _score(game, trained, np.ones(1), held_out, rng)
            except KeyboardInterrupt:  # the design is there already
                self._show(used, self._steps, "interrupted; direct training is left out")
        verdict = verdict_of(
            used, objective, start, direct, seen=self._seen, interrupted=self.interrupted
        )
        folder, weights = self._folder, game.weights(x)
        if folder is not None:
            follower.model.save(folder / MODEL, exclude=["replay_buffer"])
            self._write_history(folder)
            plot_history(game, self._history, folder / PLOT)
            scores = {"objective": objective, "start": start, "direct": direct}
            known = {name: score.as_json for name, score in scores.items() if score is not None}
            counted = {"environment_steps": used, "interrupted": self.interrupted}
            write_json(
                folder / RESULT, {"weights": weights, **known, "verdict": verdict, **counted}
            )
        return Design(
            weights=weights,
            upper_params=x,
            model=follower.model,
            objective=objective,
            start=start,
            direct=direct,
            verdict=verdict,
            history=self._history,
            environment_steps=used,
            interrupted=self.interrupted,
            game=game,
            folder=folder,
        )


def _score(
    game: DesignGame, follower: Follower, x: FloatArray, episodes: int, rng: np.random.Generator
) -> Score:
    """Return the objective of a follower in fresh episodes."""
    from ..learnt.estimators import returns

    played = follower.play(x, episodes, rng)
    return Score.of(returns(played.upper_rewards, game.upper_gamma))


def _direct(
    game: DesignGame,
    options: Mapping[str, Any],
    steps: int,
    seed: int,
    progress: Progress,
) -> Follower:
    """Return the same learner, trained for so many steps with the objective as its reward."""
    from ..envs.designed import DesignGame
    from ..envs.terms import OWN_REWARD
    from ..learnt.followers import Follower

    # What the environment pays there is the objective of the game here.
    paid = DesignGame(
        game.make_environment,
        [OWN_REWARD],
        own_reward=False,
        constant=False,
        scales=[1.0],
        measured_steps=1,
        gamma=game.gamma,
        temperature=game.temperature,
    )
    follower = Follower(
        paid,
        steps=steps,
        first_steps=steps,
        options=options.get("inner_options"),
        standardise=options.get("standardise", True),
    )
    follower.reset(np.random.default_rng([seed, 2]))
    follower.progress = progress
    follower.learn(np.ones(1))
    return follower


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write how a run was started, or what it reached."""
    with replacing(path) as temporary:
        text = json.dumps(content, indent=2, default=repr)
        temporary.write_text(text + "\n", encoding="utf-8")
