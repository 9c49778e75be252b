"""Optuna as a leader: a trial suggests x, the value is the reward of the leader's seat."""

from __future__ import annotations

from typing import Any

from . import seats

NAME, NEEDS = "Optuna", ("optuna", "optuna")


def leader() -> str:
    """Look for tolls."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    env = seats.make(seats.TOLL)
    _, info = env.reset(seed=0)
    space: Any = env.action_space

    def objective(trial: optuna.Trial) -> float:
        names = [f"toll {i}" for i in range(space.shape[0])]
        x = [
            trial.suggest_float(n, *bounds)
            for n, *bounds in zip(names, space.low, space.high, strict=True)
        ]
        return float(env.step(x)[1])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=60)
    first = float(info["objective"])
    if not study.best_value > first:
        raise AssertionError(f"60 trials have not improved on {first}: {study.best_value}")
    return f"60 trials of TPE on Toll: from {first:.3f} to {study.best_value:.3f}"


CHECKS = {"leader": leader}
