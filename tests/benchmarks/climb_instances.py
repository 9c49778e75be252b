"""Instances of the exact tasks on which climbs are compared, those held out apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["INSTANCES", "Instance"]

# Side and seed of random maps: ten that were given, and twenty that were chosen.
GIVEN_MAPS = tuple(zip((5, 6, 7, 8, 8, 9, 10, 10, 11, 12), range(100, 110), strict=True))
CHOSEN_MAPS = tuple((4 + number % 10, 200 + number) for number in range(20))
HELD_OUT_MAPS = tuple((4 + (7 * number) % 11, 300 + number) for number in range(20))

FOUR_ROOMS: list[dict[str, Any]] = [
    {"temperature": temperature, "payment_cost": cost}
    for temperature in (0.001, 0.003, 0.005)
    for cost in (1.0, 3.0, 5.0)
]
ONE_GOAL: list[dict[str, Any]] = [
    {"temperature": temperature, "payment_cost": 5.0, "goals": [[1, 9]]}
    for temperature in (0.001, 0.003, 0.005)
]

# Sioux Falls has these nodes; its links are read from the task.
NODES = 24


@dataclass(frozen=True)
class Instance:
    """A task with arguments.

    Attributes:
        name: What tables call it.
        group: The rows that are counted together.
        held_out: Whether it was kept aside while the climb was made.
    """

    name: str
    group: str
    task: str
    arguments: dict[str, Any] = field(default_factory=dict)
    held_out: bool = False


def _registered() -> Iterator[Instance]:
    names = (
        "GridWorld FourRooms RandomMDP Incentive MarkovGame TaxDesign Toll InverseRL Thermal LQR"
    )
    for name in f"{names} FrozenLake CliffWalking Taxi Contract GoalPlacement".split():
        yield Instance(name, "registered", f"Bilevel{name}-v0")


def _maps() -> Iterator[Instance]:
    for group, maps in (("maps", (*GIVEN_MAPS, *CHOSEN_MAPS)), ("held-out maps", HELD_OUT_MAPS)):
        for size, seed in maps:
            arguments = {"size": size, "map_seed": seed}
            held_out = group == "held-out maps"
            yield Instance(f"map {size}/{seed}", group, "BilevelGridWorld-v0", arguments, held_out)


def _four_rooms() -> Iterator[Instance]:
    for arguments in (*FOUR_ROOMS, *ONE_GOAL):
        name = f"rooms {arguments['temperature']:g}/{arguments['payment_cost']:g}"
        name += " one" * ("goals" in arguments)
        yield Instance(name, "Four-Rooms", "BilevelFourRooms-v0", arguments)


def _random(kind: str, number: int) -> dict[str, Any]:
    """Return the arguments of a random instance of a task."""
    rng = np.random.default_rng([number, *kind.encode()])
    if kind == "Incentive":
        return {
            "slip": round(float(rng.uniform(0.05, 0.4)), 3),
            "temperature": round(float(np.exp(rng.uniform(np.log(0.005), np.log(0.05)))), 4),
            "payment_weight": round(float(rng.uniform(0.2, 1.0)), 3),
        }
    if kind == "Toll":
        from bilevel_gym.envs.toll import _sioux_falls

        links = sorted(_sioux_falls())
        count = int(rng.integers(5, 25))
        chosen = rng.choice(len(links), count, replace=False)
        return {
            "tolled_links": [[int(node) for node in links[link]] for link in sorted(chosen)],
            "zone": int(rng.integers(1, NODES + 1)),
            "zone_cost": round(float(rng.uniform(0.5, 5.0)), 2),
        }
    if kind == "Contract":
        ahead = np.sort(rng.uniform(0.02, 0.7, 3))
        back = rng.uniform(0.0, 0.3, 3)
        chances = np.round(np.stack([back, 1.0 - back - ahead, ahead], axis=1), 3)
        chances[:, 1] += 1.0 - chances.sum(axis=1)
        return {
            "stages": int(rng.integers(1, 7)),
            "outcomes": chances.tolist(),
            "costs": [0.0, *np.round(np.sort(rng.uniform(0.02, 0.25, 2)), 3).tolist()],
            "revenue": round(float(rng.uniform(2.0, 6.0)), 2),
            "temperature": round(float(np.exp(rng.uniform(np.log(0.002), np.log(0.05)))), 4),
        }
    if kind == "GoalPlacement":
        side = int(rng.integers(6, 13))
        cells = rng.choice(list(".#H"), (side, side), p=(0.77, 0.18, 0.05))
        cells.flat[rng.choice(side**2, 4, replace=False)] = list("STTT")
        return {
            "desc": ["".join(row) for row in cells],
            "width": round(float(rng.uniform(0.7, 1.5)), 2),
            "temperature": round(float(np.exp(rng.uniform(np.log(0.01), np.log(0.1)))), 3),
        }
    if kind == "MarkovGame":
        return {"bonus": round(float(rng.uniform(0.2, 3.0)), 3)}
    return {"seed": 1 + number}


def _randoms() -> Iterator[Instance]:
    for kind in ("Incentive", "Toll", "MarkovGame", "InverseRL"):
        for number in range(15):
            held_out = number >= 10
            group = f"held-out {kind}" if held_out else kind
            arguments = _random(kind, number)
            yield Instance(f"{kind} {number}", group, f"Bilevel{kind}-v0", arguments, held_out)
    # These tasks came when the climb had been made.
    for kind in ("Contract", "GoalPlacement"):
        for number in range(15):
            arguments = _random(kind, number)
            yield Instance(
                f"{kind} {number}", f"held-out {kind}", f"Bilevel{kind}-v0", arguments, True
            )


INSTANCES = {
    each.name: each for part in (_registered, _maps, _four_rooms, _randoms) for each in part()
}
