"""What a follower who counts transitions makes of pairs that it has seen seldom or never.

For what it plays next it is an optimist, for what it answers it is not.

**Playing.** A share lambda of each row of the frequencies P moves to the best successor there is,
of value V+ = max(max V, 0), where 0 is the value of an end:

    P_opt(. | s, a)  = (1 - lambda) P(. | s, a) + lambda delta_best
    lambda(s, a) = min(1, 1 / (n + 1) + c sd_P(V) / ((V+ - P V) sqrt(n + 1))),   1 where n = 0,

with n the visits of (s, a), and V the solution of the soft Bellman equation in P_opt itself. A pair
never tried leads to the best, as in R-max (Brafman and Tennenholtz, JMLR 2002); 1 / (n + 1) is one
pretended visit to it, as in the optimistic initial model of Szita and Lorincz (ICML 2008). The rest
raises the mean of V by c of its standard errors, the width of Azar, Osband and Munos (ICML 2017,
UCBVI with a Bernstein bonus) without its logarithms. To move weight to the best successor, instead
of adding a bonus to the reward, is how the interval estimation of Strehl and Littman (JCSS 2008,
MBIE) does it: P_opt is a kernel, and values keep their range. The scale is that of the values, so
that nothing has to be tuned to a game. The reward r_x is known, even where it was never seen: a
goal counts as soon as it might be reached.

**Answering.** A pair never tried is taken to lead where the actions tried in its state have led,
all of them together. That it ends the episode would be optimism in disguise where values are
negative, and a reason to avoid it where they are not; to leave it out would make the policy zero
where a leader may take its logarithm.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.mdp import FloatArray, Kernel
from ..core.soft import SoftSolution, solve_soft_mdp
from ..model.tabular import TabularModel

__all__ = ["neutral_kernel", "optimistic_kernel", "optimistic_solution"]

# V and the kernel that it makes are brought together in so many solves at most, and until V changes
# by no more than this share of the temperature.
PASSES = 3
SETTLED = 0.1

# States, actions, successors and probabilities, `[K]` each.
Lists = list[tuple[Any, Any, Any, FloatArray]]


def neutral_kernel(kernel: Kernel, visits: FloatArray) -> Kernel:
    """Return frequencies in which pairs never tried lead where the others of their state led.

    Args:
        kernel: Frequencies seen; where nothing was, the episode ends.
        visits: How often each pair was seen, `[S, A]`. In states with none the episode still ends.
    """
    states, actions, following = kernel.triplets
    seen = kernel.matrix.data * visits[states, actions]
    total = visits.sum(axis=1)
    lists: Lists = [(states, actions, following, kernel.matrix.data)]
    for action in range(kernel.num_actions):
        chosen = visits[states, action] == 0.0
        s = states[chosen]
        lists.append((s, np.full_like(s, action), following[chosen], seen[chosen] / total[s]))
    return _kernel(lists, kernel)


def optimistic_kernel(
    kernel: Kernel, visits: FloatArray, value: FloatArray, *, errors: float
) -> Kernel:
    """Return P_opt of this module.

    Args:
        kernel: Frequencies seen.
        visits: How often each pair was seen, `[S, A]`.
        value: V `[S]`.
        errors: c, standard errors that the mean of V is raised by.
    """
    best = int(value.argmax())
    highest = max(float(value[best]), 0.0)
    mean = kernel.expect(value)
    spread = np.sqrt(np.maximum(kernel.expect(value**2) - mean**2, 0.0))
    raised, room = errors * spread / np.sqrt(visits + 1.0), highest - mean
    share = np.divide(raised, room, out=np.zeros_like(mean), where=room > 0.0)
    share = np.where(visits > 0.0, np.minimum(1.0, share + 1.0 / (visits + 1.0)), 1.0)
    states, actions, following = kernel.triplets
    kept = kernel.matrix.data * (1.0 - share[states, actions])
    lists: Lists = [(states, actions, following, kept)]
    if value[best] >= 0.0:  # otherwise the end is the best that may follow
        s, a = np.indices(share.shape).reshape(2, -1)
        lists.append((s, a, np.full_like(s, best), share.ravel()))
    return _kernel(lists, kernel)


def optimistic_solution(
    model: TabularModel,
    upper_params: FloatArray,
    kernel: Kernel,
    visits: FloatArray,
    value: FloatArray | None,
    *,
    errors: float,
) -> SoftSolution:
    """Return what an optimist would do under x, and the value that it hopes for.

    Args:
        model: The model, of which the kernel is not used.
        upper_params: x.
        kernel: Frequencies seen.
        visits: How often each pair was seen, `[S, A]`.
        value: What was hoped for before, `[S]`, None for nothing.
        errors: c of this module.
    """
    hoped = np.zeros(kernel.num_states) if value is None else value
    for _ in range(PASSES):
        hopeful = optimistic_kernel(kernel, visits, hoped, errors=errors)
        found = solve_soft_mdp(model.mdp_with(hopeful, upper_params), initial_value=hoped)
        change = float(np.abs(found.soft_value - hoped).max())
        hoped = found.soft_value
        if change <= SETTLED * model.temperature:
            break
    return found


def _kernel(lists: Lists, like: Kernel) -> Kernel:
    """Return the kernel of some lists of transitions, as large as another."""
    states, actions, following, shares = map(np.concatenate, zip(*lists, strict=True))
    size = {"num_states": like.num_states, "num_actions": like.num_actions}
    return Kernel.from_triplets(states, actions, following, shares, **size)
