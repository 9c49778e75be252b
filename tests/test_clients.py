"""Clients that install in seconds, and the command that tries all: `python -m tests.clients`."""

from __future__ import annotations

import importlib
import inspect
import sys
import tomllib
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import stable_baselines3
import yaml

from .clients import __main__ as command
from .clients import child, seats
from .clients.zoo import HYPERPARAMETERS

LIGHT = ("sb3", "contrib", "petting", "optuna", "cmaes")


@pytest.mark.parametrize("name", LIGHT)
def test_light_clients_work_on_every_seat(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = child.run(name)
    assert rows and {row["seat"] for row in rows} <= {"leader", "follower", "joint"}
    for row in rows:
        assert row["verdict"] == "works" and row["version"] and row["note"], row


@pytest.mark.parametrize("name", command.CLIENTS)
def test_every_client_says_what_it_needs(name: str) -> None:
    client: Any = importlib.import_module(f"tests.clients.{name}")
    assert client.NAME and client.CHECKS and len(client.NEEDS) == 2
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    wanted = [
        need
        for extra in ("clients", "clients-pinned", "pettingzoo", "sb3", "test")
        for need in extras[extra]
    ]
    distributions = {need.split(">")[0].split("[")[0] for need in wanted} | {"cma"}
    assert client.NEEDS[1] in distributions


CLIENTS = {
    "works": "return 'what ran'",
    "fails": "raise ValueError('of | the client')",
    "dies": "import os; print('last words', flush=True); os._exit(3)",
}


@pytest.mark.parametrize(("name", "code"), [("works", 0), ("fails", 1), ("dies", 1)])
def test_the_command_prints_a_table_and_fails_with_a_client(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "tests" / "clients"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    source = Path(inspect.getsourcefile(child) or "").read_text(encoding="utf-8")
    (folder / "child.py").write_text(source, encoding="utf-8")
    lines = (
        'NAME, NEEDS = "Probe", ("numpy", "numpy")',
        f"def leader():\n    {CLIENTS[name]}",
        'CHECKS = {"leader": leader}',
    )
    (folder / "probe.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "CLIENTS", ("probe",))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert command.main(["probe"]) == code
    table = capsys.readouterr().out
    assert table.startswith("| client | seat | verdict | version | what ran |")
    said = {
        "works": "| Probe | leader | works |",
        "fails": "ValueError: of / the client |",
        "dies": "| probe | - | fails |  | last words |",
    }
    assert said[name] in table


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "tests.clients.optuna", _absent())
    assert child.run("optuna") == [
        {"client": "Absent", "seat": "leader", "version": "", "verdict": "not installed"}
        | {"seconds": pytest.approx(0.0, abs=1.0)}
    ]
    with pytest.raises(SystemExit) as raised:
        command.main(["rlib"])
    assert raised.value.code == 2 and "accepted: sb3, contrib" in capsys.readouterr().err


def _absent() -> Any:
    class Absent:
        NAME, NEEDS = "Absent", ("no_such_module", "no-such-module")
        CHECKS = {"leader": str}

    return Absent


@pytest.mark.parametrize("env_id", [seats.LEADER, seats.FOLLOWER])
def test_an_unknown_option_is_refused_in_the_words_that_torchrl_reads(env_id: str) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip'"):
        gym.make(env_id, frameskip=1)


def test_hyperparameters_of_the_zoo_are_those_of_its_algorithm_and_of_both_seats() -> None:
    told = yaml.safe_load(HYPERPARAMETERS.read_text(encoding="utf-8"))
    assert list(told) == [seats.LEADER, seats.FOLLOWER]
    takes = {*inspect.signature(stable_baselines3.PPO).parameters, "n_timesteps", "n_envs"}
    for env_id, values in told.items():
        assert env_id in gym.registry and set(values) <= takes
