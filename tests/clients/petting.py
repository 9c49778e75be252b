"""PettingZoo: the joint game, by its own tests of the interface."""

from __future__ import annotations

from . import seats

NAME, NEEDS = "PettingZoo", ("pettingzoo", "pettingzoo")


def joint() -> str:
    """Run the tests of parallel environments, and of those that take turns."""
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test
    from pettingzoo.utils import parallel_to_aec

    from bilevel_gym.pettingzoo import parallel_env

    for env_id in (seats.LEADER, seats.TOLL, seats.THERMAL):
        parallel_api_test(parallel_env(env_id), num_cycles=100)
        parallel_seed_test(lambda: parallel_env(env_id), num_cycles=50)  # noqa: B023
    api_test(parallel_to_aec(parallel_env(seats.LEADER, observation="one-hot")), num_cycles=50)
    render_test(
        lambda render_mode: parallel_to_aec(parallel_env(seats.LEADER, render_mode=render_mode))
    )
    return "parallel_api_test, parallel_seed_test; api_test and render_test in turns"


CHECKS = {"joint": joint}
