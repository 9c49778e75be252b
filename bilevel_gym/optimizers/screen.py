"""The screen before a safe climb: a search that needs no gradient, one x at a time."""

from __future__ import annotations

import numpy as np

from .base import FloatArray

__all__ = ["Screen"]

# Evaluations of a generation, and its first standard deviation in units of x.
POPULATION, SIGMA = 6, 4.0


class Screen:
    """CMA-ES over x in units of its entries, one x at a time."""

    def __init__(
        self, centre: FloatArray, low: FloatArray, high: FloatArray, units: FloatArray, seed: int
    ) -> None:
        """Begin around a centre in the box; `units` are those of the entries of x, `[D]`."""
        from cma import CMAEvolutionStrategy  # takes a second to import

        self._centre, self._low, self._high, self._units = centre, low, high, units
        rng = np.random.default_rng(seed)
        self._strategy = CMAEvolutionStrategy(
            np.zeros(centre.size),
            SIGMA,
            # Random numbers of its own, not the global ones.
            {
                "popsize": POPULATION,
                "seed": np.nan,
                "randn": lambda *shape: rng.standard_normal(shape),
                "verbose": -9,
            },
        )
        self.told: list[float] = []
        self._generation: list[FloatArray] = []

    def ask(self) -> FloatArray:
        """Return the next x."""
        at = len(self.told) % POPULATION
        if at == 0:
            self._generation = self._strategy.ask()
        moved = self._centre + (self._units * self._generation[at]).reshape(self._centre.shape)
        return np.clip(moved, self._low, self._high)

    def tell(self, value: float) -> None:
        """Take note of the value of what was asked last."""
        self.told.append(value)
        if len(self.told) % POPULATION == 0:
            self._strategy.tell(self._generation, [-told for told in self.told[-POPULATION:]])
