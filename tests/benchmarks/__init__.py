"""What the pieces cost, each as a ratio against a named peer in the same run.

One command measures everything and prints one table; it is not part of the test run:

    pip install -e ".[peers]"
    pytest tests/benchmarks

Add `-m "not large"` for a run of minutes, `-k` to choose rows, `--table FILE` to write the table as
Markdown, `--benchmark-disable` to check that both sides of each row agree without timing them, and
`--benchmark-json FILE` or `--benchmark-autosave` for all figures, ratios under `extra_info`.

A row is one test. The two sides are timed in turn, so that a machine whose speed drifts favours
neither; medians of at least 5 rounds (3 where a round takes more than 10 s); everything on one
thread. A bar that is missed is reported, and fails nothing.
"""
