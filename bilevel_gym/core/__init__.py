"""Numerics on NumPy and SciPy alone: MDPs, linear systems, soft Bellman equations, adjoints."""
