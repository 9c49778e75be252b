"""`bilevel-gym export`: the results of a benchmark in the formats of other tools."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..core.files import replacing
from .arguments import in_one_line
from .console import explain_os_errors
from .reporting import read_results

# The keys of `bilevel_gym.benchmark.exports.FORMATS`, which loads pandas.
FORMATS = ("marl-eval",)


@click.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "name",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Format of the file.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: FOLDER/FORMAT.json]",
)
def export(folder: Path, name: str, out: Path | None) -> None:
    """Write the results of a benchmark as another tool reads them.

    FOLDER is what `bilevel-gym benchmark` has written. marl-eval (Gorsane et al., NeurIPS 2022)
    compares the same algorithms and seeds on all tasks: what would leave gaps is left out, and
    named. A file of this name is replaced.
    """
    from ..benchmark import exports

    results = read_results(folder)
    with in_one_line((ValueError,)):
        content, left_out = exports.FORMATS[name](results)
    out = folder / f"{name}.json" if out is None else out
    with explain_os_errors(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as temporary:
            temporary.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
    for text in left_out:
        click.echo(f"Warning: left out: {text}", err=True)
    click.echo(f"{name}: {out}")
