"""`bilevel-gym methods`: the methods, and the options of one of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from ..core.checks import accepted_options
from .arguments import METHOD, in_one_line, inner_learners
from .documents import options_of_class, plain, say, say_option


@click.command("methods", short_help="List the methods, or the options of one.")
@click.argument("name", required=False, **METHOD)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def methods(name: str | None, as_json: bool) -> None:
    """List the methods, or the options of the method NAME.

    A method computes or estimates the hyper-gradient; `--method NAME` chooses it, `--method-set`
    its options. NAME may be module:Class of your own.
    """
    if name is None:
        (print_json if as_json else show_all)()
        return
    found, missing = [], []
    with in_one_line():
        for games, place in places(name).items():
            try:
                found.append(described(games, place))
            except ImportError as error:  # an extra that is not installed
                missing.append(f"{games}: {error}")
        if not found:
            raise ImportError(missing[0])
    if as_json:
        click.echo(json.dumps(found, indent=2, default=repr))
        return
    for facts in found:
        show_one(name, facts)
    for line in missing:
        say(line)


def print_json() -> None:
    """Print the table, and the methods of others, as JSON."""
    from ..methods.registry import registered_methods
    from ..methods.table import ROWS

    outside = [{"name": n, "model": str(target)} for n, target in registered_methods().items()]
    click.echo(json.dumps([*map(asdict, ROWS), *outside], indent=2))


def show_all() -> None:
    """Print what each method is, by what it sees."""
    from ..methods.registry import registered_methods
    from ..methods.table import LEARNT_METHODS, PREFERENCE_METHODS, ROWS, SEES
    from ..optimizers import OPTIMIZERS

    for seen in SEES:
        click.echo(f"from {seen}:")
        for row in ROWS:
            if row.sees == seen:
                click.echo(f"  {row.name:<19} {row.summary:<31} {row.source}")
    if outside := registered_methods():
        click.echo("from other packages:")
        for name, target in outside.items():
            click.echo(f"  {name:<19} {target}")
    click.echo()
    say(
        f"Where the follower learns: {', '.join(LEARNT_METHODS)}; from preferences: "
        f"{', '.join(PREFERENCE_METHODS)}. They and the deep ones need the extra sb3."
    )
    say(f"inner learners: {', '.join(inner_learners())}")
    say(f"optimizers: {', '.join(OPTIMIZERS)}")
    click.echo("\n`bilevel-gym methods NAME` lists the options of one")


def places(name: str) -> dict[str, str]:
    """Return where a method is found, "module:Class", for each kind of games that have it."""
    from ..methods.registry import method_target
    from ..methods.table import ROWS

    for row in ROWS:
        if row.name == name:
            kinds = {
                "games with a model": row.model,
                "games whose follower learns": row.learnt,
                "games with preferences": row.preferences,
            }
            return {games: place for games, place in kinds.items() if place}
    return {"games that it suits": str(method_target(name))}


def described(games: str, place: str) -> dict[str, Any]:
    """Return what a method is, and its options, each with its default and what is said of it."""
    from ..methods.registry import resolve_method

    cls = resolve_method(place)
    said = options_of_class(cls)
    defaults = {name: p.default for name, p in accepted_options(cls).items()}
    defaults |= getattr(cls, "defaults", {})  # of deep methods on tables
    return {
        "games": games,
        "class": place,
        "summary": plain((cls.__doc__ or "").partition("\n\n")[0]),
        "exact": cls.exact,
        "options": {n: {"default": v, "about": said.get(n, "")} for n, v in defaults.items()},
    }


def show_one(name: str, facts: dict[str, Any]) -> None:
    """Print the options of a method."""
    click.echo(f"{name}, for {facts['games']}")
    say(facts["summary"])
    module = facts["class"].partition(":")[0]
    say(f'help("{module}") has paper and equations.')
    for option, of in facts["options"].items():
        say_option(option, of["default"], of["about"])
    click.echo()
