"""A fuzzer: odd values wherever the package takes something, and a rule of what may follow.

`judge` is the rule, `odd` the values, and the other modules say where they are given. In tests each
target gets a few examples; `python -m tests.fuzz --examples 20000` gives them more.
"""
