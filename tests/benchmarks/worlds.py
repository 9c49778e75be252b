"""What the climb reaches on eleven environments with one set of defaults, and what others reach.

Run it as `python -m tests.benchmarks.worlds`; in full it takes hours. Each result is a line of a
file (`--out`) at once, and what the file has is not run again, so it may be interrupted. The report
is printed from the file, and alone with `--contenders none`. `tests.benchmarks.worlds_tasks` has
the environments, and the terms of the follower's reward that the leader weighs.

Each contender has the same learner, `--steps` environment steps, and a seed:

* start: the follower at the initial x, after 3000 steps;
* climb: the package's default climb from there. `--set` changes an option, for an ablation that
  `--tag` names: NAME=VALUE of the climb, `seat.NAME=VALUE` of the leader's seat (`seat.method`, or
  an option of the method) and `game.NAME=VALUE` of the game, values in JSON or plain text;
* direct: the learner on the leader's own reward, as it is, without any x. After each eighth of the
  steps it is watched for 16 episodes, and the best checkpoint is returned;
* cma: CMA-ES over x in units of temperature / spread, the spread being the standard deviation of
  dr_x/dx over the steps of the start, by knob: a unit moves the rewards of actions by the
  temperature. Six candidates a generation, at first with standard deviation 4; for each, the
  start's follower goes on for 500 steps, with one replay for all, and is watched for 8 episodes
  (fewer, at least 2, where they are longer than 250 steps). The best three are watched anew; the
  best goes on at its x for what is left, is watched after each 1000 steps, and is returned as it
  was at best.

Steps are all that the learner makes, and all that are watched to choose something; the checkpoints
of direct training are watched for free, in its favour. The score is the leader's return, not
discounted, in 30 fresh episodes of the follower that is returned, by a seed of their own; they
count for nobody.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from bilevel_gym import HyperGradient
from bilevel_gym.core.mdp import FloatArray
from bilevel_gym.envs import ParametricGame
from bilevel_gym.episodes.recorded import LearntEpisodes
from bilevel_gym.learnt.estimators import returns
from bilevel_gym.learnt.followers import Follower
from bilevel_gym.methods import make_method
from bilevel_gym.optimizers import make_optimizer
from bilevel_gym.optimizers.base import Stopped
from bilevel_gym.sb3.soft_learner import SoftLearner
from bilevel_gym.wrappers import LeaderObjective

from .worlds_report import Job, Record, Score, append, print_report, read
from .worlds_tasks import WORLDS, make

OUT = Path("worlds.jsonl")
FIRST_STEPS, HELD_OUT = 3000, 30

CHECKPOINTS, CHECKPOINT_EPISODES = 8, 16

POPULATION, WIDTH, CANDIDATE_STEPS, FINALISTS, LAST_STEPS = 6, 4.0, 500, 3, 1000
# Most steps that a candidate is watched for, and bounds of its episodes; the least spread.
WATCHED_STEPS, LEAST_EPISODES, MOST_EPISODES, LEAST_SPREAD = 2000, 2, 8, 1e-2

# x, and the follower that goes with it.
Found = tuple[FloatArray, Follower]


# Contenders --------------------------------------------------------------------------------------


def start(game: ParametricGame, steps: int, seed: int) -> Found:
    """Train a follower at the initial x."""
    follower, x = learner(game, seed, steps), game.initial_upper_params
    follower.learn(x)
    return x, follower


def climb(
    game: ParametricGame,
    steps: int,
    seed: int,
    seat: Mapping[str, Any] | None = None,
    optimizer: str = "safe",
    **options: Any,
) -> Found:
    """Climb by the package's defaults; along another optimizer until the steps are used up."""
    leader = LeaderObjective(HyperGradient(game, **(seat or {})))
    leader.resume(seed=seed)
    method: Any = leader.seat.method
    box = game.initial_upper_params, leader.low, leader.high
    if optimizer == "safe":
        optimum = make_optimizer("safe", samples=steps, seed=seed, **options)(leader, *box)
        return optimum.best.upper_params, method.follower

    def objective(x: FloatArray) -> tuple[float, FloatArray]:
        if leader.samples >= steps:
            raise Stopped
        return leader(x)

    with suppress(Stopped):
        make_optimizer(optimizer, **{"steps": steps, **options})(objective, *box)
    return leader.info["upper_params"], method.follower


