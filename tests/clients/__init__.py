"""Agents, recorders and searches of other packages, each on both seats; see `__main__`."""
