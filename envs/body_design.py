"""BilevelBodyDesign-v0: the body of a robot arm, for a follower who learns to move it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ..core.checks import check_not_negative
from ..core.mdp import FloatArray
from ..methods.registry import LEARNT_METHODS
from ..rendering.canvas import (
    HEADER_HEIGHT,
    SUPERSAMPLING,
    THEME,
    draw_centred,
    draw_note,
    enlarged,
    new_page,
    pygame,
    shrunk,
)
from ..rendering.key import KeyEntry, draw_key, gradient_entries
from ..rendering.picture_charts import Axis, BarChart, draw_bars
from ..rendering.signs import ICON_SIDE, TARGET, pin_sprite
from ..rendering.strokes import LineStyle
from ..rewards.models import FixedReward
from .base import View
from .parametric import MOVES, ParametricGame
from .simulators import require

if TYPE_CHECKING:
    from ..episodes.recorded import Batch, LearntEpisodes

__all__ = ["Arm", "BilevelBodyDesign"]

# The parts that x sets: attributes of the arm, their least and largest values, and names.
LENGTHS, MOTORS = (0.05, 0.25), (0.02, 0.4)
PARTS = {
    "upper_arm": (*LENGTHS, "upper arm"),
    "forearm": (*LENGTHS, "forearm"),
    "shoulder": (*MOTORS, "shoulder motor"),
    "elbow": (*MOTORS, "elbow motor"),
}

# Distances of targets from the shoulder, in metres; observations are measured in these units.
NEAREST, FARTHEST = 0.1, 0.3
LENGTH, SPEED = 0.2, 10.0

# "At the target" has faded to 1/sqrt(e) at this distance, in metres.
RANGE = 0.05

# Steps of the simulator for each one of an episode.
FRAMES = 4

# The links are rods of .6 kg a metre that lie in a plane, and do not touch anything.
MODEL = """
<mujoco>
  <compiler angle="radian"/>
  <option timestep="0.01" gravity="0 0 0" integrator="implicitfast"/>
  <default>
    <joint type="hinge" axis="0 0 1" damping="0.03" armature="0.0005"/>
    <geom type="capsule" contype="0" conaffinity="0" size="0.0138" density="1000"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
    <body>
      <joint name="shoulder"/>
      <geom fromto="0 0 0 {upper_arm} 0 0"/>
      <body pos="{upper_arm} 0 0">
        <joint name="elbow" limited="true" range="-2.8 2.8"/>
        <geom fromto="0 0 0 {forearm} 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="{shoulder}"/>
    <motor joint="elbow" gear="{elbow}"/>
  </actuator>