def direct(game: ParametricGame, steps: int, seed: int) -> Found:
    """Train a follower on the leader's reward, and return the best checkpoint."""
    follower, x = learner(game, seed, steps), game.initial_upper_params
    model, rng = follower.model, np.random.default_rng([seed, 1])
    stage = DummyVecEnv([lambda: LeaderRewards(game)])
    stage.seed(seed)
    model.set_env(stage)
    checkpoints: list[tuple[float, Any]] = []
    for part in range(1, CHECKPOINTS + 1):
        due = part * steps // CHECKPOINTS - model.num_timesteps
        model.learn(due, reset_num_timesteps=part == 1, log_interval=None)
        played = follower.play(x, CHECKPOINT_EPISODES, rng)
        checkpoints.append((total(played).mean, follower.snapshot()))
    follower.restore(max(checkpoints, key=lambda checkpoint: checkpoint[0])[1])
    return x, follower


class LeaderRewards(gym.Wrapper[Any, Any, Any, Any]):
    """A game's environment with the leader's reward, under the follower's convention of entropy."""

    def __init__(self, game: ParametricGame) -> None:
        super().__init__(game.make_environment())
        self._game, self._seen = game, None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        self._seen, info = self.env.reset(**options)
        return self._seen, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step."""
        game, x = self._game, self._game.initial_upper_params
        before, taken = np.asarray(self._seen)[None], np.asarray(action)[None]
        self._seen, own, terminated, truncated, info = self.env.step(action)
        leader = game.upper_reward(before, taken, np.array([float(own)]))
        # What a game takes off r_x so that entropy is relative to that of the uniform policy.
        offset = game.reward(x, before, taken) - game.reward_model.rewards(x, before, taken)
        return self._seen, float((leader + offset)[0]), terminated, truncated, info


class Candidate(NamedTuple):
    """An x of the search, what the leader's return was, and the follower's networks."""

    x: FloatArray
    score: Score
    networks: Any

    @property
    def bound(self) -> float:
        """What candidates are ranked by."""
        return self.score.mean - self.score.error


class Search:
    """One follower who goes on learning, for one candidate after the other.

    Attributes:
        used: Environment steps so far.
        length: The longest mean length of episodes so far.
    """

    def __init__(self, game: ParametricGame, seed: int, steps: int) -> None:
        self._game, self._rng = game, np.random.default_rng([seed, 2])
        self.follower = learner(game, seed, steps, CANDIDATE_STEPS)
        self.used, self.length = 0, 1.0

    def learn(self, x: FloatArray) -> None:
        """Go on under x."""
        self.used += self.follower.learn(x)

    def watch(self, x: FloatArray) -> Candidate:
        """Return what there is at x."""
        played = self.follower.play(x, self.episodes, self._rng, keep=True)
        self.used += played.num_steps
        self.length = max(self.length, played.num_steps / played.num_episodes)
        paid = returns(played.upper_rewards, self._game.upper_gamma)
        return Candidate(x, mean_of(paid), self.follower.snapshot())

    @property
    def episodes(self) -> int:
        """How many are watched."""
        fitting = int(WATCHED_STEPS // self.length)
        return min(max(fitting, LEAST_EPISODES), MOST_EPISODES)

    @property
    def watch_steps(self) -> float:
        """Environment steps of a `watch`, about."""
        return self.episodes * self.length

    def spread(self, x: FloatArray) -> FloatArray:
        """Return the standard deviation of dr_x/dx over the replay, by knob, `[D]`."""
        replay, rng = self.follower.model.replay_buffer, np.random.default_rng(0)
        assert replay is not None
        steps = replay.transitions(np.arange(replay.size()), rng)
        found = []
        for knob in np.eye(len(x)):
            above, below = (
                self._game.reward(x + move, steps.observations, steps.actions)
                for move in (1e-3 * knob, -1e-3 * knob)
            )
            found.append(float(((above - below) / 2e-3).std()))
        return np.maximum(found, LEAST_SPREAD)


def cma(game: ParametricGame, steps: int, seed: int) -> Found:
    """Search by CMA-ES, and return the best x with its follower."""
    from cma import CMAEvolutionStrategy

    search, x0 = Search(game, seed, steps), game.initial_upper_params
    follower, box = search.follower, game.upper_space
    search.learn(x0)
    first = search.watch(x0)
    unit = game.temperature / search.spread(x0)
    options = {"popsize": POPULATION, "seed": seed + 1, "verbose": -9}
    strategy = CMAEvolutionStrategy(np.zeros(len(x0)), WIDTH, options)
    best = [first]

    def goes_on() -> bool:
        # There must be enough for another candidate and for the finalists.
        left = steps - search.used
        return left >= CANDIDATE_STEPS + (FINALISTS + 1) * search.watch_steps

    while goes_on():
        asked, values = strategy.ask(), []
        for units in asked:
            x = np.clip(x0 + units * unit, box.low, box.high).astype(np.float64)
            follower.restore(first.networks)
            search.learn(x)
            found = search.watch(x)
            values.append(-found.score.mean)
            best = sorted([*best, found], key=lambda one: -one.bound)[:FINALISTS]
            if not goes_on():
                break
        else:
            strategy.tell(asked, values)
    finalists = []
    for one in best:
        follower.restore(one.networks)
        mean = (one.score.mean + search.watch(one.x).score.mean) / 2.0
        finalists.append((mean, one.x, one.networks))
    value, x, networks = max(finalists, key=lambda finalist: finalist[0])
    follower.restore(networks)
    while search.used + LAST_STEPS + search.watch_steps <= steps:
        for _ in range(LAST_STEPS // CANDIDATE_STEPS):
            search.learn(x)
        found = search.watch(x)
        if found.score.mean > value:
            value, networks = found.score.mean, found.networks
    follower.restore(networks)
    return x, follower


CONTENDERS: dict[str, Callable[..., Found]] = {
    "start": start,
    "climb": climb,
    "direct": direct,
    "cma": cma,
}


def learner(game: ParametricGame, seed: int, steps: int, later: int = 1) -> Follower:
    """Return the follower of the game's default method, untrained.

    It learns `FIRST_STEPS` for the first x, or `steps` if that is less, and `later` for others.
    """
    options = {"first_inner_steps": min(FIRST_STEPS, steps), "inner_steps": later}
    method: Any = make_method(game.default_method, game, **options)
    method.reset(np.random.default_rng(seed))
    follower: Follower = method.follower
    return follower


def mean_of(values: FloatArray) -> Score:
    """Return the mean of independent values and its standard error."""
    return Score(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))))


def total(played: LearntEpisodes) -> Score:
    """Return the mean of the leader's return over episodes, not discounted."""
    return mean_of(played.upper_rewards.sum(axis=0))


