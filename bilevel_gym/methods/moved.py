"""x in the kernel and in the start, for methods that see only episodes.

With q = dF/dr through pi* and V the follower's soft value, the follower's answer depends on the
kernel by gamma q(s, a) V(s') for each P(s'|s, a) (see `bilevel_gym.core.adjoint`). The leader's
objective depends on it, and on the distribution rho of the first state, directly:

    df/dP(s'|s, a) = pi(a|s) sum_t gamma_u^(t+1) d_t(s) V_u,t+1(s'),   df/drho(s) = V_u,0(s),

for a return with values V_u,t of the steps from t on, as `bilevel_gym.model.objectives` has it for
a known kernel; here it is that of the frequencies seen. Of the true kernel a method knows the
derivative of log P at transitions seen, ends of episodes among them. With P^ the frequencies and
c(s, a, s') what F gains by P(s'|s, a), zero for an end,

    sum_s' c dP/dx = E_{s' ~ P}[c dlogP/dx]  ~  sum_s' P^(s'|s, a) (c - sum_s' P^ c) dlogP/dx.

Subtracting the mean changes nothing where P^ = P, as the mean of dlogP/dx is zero. With few
transitions it is what makes the estimate useful: V and V_u are hundreds of times larger than what
they vary by. The mean is that of the same transitions, which shrinks the estimate of a pair seen n
times by 1 / n: a bias of the order of 1 / episodes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core.mdp import FloatArray, Kernel
from ..model.dynamics import ending_probabilities
from ..model.objectives import Outcome, UpperValue
from ..model.tabular import TabularModel

__all__ = ["moved_directly", "moved_response", "seen_direct_part"]


def seen_direct_part(
    model: TabularModel, upper_params: FloatArray, upper: UpperValue, outcome: Outcome
) -> FloatArray:
    """Return `TabularModel.direct_part`, kernel and start being those seen, shape of x.

    Args:
        model: A model.
        upper_params: x.
        upper: f(x, pi) and its derivatives at the outcome.
        outcome: Frequencies seen under x, see `bilevel_gym.methods.sampled.seen_outcome`.
    """
    known = replace(upper, kernel=None, initial_distribution=None)
    moved = moved_directly(model, upper_params, upper, outcome)
    return model.direct_part(upper_params, known) + moved


def moved_directly(
    model: TabularModel, upper_params: FloatArray, upper: UpperValue, outcome: Outcome
) -> FloatArray:
    """Return the part of `seen_direct_part` that goes through kernel and start, shape of x."""
    total, kernel = np.zeros(upper_params.shape), outcome.solution.mdp.kernel
    if upper.kernel is not None and model.moves_kernel:
        total += _through_kernel(model, upper_params, kernel, upper.kernel)
    if upper.initial_distribution is not None and model.moves_start:
        start, value = outcome.initial_distribution, upper.initial_distribution
        states = np.flatnonzero(start)
        centred = start * (value - start @ value)
        total += model.through_log_start(upper_params, states, centred[states])
    return total


def moved_response(
    model: TabularModel,
    upper_params: FloatArray,
    kernel: Kernel,
    signed: FloatArray,
    soft_value: FloatArray,
) -> FloatArray:
    """Return the derivative of F by the follower's answer to what x does to the kernel.

    Args:
        model: A model.
        upper_params: x.
        kernel: Frequencies seen under x.
        signed: q, dF/dr through pi* `[S, A]`.
        soft_value: The follower's V `[S]`.
    """
    if not model.moves_kernel:
        return np.zeros(upper_params.shape)
    slopes = model.gamma * kernel.on_transitions(signed, soft_value)
    return _through_kernel(model, upper_params, kernel, slopes)


def _through_kernel(
    model: TabularModel, upper_params: FloatArray, kernel: Kernel, slopes: FloatArray
) -> FloatArray:
    """Return sum P^ (c - its mean under P^) dlogP/dx, shape of x.

    Args:
        model: A model.
        upper_params: x.
        kernel: P^, frequencies; each action is a move of its own.
        slopes: c at its stored transitions, `[K]`.
    """
    states, actions, following = kernel.triplets
    mean, ending = kernel.sum_transitions(slopes), ending_probabilities(kernel)
    centred = kernel.matrix.data * (slopes - mean[states, actions])
    at_end = np.nonzero((ending > 0.0) & (mean != 0.0))
    ends = len(at_end[0])
    return model.through_log_kernel(
        upper_params,
        np.append(states, at_end[0]),
        np.append(actions, at_end[1]),
        np.append(following, np.full(ends, -1)),
        np.append(np.zeros(len(states), bool), np.ones(ends, bool)),
        np.append(centred, -(ending * mean)[at_end]),
    )
