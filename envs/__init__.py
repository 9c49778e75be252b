"""The games: one module per task, registered in `bilevel_gym.registration`."""

from .base import BestKnown, BilevelEnv, View
from .beam_rider import BilevelBeamRider
from .cartpole import BilevelCartPole
from .four_rooms import BilevelFourRooms
from .grid_world import BilevelGridWorld, random_map
from .incentive import BilevelIncentive
from .inverse_rl import BilevelInverseRL
from .linear_quadratic import LinearQuadraticEnv
from .lqr import BilevelLQR
from .markov_game import BilevelMarkovGame
from .parametric import ParametricGame
from .pendulum import BilevelPendulum
from .preference_pendulum import BilevelPreferencePendulum
from .random_mdp import BilevelRandomMDP
from .reacher import BilevelReacher
from .tabular import TabularBilevelEnv
from .tax_design import BilevelTaxDesign
from .thermal import BilevelThermal
from .toll import BilevelToll
from .toy_text import BilevelToyText

__all__ = [
    "BestKnown",
    "BilevelBeamRider",
    "BilevelCartPole",
    "BilevelEnv",
    "BilevelFourRooms",
    "BilevelGridWorld",
    "BilevelIncentive",
    "BilevelInverseRL",
    "BilevelLQR",
    "BilevelMarkovGame",
    "BilevelPendulum",
    "BilevelPreferencePendulum",
    "BilevelRandomMDP",
    "BilevelReacher",
    "BilevelTaxDesign",
    "BilevelThermal",
    "BilevelToll",
    "BilevelToyText",
    "LinearQuadraticEnv",
    "ParametricGame",
    "TabularBilevelEnv",
    "View",
    "random_map",
]