# Jobs --------------------------------------------------------------------------------------------


class Steps:
    """Environment steps of all followers: those learnt, and those of episodes played."""

    def __init__(self) -> None:
        self.learnt = self.watched = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is done in the block, whoever does it."""
        learn, play = SoftLearner.learn, Follower.play

        def counted_learn(model: Any, total_timesteps: int, *args: Any, **options: Any) -> Any:
            before = 0 if options.get("reset_num_timesteps", True) else model.num_timesteps
            result = learn(model, total_timesteps, *args, **options)
            self.learnt += model.num_timesteps - before
            return result

        def counted_play(follower: Follower, *args: Any, **options: Any) -> LearntEpisodes:
            played = play(follower, *args, **options)
            self.watched += played.num_steps
            return played

        with (
            patch.object(SoftLearner, "learn", counted_learn),
            patch.object(Follower, "play", counted_play),
        ):
            yield


def run(job: Job, settings: Mapping[str, Any]) -> Record:
    """Run a job, and watch what it returns.

    `settings` are options of the climb, those of the seat and the game with a prefix.
    """
    th.set_num_threads(1)  # networks this small are slower on more
    warnings.simplefilter("ignore")
    parts: dict[str, dict[str, Any]] = {"game": {}, "seat": {}, "climb": {}}
    for name, value in settings.items():
        part, dot, option = name.rpartition(".")
        parts[part if dot else "climb"][option] = value
    options = {"seat": parts["seat"], **parts["climb"]} if job.contender == "climb" else {}
    game, steps, began = make(job.world, **parts["game"]), Steps(), time.process_time()
    with steps.counting():
        x, follower = CONTENDERS[job.contender](game, job.budget, job.seed, **options)
    seconds = time.process_time() - began
    played = follower.play(x, HELD_OUT, np.random.default_rng([job.seed, 777]))
    return Record(
        job,
        *total(played),
        length=played.num_steps / HELD_OUT,
        learnt=steps.learnt,
        watched=steps.watched,
        seconds=round(seconds, 2),
        x=x.tolist(),
        settings=dict(settings),
    )


def run_all(jobs: list[Job], settings: Mapping[str, Any], out: Path, workers: int) -> bool:
    """Run jobs, write each result at once, and return whether there were no errors."""
    whole = True
    with ProcessPoolExecutor(workers) as pool:
        tasks = {pool.submit(run, job, settings): job for job in jobs}
        try:
            for number, task in enumerate(as_completed(tasks), start=1):
                label = f"{number}/{len(jobs)} {' '.join(map(str, tasks[task][:-1])).strip()}"
                error = task.exception()
                if error is not None:
                    whole = False
                    print(f"{label} failed", file=sys.stderr)
                    traceback.print_exception(error)
                    continue
                record = task.result()
                append(out, record)
                steps = f"{record.learnt} steps learnt, {record.watched} watched"
                print(f"{label}: {record.score}; {steps}; {record.seconds:.0f} s", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    return whole


def setting(text: str) -> tuple[str, Any]:
    """Return the name and the value of an option."""
    name, equals, value = text.partition("=")
    if not equals or name.rpartition(".")[0] not in ("", "game", "seat"):
        raise argparse.ArgumentTypeError(f"expected [game.|seat.]NAME=VALUE, got {text!r}")
    for parse in (json.loads, float):  # .1 is no JSON
        with suppress(ValueError):
            return name, parse(value)
    return name, value


def main() -> int:
    """Run what is missing, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS, metavar="ID")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--contenders", nargs="+", choices=[*CONTENDERS, "none"])
    parser.add_argument("--steps", type=int, default=50_000, help="of each contender")
    parser.add_argument("--out", type=Path, default=OUT, help="file of the results")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--tag", default="", help="name of an ablation")
    args = parser.parse_args()
    settings = dict(args.set)
    if bool(settings) != bool(args.tag):
        parser.error("--set needs a --tag to be recorded under, and --tag something that is set")
    records = read(args.out)
    if any(job.tag == args.tag and one.settings != settings for job, one in records.items()):
        parser.error(f"{args.out} has results of {args.tag!r} with other settings")
    contenders = args.contenders or (["climb"] if args.tag else list(CONTENDERS))
    jobs = [
        Job(args.tag, world, seed, contender, args.steps)
        for seed in args.seeds
        for world in args.worlds
        for contender in contenders
        if contender != "none"
    ]
    left = [job for job in jobs if job not in records]
    print(f"{len(left)} of {len(jobs)} jobs are left", flush=True)
    try:
        whole = run_all(left, settings, args.out, args.workers)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    print()
    print_report(read(args.out), args.steps)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