</mujoco>
"""

NAMES, NEWLINE = tuple(name for *_, name in PARTS.values()), "\n"

# The picture, in pixels, and the half-width of the arena, in metres.
PICTURE_SIZE = (1040, 680)
CAPTION_HEIGHT, ARENA_SIDE, BARS_HEIGHT = 28, 472, 290
HALF_WIDTH = 0.34
ZONE = THEME.positive[0]  # where targets lie
# Widths of a link, in metres, and of a motor of so many newton metres.
LINK_WIDTH, MOTOR_RADIUS = 0.026, 0.045


class BilevelBodyDesign(ParametricGame):
    """A leader designs the body of an arm, and pays for it; a follower learns to control it.

    ## Description
    An arm in the plane has two links and a motor at each of two joints; a target lies 5 to 30 cm
    from the shoulder. The follower moves the arm, as fast as it can, so that its tip comes to the
    target. The leader chooses how long the links are and how strong the motors. A short arm does
    not reach far targets, a long one is heavy and slow, strong motors make up for that, and both
    cost. x changes the dynamics, and the follower has to learn to move each new body: the leader's
    reward tells it how good a body is in the hands of who has learnt to use it.

    ## Upper Level
    x in [.05, .25]^2 x [.02, .4]^2: the lengths of upper arm and forearm, in metres, and the
    largest torques of shoulder and elbow, in newton metres; it starts at (.1, .1, .1, .1). The
    objective, to be maximised, is

        F(x) = -E[ sum_t |d_t| ] - material_price (x_1 + x_2) - motor_price (x_3 + x_4)

    over the steps of an episode, with d the vector from the target to the tip, in metres: what
    counts is how soon the tip is there.

    ## Lower Level
    An entropy-regularised problem with discount `gamma` and temperature `temperature` (of the
    entropy of actions, relative to that of the uniform policy, see `ParametricGame`) and the reward

        r(s, a) = exp(-|d|^2 / (2 * .05^2)) - |d| / .2 - effort_cost |a|^2,

    in which x does not occur. Links are rods of .6 kg a metre; in the simulator, MuJoCo, an x is in
    force from the next episode on.

    ## Spaces and Episode
    * Observation: `Box(-inf, inf, [10])`, cosines of the two angles, their sines, the target's
      place, the joints' speeds, and d; lengths are in units of 20 cm and speeds in units of 10
      radians per second. The body is not observed.
    * Action: `Box(-1, 1, [2])`, shares of the largest torques.
    * Episode: the arm starts stretched out to the right, at rest, with a target drawn uniformly by
      distance and direction. The episode never terminates and is truncated after `episode_steps`
      (25), which are .04 seconds each.

    ## Arguments
    * `material_price` (2.5): of a metre of the links, not negative;
    * `motor_price` (1): of a newton metre of torque, not negative;
    * `effort_cost` (.05): price of the square of the follower's actions, not negative;
    * `episode_steps` (25), `gamma` (.95), `temperature` (.05) and `render_mode`: see
      `ParametricGame`. The picture shows the arm from above, drawn to scale, with motors as large
      as they are strong, and x. It needs neither MuJoCo's renderer nor OpenGL.

    MuJoCo is brought by the extra `mujoco`: `pip install -e ".[mujoco,sb3]"`.

    Methods of the leader's seat: "zero-order" (`bilevel_gym.learnt.probes`); those that take the
    dynamics as given refuse.

    ## Ground Truth
    There is none: F depends on how well the follower has learnt, and is an estimate. A controller
    written by hand, torques against the slope of the distance with a damping, the best of nine
    pairs of gains, reaches F = -6.6 in the first body and -2.1 at (.13, .09, .12, .32).

    From x0 by the safe climb with 50 000 environment steps, half a minute on a free core, and by
    CMA-ES with as many, F of 128 fresh episodes with the follower that each ends with, and of a new
    follower who has learnt in that body alone for 10 000 steps (standard errors are .07 to .17):

    | | seed 0 | seed 1 | seed 2 |
    |---|---|---|---|
    | x0 | -8.20; -8.21 | -8.44; -8.34 | -8.42; -8.30 |
    | safe climb | -3.86; -3.71 | -3.63; -2.79 | -4.31; -3.16 |
    | CMA-ES | -3.89; -3.44 | -3.73; -2.71 | -3.57; -2.99 |

    (`python -m tests.benchmarks.bodies`.) The climb begins with a CMA-ES of its own, and what it
    finds by differences from there is no more than what CMA-ES finds alone. Followers who have
    little time for each body prefer small ones that are easy to move: the first number is below the
    second, and both are far from the hand's -2.1.

    ## References
    Body and control as two levels: D. Ha, "Reinforcement learning for improving agent design",
    Artificial Life 25, 2019, arXiv 1810.03779; C. Schaff, D. Yunis, A. Chakrabarti, M. R. Walter,
    "Jointly learning to construct and control agents using deep reinforcement learning", ICRA 2019,
    arXiv 1801.01432. The arm is after Gymnasium's Reacher-v5; the simulator is that of E. Todorov,
    T. Erez, Y. Tassa, "MuJoCo: A physics engine for model-based control", IROS 2012. Body, prices
    and rewards are this project's own.
    """

    leader_does, follower_does = "designs an arm", "moves the arm"
    leader_wants = "the tip soon at the target, by short links and weak motors"
    follower_wants = "the tip at the target, and little torque"

    kind = MOVES
    methods = {"zero-order": LEARNT_METHODS["zero-order"]}
    default_method = "zero-order"
    method_options = {  # noqa: RUF012  (as every game has it)
        "inner_steps": 500,
        "first_inner_steps": 3000,
        "episodes": 24,
        "probe_share": 0.5,
    }

    def __init__(
        self,
        *,
        material_price: float = 2.5,
        motor_price: float = 1.0,
        effort_cost: float = 0.05,
        episode_steps: int = 25,
        gamma: float = 0.95,
        temperature: float = 0.05,
        render_mode: str | None = None,
    ) -> None:
        """Build the game; raise `ValueError` for an argument, `ImportError` without MuJoCo."""
        prices = {"material_price": material_price, "motor_price": motor_price}
        each = [check_not_negative(name, price) for name, price in prices.items()]
        self._prices = np.repeat(each, 2)
        check_not_negative("effort_cost", effort_cost)
        require("BilevelBodyDesign", "mujoco", "mujoco")
        super().__init__(
            Arm,
            FixedReward(partial(nearness, effort_cost=effort_cost)),
            env_params={name: (low, high) for name, (low, high, _) in PARTS.items()},
            episode_steps=episode_steps,
            upper_reward=closeness,
            gamma=gamma,
            temperature=temperature,
            render_mode=render_mode,
        )
        self.methods = type(self).methods

    def make_environment(self, render_mode: str | None = None) -> gym.Env[Any, Any]:
        """Return a fresh arm, which need not draw itself."""
        return super().make_environment()

    def direct_part(
        self, upper_params: FloatArray, played: LearntEpisodes
    ) -> tuple[float, FloatArray]:
        """Return minus what the body costs, and its derivative, `[4]`."""
        return self.price(upper_params)

    def price(self, upper_params: FloatArray) -> tuple[float, FloatArray]:
        """Return minus what a body costs, and its derivative, `[4]`."""
        return -float(self._prices @ upper_params), -self._prices

    def knob_names(self) -> tuple[str, ...]:
        """Return the names of the parts."""
        return NAMES

    def draw(self, view: View) -> pygame.Surface:
        """Draw the arm where it is, and x: its body and what that costs."""
        surface, margin = new_page(PICTURE_SIZE, view.title, view.status), THEME.margin
        caption = "the arm from above, to scale"
        draw_note(surface, caption, (margin, HEADER_HEIGHT), colour=THEME.ink)
        x, arm = view.upper_params, self.environment.unwrapped
        assert isinstance(arm, Arm)
        _draw_arena(surface, (margin, HEADER_HEIGHT + CAPTION_HEIGHT), x, arm)
        left = margin + ARENA_SIDE + margin
        room = PICTURE_SIZE[0] - margin - left
        units = ("{:.0f} cm", "{:.0f} cm", "{:.2f} N m", "{:.2f} N m")
        said = [unit.format(v) for unit, v in zip(units, x * [100.0, 100.0, 1.0, 1.0], strict=True)]
        names = [f"{name.replace(' ', NEWLINE)}\n{v}" for name, v in zip(NAMES, said, strict=True)]
        axis = Axis(0.0, 1.0, "the leader's x, of the largest possible")
        shares = x / self.upper_space.high
        slopes = self.slopes(view)
        chart = BarChart(axis, names, shares, None, slopes)
        draw_bars(surface, (left, HEADER_HEIGHT, room, BARS_HEIGHT), chart)
        top = HEADER_HEIGHT + BARS_HEIGHT + THEME.gap
        key = (left, top, room, PICTURE_SIZE[1] - margin - top)
        draw_key(surface, key, _key(-self.price(x)[0], slopes))
        return surface


class Arm(gym.Env[NDArray[np.float32], NDArray[np.float32]]):
    """An arm of two links in the plane, in MuJoCo; its body may change between episodes.

    Attributes:
        upper_arm: Length of the first link, in metres.
        forearm: Length of the second one.
        shoulder: Largest torque of the first joint, in newton metres.
        elbow: Largest torque of the second one.
        target: Where the target is, `[2]`, in metres from the shoulder.
    """

    def __init__(self) -> None:
        """Build the arm that x starts at."""
        self.upper_arm = self.forearm = 0.2
        self.shoulder = self.elbow = 0.05
        self.observation_space = spaces.Box(-np.inf, np.inf, (10,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.target = np.zeros(2)
        self._build()

    def _build(self) -> None:
        import mujoco

        self._body = self.body
        self._model = mujoco.MjModel.from_xml_string(MODEL.format(**self._body))
        self._data = mujoco.MjData(self._model)

    @property
    def body(self) -> dict[str, float]:
        """Lengths and torques by name."""
        return {name: float(getattr(self, name)) for name in PARTS}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Stretch the arm out, and draw a target."""
        import mujoco

        super().reset(seed=seed)
        if self._body != self.body:
            self._build()
        mujoco.mj_resetData(self._model, self._data)
        distance = self.np_random.uniform(NEAREST, FARTHEST)
        angle = self.np_random.uniform(-np.pi / 2.0, np.pi / 2.0)
        self.target = distance * np.array([np.cos(angle), np.sin(angle)])
        return self._seen(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Turn the joints; the reward is minus the distance from the tip to the target before."""
        import mujoco

        reward = -LENGTH * float(np.hypot(*self._seen()[8:]))
        self._data.ctrl[:] = action
        mujoco.mj_step(self._model, self._data, FRAMES)
        return self._seen(), reward, False, False, {}

    @property
    def angles(self) -> FloatArray:
        """Angles of the joints, `[2]`."""
        return np.array(self._data.qpos)

    def _seen(self) -> NDArray[np.float32]:
        angles, speeds = self._data.qpos, self._data.qvel
        elbow, tip = joints(angles, self._body["upper_arm"], self._body["forearm"])
        offset = tip - self.target
        # How fast the distance's square, halved, grows as each joint turns.
        pull = [tip[0] * offset[1] - tip[1] * offset[0]]
        pull += [(tip - elbow)[0] * offset[1] - (tip - elbow)[1] * offset[0]]
        seen = [np.cos(angles), np.sin(angles), np.array(pull) / LENGTH**2, speeds / SPEED]
        return np.concatenate([*seen, offset / LENGTH]).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data: the body, and the simulator's state."""
        import mujoco

        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, state, kind)
        others = {n: v for n, v in self.__dict__.items() if n not in ("_model", "_data")}
        return {**others, "_state": state}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        """Build the body anew, and put it into the state."""
        import mujoco

        state = attributes["_state"]
        self.__dict__.update({n: v for n, v in attributes.items() if n != "_state"})
        wanted = self.body
        for name, value in self._body.items():  # that of the episode under way
            setattr(self, name, value)
        self._build()
        for name, value in wanted.items():
            setattr(self, name, value)
        mujoco.mj_setState(self._model, self._data, state, mujoco.mjtState.mjSTATE_INTEGRATION)


