"""Give the package many odd inputs: `python -m tests.fuzz --examples 20000`.

Each target runs in a process of its own, so that a crash of the interpreter is a finding too.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

from .judge import Finding
from .running import TARGETS, worker


def main() -> int:
    """Try the targets; return 1 where there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="inputs, all targets together")
    parser.add_argument("--target", action="append", choices=[*TARGETS], help="a target alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    names = options.target or [*TARGETS]
    shares = {name: TARGETS[name].share for name in names}
    total, found = 0, 0
    context = multiprocessing.get_context("spawn")
    for name in names:
        count = max(1, round(options.examples * shares[name] / sum(shares.values())))
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            last = Path(folder, "last")
            ours, theirs = context.Pipe(duplex=False)
            arguments = (name, count, options.seed, str(last), theirs)
            process = context.Process(target=worker, args=arguments)
            process.start()
            theirs.close()
            try:
                done, findings = ours.recv()
            except EOFError:
                what = last.read_text() if last.exists() else "nothing yet"
                crash = Finding("crash", "the interpreter has ended", "?", what)
                done, findings = 0, {("crash", "?"): (1, crash)}
            process.join()
        total, found = total + done, found + len(findings)
        seconds = time.monotonic() - began
        print(f"{name}: {done} inputs, {len(findings)} findings, {seconds:.0f} s", flush=True)
        for times, finding in findings.values():
            print(f"    {finding.kind} at {finding.place}, {times} times: {finding.message[:300]}")
            print(f"        {finding.what[:300]}", flush=True)
    print(f"{total} inputs, {found} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
