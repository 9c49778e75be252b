"""A second referee for problems of a few states: balls of some hundred bits that hold the truth.

It shares no code with the package, nor with `tests.referee`. The soft value comes from Newton's
method, and the contraction bounds what it is off by, so that its ball is rigorous and all that
follows from it; the hyper-gradient comes from forward sensitivities: one reward is varied at a
time, and value, policy and return follow.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from flint import arb, arb_mat, ctx

BITS = 600


class Exact:
    """What is true of both players' problem; attributes are rounded to extended precision.

    Args:
        transition: P `[S, A, S]`.
        reward: The follower's reward `[S, A]`.
        gamma: The discount.
        temperature: Weight of the policy's entropy.
        mask: Which actions exist `[S, A]`, None for all.
        upper_reward: The leader's reward `[S, A]`.
        start: Distribution of the first state `[S]`.
    """

    def __init__(
        self,
        transition: Any,
        reward: Any,
        gamma: float,
        temperature: float,
        mask: Any,
        upper_reward: Any,
        start: Any,
    ) -> None:
        """Compute everything."""
        before, ctx.prec = ctx.prec, BITS
        try:
            self._size, self._actions = np.shape(reward)
            states = range(self._size)
            self._acts = [
                [a for a in range(self._actions) if mask is None or mask[s][a]] for s in states
            ]
            self._rows = [[[arb(float(p)) for p in row] for row in rows] for rows in transition]
            self._reward = [{a: arb(float(reward[s][a])) for a in self._acts[s]} for s in states]
            self._gamma, self._tau = arb(float(gamma)), arb(float(temperature))
            self._value = self._solved()
            self._policy = self._answer(self._value)[0]
            leader = [[arb(float(u)) for u in row] for row in upper_reward]
            self._objective, self._gradient = self._varied(leader, [arb(float(p)) for p in start])
        finally:
            ctx.prec = before

    @cached_property
    def value(self) -> Any:
        """The soft value `[S]`."""
        return np.array([rounded(v, max(map(abs, self._value))) for v in self._value])

    @cached_property
    def policy(self) -> Any:
        """The soft-optimal policy `[S, A]`."""
        return self._table(self._policy, arb(0))

    @cached_property
    def objective(self) -> Any:
        """The leader's discounted return."""
        return rounded(self._objective)  # its ball is wide where it vanishes

    @cached_property
    def gradient(self) -> Any:
        """Its derivative with respect to the follower's reward, `[S, A]`."""
        return self._table(self._gradient, arb(10) ** -60 / self._tau)

    def _table(self, entries: list[dict[int, arb]], least: arb) -> Any:
        scale = max(least, *(abs(entry) for row in entries for entry in row.values()))
        table = np.zeros((self._size, self._actions), dtype=np.longdouble)
        for s, row in enumerate(entries):
            for a, entry in row.items():
                table[s, a] = rounded(entry, scale)
        return table

    def _after(self, s: int, a: int, value: list[arb]) -> arb:
        """Return the discounted expectation of a value."""
        return self._gamma * sum(
            (p * v for p, v in zip(self._rows[s][a], value, strict=True)), arb(0)
        )

    def _answer(self, value: list[arb]) -> tuple[list[dict[int, arb]], list[arb]]:
        """Return the policy at a value, and T V."""
        policy, image = [], []
        for s, acts in enumerate(self._acts):
            q = {a: self._reward[s][a] + self._after(s, a, value) for a in acts}
            top = max((x.mid() for x in q.values()), key=lambda x: x)
            weights = {a: ((x - top) / self._tau).exp() for a, x in q.items()}
            total = sum(weights.values(), arb(0))
            policy.append({a: w / total for a, w in weights.items()})
            image.append(top + self._tau * total.log())
        return policy, image

    def _system(self, policy: list[dict[int, arb]]) -> arb_mat:
        """Return I - gamma P_pi."""
        matrix = arb_mat(self._size, self._size)
        for s, row in enumerate(policy):
            for t in range(self._size):
                step = sum((p * self._rows[s][a][t] for a, p in row.items()), arb(0))
                matrix[s, t] = (1 if s == t else 0) - self._gamma * step
        return matrix

    def _solved(self) -> list[arb]:
        """Return a ball around the soft value of each state."""
        value, least = [arb(0)] * self._size, None
        while True:
            policy, image = self._answer(value)
            policy = [{a: p.mid() for a, p in row.items()} for row in policy]
            defect = [(x - v).mid() for x, v in zip(image, value, strict=True)]
            size = max(abs(d) for d in defect)
            if least is not None and not size < least / 2 and size < least * 2 and size < self._tau:
                break
            least = size
            if size == 0:
                break
            step = self._system(policy).solve(arb_mat(self._size, 1, defect))
            value = [(v + step[s, 0]).mid() for s, v in enumerate(value)]
        # V - V* is at most |T V - V| / (1 - gamma), rows of P that sum to a little more included.
        _, image = self._answer(value)
        off = max((abs(x - v).upper() for x, v in zip(image, value, strict=True)), key=lambda x: x)
        longest = max(
            (sum(row, arb(0)).upper() for rows in self._rows for row in rows), key=lambda x: x
        )
        off = (off / (1 - self._gamma * longest)).upper()
        return [arb(v, off) for v in value]

    def _varied(
        self, leader: list[list[arb]], start: list[arb]
    ) -> tuple[arb, list[dict[int, arb]]]:
        """Return the leader's return, and what it changes by with each of the rewards."""
        states, policy = range(self._size), self._policy
        visits = self._system(policy).inv()  # expected visits of t from s
        gains = [sum((p * leader[s][a] for a, p in policy[s].items()), arb(0)) for s in states]
        value = [sum((visits[s, t] * gains[t] for t in states), arb(0)) for s in states]
        q = [{a: leader[s][a] + self._after(s, a, value) for a in policy[s]} for s in states]
        gradient: list[dict[int, arb]] = [{} for _ in states]
        for s in states:
            for a in policy[s]:
                by_value = [visits[t, s] * policy[s][a] for t in states]
                gain = []
                for t in states:
                    change = arb(0)
                    for b, p in policy[t].items():
                        by_q = self._after(t, b, by_value) + (1 if (t, b) == (s, a) else 0)
                        change += p * (by_q - by_value[t]) / self._tau * q[t][b]
                    gain.append(change)
                gradient[s][a] = sum(
                    (start[t] * visits[t, z] * gain[z] for t in states for z in states),
                    arb(0),
                )
        objective = sum((p * v for p, v in zip(start, value, strict=True)), arb(0))
        return objective, gradient


def rounded(ball: arb, scale: arb | None = None) -> Any:
    """Return a ball's midpoint in extended precision; what is below 1e-4900 is zero.

    Raises:
        ValueError: If the ball is wide, as numbers of that scale go.
    """
    if not ball.rad() <= abs(ball.mid() if scale is None else scale) * arb(2) ** -80:
        raise ValueError(f"a ball is too wide: {ball}")
    mantissa, exponent = (int(part) for part in ball.mid().man_exp())
    drop = max(0, abs(mantissa).bit_length() - 64)
    high, low = divmod(abs(mantissa) >> drop, 1 << 32)
    whole = np.longdouble(high) * np.longdouble(2**32) + np.longdouble(low)
    whole = np.ldexp(whole, max(-20000, min(20000, exponent + drop)))
    return whole if mantissa >= 0 else -whole