def joints(angles: FloatArray, upper_arm: float, forearm: float) -> tuple[FloatArray, FloatArray]:
    """Return where the elbow and the tip are, `[2]` each, in metres from the shoulder."""
    first, both = angles[0], angles[0] + angles[1]
    elbow = upper_arm * np.array([np.cos(first), np.sin(first)])
    return elbow, elbow + forearm * np.array([np.cos(both), np.sin(both)])


def distances(observations: Batch) -> FloatArray:
    """Return the distance from the tip to the target, `[B]`, in metres."""
    found = LENGTH * np.linalg.norm(np.asarray(observations[:, 8:10], np.float64), axis=1)
    return np.asarray(found, dtype=np.float64)


def nearness(observations: Batch, actions: Batch, *, effort_cost: float) -> FloatArray:
    """Return the follower's reward, `[B]`."""
    away = distances(observations)
    effort = effort_cost * np.square(np.asarray(actions, np.float64)).sum(axis=1)
    return np.exp(-np.square(away / RANGE) / 2.0) - away / LENGTH - effort


def closeness(observations: Batch, actions: Batch, rewards: FloatArray) -> FloatArray:
    """Return minus the distance from the tip to the target, `[B]`."""
    return -distances(observations)


def _draw_arena(surface: pygame.Surface, corner: tuple[int, int], x: FloatArray, arm: Arm) -> None:
    """Draw where targets lie and how far the body x reaches, the target and the arm."""
    scale = SUPERSAMPLING * ARENA_SIDE / (2.0 * HALF_WIDTH)
    middle = SUPERSAMPLING * ARENA_SIDE / 2.0

    def place(point: FloatArray) -> tuple[float, float]:
        return float(middle + scale * point[0]), float(middle - scale * point[1])

    large, centre = enlarged(ARENA_SIDE, ARENA_SIDE, THEME.page), (middle, middle)
    large.fill(THEME.page)
    pygame.draw.circle(large, ZONE, centre, scale * FARTHEST)
    pygame.draw.circle(large, THEME.page, centre, scale * NEAREST)
    side = SUPERSAMPLING * ARENA_SIDE
    pygame.draw.rect(large, THEME.page, (0, 0, side / 2.0, side))  # they lie on the right
    reach = scale * float(x[:2].sum())
    pygame.draw.circle(large, THEME.curves[0], centre, reach, 2 * SUPERSAMPLING)
    spots = [place(spot) for spot in (np.zeros(2), *joints(arm.angles, *x[:2]))]
    width = scale * LINK_WIDTH
    for wider, colour in ((2.0 * SUPERSAMPLING, THEME.light), (0.0, THEME.ink)):
        pygame.draw.lines(large, colour, False, spots, round(width + 2.0 * wider))
        for spot in spots:
            pygame.draw.circle(large, colour, spot, width / 2.0 + wider)
    for spot, torque in zip(spots, x[2:], strict=False):
        radius = scale * MOTOR_RADIUS * np.sqrt(torque / MOTORS[1])
        pygame.draw.circle(large, THEME.light, spot, radius + 2.0 * SUPERSAMPLING)
        pygame.draw.circle(large, THEME.curves[3], spot, radius)
    pygame.draw.circle(large, THEME.accent, spots[-1], 0.38 * width)
    surface.blit(shrunk(large), corner)
    target = np.divide(place(arm.target), SUPERSAMPLING)
    pin = (float(corner[0] + target[0]), float(corner[1] + target[1]))
    draw_centred(surface, pin_sprite(TARGET, ICON_SIDE), pin)


def _key(price: float, slopes: FloatArray | None) -> list[KeyEntry]:
    """Return the signs of the picture, in words."""
    tip, motor, zone = (enlarged(ICON_SIDE, ICON_SIDE, THEME.ink) for _ in range(3))
    side = tip.get_width()
    for radius, colour in ((0.3, THEME.ink), (0.23, THEME.accent)):
        pygame.draw.circle(tip, colour, (side / 2.0, side / 2.0), radius * side)
    pygame.draw.circle(motor, THEME.curves[3], (side / 2.0, side / 2.0), 0.35 * side)
    zone.fill(ZONE)
    return [
        KeyEntry(pin_sprite(TARGET, ICON_SIDE), "target", "in the yellow zone"),
        KeyEntry(shrunk(tip), "tip of the arm", "blue circle: its reach"),
        KeyEntry(shrunk(motor), "motor", "the larger the stronger"),
        KeyEntry(LineStyle(THEME.page), f"price of this body: {price:.2f}"),
        *gradient_entries("this", slopes),
    ]
