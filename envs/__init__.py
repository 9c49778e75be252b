"""The games: one module per task, imported at use; `tasks` is their table."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .tasks import TASKS

if TYPE_CHECKING:
    # For editors and type checkers, which cannot read the table; what is missing here is `Any`.
    from .base import BestKnown as BestKnown
    from .base import BilevelEnv as BilevelEnv
    from .base import View as View
    from .beam_rider import BilevelBeamRider as BilevelBeamRider
    from .body_design import BilevelBodyDesign as BilevelBodyDesign
    from .cartpole import BilevelCartPole as BilevelCartPole
    from .congestion import BilevelCongestion as BilevelCongestion
    from .contract import BilevelContract as BilevelContract
    from .designed import DesignGame as DesignGame
    from .four_rooms import BilevelFourRooms as BilevelFourRooms
    from .goal_placement import BilevelGoalPlacement as BilevelGoalPlacement
    from .grid_world import BilevelGridWorld as BilevelGridWorld
    from .grid_world import random_map as random_map
    from .incentive import BilevelIncentive as BilevelIncentive
    from .inverse_rl import BilevelInverseRL as BilevelInverseRL
    from .linear_quadratic import LinearQuadraticEnv as LinearQuadraticEnv
    from .lqr import BilevelLQR as BilevelLQR
    from .market_entry import BilevelMarketEntry as BilevelMarketEntry
    from .markov_game import BilevelMarkovGame as BilevelMarkovGame
    from .mean_field import MeanFieldEnv as MeanFieldEnv
    from .minigrid import BilevelMiniGrid as BilevelMiniGrid
    from .parametric import ParametricGame as ParametricGame
    from .pendulum import BilevelPendulum as BilevelPendulum
    from .preference_pendulum import BilevelPreferencePendulum as BilevelPreferencePendulum
    from .random_mdp import BilevelRandomMDP as BilevelRandomMDP
    from .reacher import BilevelReacher as BilevelReacher
    from .tabular import TabularBilevelEnv as TabularBilevelEnv
    from .tax_design import BilevelTaxDesign as BilevelTaxDesign
    from .thermal import BilevelThermal as BilevelThermal
    from .toll import BilevelToll as BilevelToll
    from .toy_text import BilevelToyText as BilevelToyText

# "module:name" of every public name: the class of each task, and what is no task.
_PLACES = {
    place.partition(":")[2]: place
    for place in (
        *(task.entry_point for task in TASKS),
        f"{__name__}.base:BestKnown",
        f"{__name__}.base:BilevelEnv",
        f"{__name__}.base:View",
        f"{__name__}.designed:DesignGame",
        f"{__name__}.grid_world:random_map",
        f"{__name__}.linear_quadratic:LinearQuadraticEnv",
        f"{__name__}.mean_field:MeanFieldEnv",
        f"{__name__}.parametric:ParametricGame",
        f"{__name__}.tabular:TabularBilevelEnv",
    )
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(_PLACES)
