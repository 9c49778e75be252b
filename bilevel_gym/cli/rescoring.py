"""`bilevel-gym rescore`: what claimed best x of tasks are worth, by the exact answer."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import gymnasium as gym

from ..core.files import check_regular
from ..core.plain import read_arrays, readable
from .arguments import CommandError, in_one_line
from .console import explain_os_errors, show_table
from .progress import waiting

if TYPE_CHECKING:
    from ..benchmark.scoreboard import Claim


@click.command("rescore", short_help="Evaluate x that others have found.")
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the scoreboard, as .json (which this command reads again), .csv or .md.",
)
@click.option("--trust", is_flag=True, help="Import what the files name as module:ID.")
def rescore(files: tuple[Path, ...], out: Path | None, trust: bool) -> None:
    """Evaluate x that others have found, and print the verified scoreboard.

    FILE is a JSON list of entries {"task": ID, "arguments": {...}, "x": [...], "name": WHO,
    "source": HOW}, with the "objective" that is claimed, if any, or the folder of a run of
    `bilevel-gym solve`. Without FILE, the best x known of the tasks of this package are evaluated.
    If something is wrong with one entry, nothing is written.
    """
    from ..benchmark import scoreboard

    if out is not None and out.suffix not in scoreboard.WRITERS:
        raise CommandError(f"`--out` must end in {', '.join(scoreboard.WRITERS)}, got {out.name!r}")
    claims: list[Claim] = []
    with in_one_line():
        for path in files:
            try:
                claims += [_run(path)] if path.is_dir() else scoreboard.read_claims(path)
            except OSError as error:
                raise CommandError(f"cannot read {path}: {error.strerror}") from None
        if not files:
            from ..envs.records import FILE, best_known_text

            claims = scoreboard.parse_claims(best_known_text(), FILE)
        with waiting(f"evaluating {len(claims)} x"):
            scores = scoreboard.verified(claims, trust=trust)
    show_table(scoreboard.HEAD, map(_plain, scoreboard.rows_of(scores)), words=("name", "source"))
    wrong = [score for score in scores if score.confirmed is False]
    for score in wrong:
        click.echo(
            f"Warning: {score.claim.where}: claims {score.claim.objective!r}, and F(x) is "
            f"{score.objective!r}",
            err=True,
        )
    if out is not None:
        with explain_os_errors(out.parent):
            scoreboard.write_scoreboard(scores, out)
        click.echo(f"scoreboard: {out}")


def _plain(row: tuple[str, ...]) -> list[str]:
    """Return the cells of a row as the console shows them, whatever strangers call themselves."""
    from rich.markup import escape

    return [escape("".join(c if c.isprintable() else "?" for c in text)) for text in row]


def _run(folder: Path) -> Claim:
    """Return the best x of a run of `bilevel-gym solve`.

    Raises:
        OSError: If a file of it cannot be read.
        ValueError: If one is damaged.
    """
    from ..benchmark.scoreboard import Claim
    from .resuming import MOST
    from .run_folder import CONFIG, PARAMS, RESULT

    def read(name: str) -> Any:
        check_regular(folder / name, MOST)
        return json.loads((folder / name).read_text(encoding="utf-8"))

    with readable(folder):
        config = read(CONFIG)
        check_regular(folder / PARAMS)
        with zipfile.ZipFile(folder / PARAMS) as stored:
            x = read_arrays(stored)["best_upper_params"]
        task = str(config["id"])
        if task not in gym.registry and config.get("module") is not None:
            task = f"{config['module']}:{task}"
        best = read(RESULT)["objective"]["best"] if (folder / RESULT).exists() else None
        return Claim(
            where=str(folder),
            task=task,
            arguments=dict(config["kwargs"]),
            x=x.tolist(),
            name=folder.name,
            source=f"bilevel-gym solve, {config['method']}, {config['optimizer']}, "
            f"seed {config['seed']}",
            objective=None if best is None else float(best),
        )
