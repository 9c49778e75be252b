"""The reference: every public name with its types and its docstring, a page for each module.

Public is what some module of the package lists in `__all__`. A name is documented in the module
that defines it, and found in the index under the shortest path that it has.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import bilevel_gym

from .markdown import contents, docstring, table

HEAD = """# Reference

Every public name, a page for each module. Shapes stand in brackets: `[S, A]` is an array over
states and actions, `[D]` one over the entries of x, `[B]` one over a batch.
"""

# Lines of these would be longer than they are read.
LONGEST = 60


@dataclass(frozen=True)
class Name:
    """A public name.

    Attributes:
        path: The shortest path that it is imported by.
        home: The module that defines it.
        own: Its name there.
        thing: What it is.
    """

    path: str
    home: str
    own: str
    thing: Any

    @property
    def documented(self) -> bool:
        """Whether it can have a docstring: it is a class or a function."""
        return inspect.isclass(self.thing) or inspect.isroutine(self.thing)


def modules() -> Iterator[ModuleType]:
    """Import and return all modules of the package."""
    yield bilevel_gym
    for found in pkgutil.walk_packages(bilevel_gym.__path__, f"{bilevel_gym.__name__}."):
        if not found.name.endswith("__main__"):
            yield import_module(found.name)


def public_names() -> list[Name]:
    """Return all public names, in the order of their homes."""
    paths: dict[tuple[str, str], list[tuple[str, Any]]] = defaultdict(list)
    for module in modules():
        for listed in getattr(module, "__all__", ()):
            thing = getattr(module, listed)
            if inspect.ismodule(thing) or listed.startswith("__"):
                continue
            home = getattr(thing, "__module__", None) or module.__name__
            own = getattr(thing, "__qualname__", listed)
            if not str(home).startswith(f"{bilevel_gym.__name__}."):
                home, own = module.__name__, listed  # a constant, or a type of another library
            paths[str(home), own].append((f"{module.__name__}.{listed}", thing))
    found = []
    for (home, own), ways in sorted(paths.items(), key=lambda item: item[0]):
        shortest = min((path for path, _ in ways), key=lambda path: (path.count("."), path))
        found.append(Name(shortest, home, own, ways[0][1]))
    return found


def pages() -> dict[str, str]:
    """Return the pages of the modules, of the packages that hold them, and the index, by path.

    Modules are listed by the page of their package, not in the navigation of every page of the
    site, where two hundred of them would hide the rest.
    """
    homes: dict[str, list[Name]] = defaultdict(list)
    for name in public_names():
        homes[name.home].append(name)
    rooms: dict[str, list[str]] = defaultdict(list)
    for home in homes:
        rooms[".".join(home.split(".")[:2])].append(home)
    found = {f"reference/{home}.md": page(home, names) for home, names in homes.items()}
    for room, held in rooms.items():
        # A module that is no package is its own room.
        if held != [room]:
            found[f"reference/{room}.md"] = room_page(room, held, homes)
    index = [HEAD, contents(rooms, hidden=True), _listed(rooms)]
    found["reference/index.md"] = "\n\n".join(index) + "\n"
    return found


def room_page(room: str, held: list[str], homes: dict[str, list[Name]]) -> str:
    """Return the page of a package: what it says, its own names, and its modules."""
    parts = [f"# {room}", f"```{{py:module}} {room}\n```", docstring(import_module(room))]
    below = [home for home in held if home != room]
    parts += ["## Modules", _listed(below)]
    parts += [entry(name) for name in homes.get(room, ())]
    return "\n\n".join(parts) + "\n"


def _listed(modules: Iterable[str]) -> str:
    """Return modules as a table, with the first sentence of each."""
    rows = [
        (
            f"[{name}]({name}.md)",
            docstring(import_module(name)).partition("\n\n")[0].replace("\n", " "),
        )
        for name in modules
    ]
    return table(("module", "what it is"), rows)


def page(home: str, names: list[Name]) -> str:
    """Return the page of a module."""
    room = ".".join(home.split(".")[:2])
    parts = [f"# {home}", f"```{{py:module}} {home}\n```", docstring(import_module(home))]
    if room != home:
        parts = ["---\norphan: true\n---", parts[0], f"Part of [{room}]({room}.md).", *parts[1:]]
    parts += [entry(name) for name in names]
    return "\n\n".join(parts) + "\n"


def entry(name: Name) -> str:
    """Return the entry of a name."""
    kind = "class" if inspect.isclass(name.thing) else "function"
    path = f"{name.home}.{name.own}"
    if not name.documented:
        return f"`````{{py:data}} {name.own}\n:value: {_short(name.thing)}\n`````"
    lines = [f"``````{{py:{kind}}} {name.own}{signature(name.thing)}"]
    if name.path != path:
        lines += [f"\nImported as `{name.path}`."]
    lines += ["", docstring(name.thing)]
    if inspect.isclass(name.thing):
        constructor = vars(name.thing).get("__init__")
        if inspect.isfunction(constructor) and constructor.__doc__:
            lines += ["", docstring(constructor)]
        lines += [member for own in vars(name.thing) for member in members(name, own)]
    return "\n".join([*lines, "``````"])


def members(name: Name, own: str) -> Iterator[str]:
    """Return the entry of a member of a class, nothing if it is private or has no docstring."""
    found = inspect.getattr_static(name.thing, own)
    text = docstring(getattr(found, "func", found))  # a cached property has a function
    if own.startswith("_") or not text or inspect.isclass(found):
        return
    if isinstance(found, staticmethod | classmethod) or inspect.isfunction(found):
        option = f":{type(found).__name__}:\n" if not inspect.isfunction(found) else ""
        what = f"method}} {own}{signature(getattr(name.thing, own))}"
    elif isinstance(found, property) or hasattr(found, "func"):
        returned = getattr(found, "fget", None) or getattr(found, "func", None)
        kind = getattr(returned, "__annotations__", {}).get("return")
        option, what = (f":type: {kind}\n" if kind else ""), f"property}} {own}"
    else:
        return
    yield f"\n`````{{py:{what}\n{option}\n{text}\n`````"


def signature(thing: Any) -> str:
    """Return the parameters of a class or function with their types, as one line.

    A protocol has none: it is not made, but described.
    """
    if getattr(thing, "_is_protocol", False):
        return ""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters = [
        parameter.replace(default=_Shown(parameter.default))
        if parameter.default is not parameter.empty
        else parameter
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    if inspect.isclass(thing):
        found = found.replace(return_annotation=inspect.Signature.empty)
    text = str(_Written(found.replace(parameters=parameters)))
    return " ".join(text.split())


class _Written:
    """A signature as text: annotations are written as in the source, without quotes."""

    def __init__(self, found: inspect.Signature) -> None:
        self.found = found

    def __str__(self) -> str:
        parameters = [
            p.replace(annotation=_Bare(p.annotation)) if p.annotation is not p.empty else p
            for p in self.found.parameters.values()
        ]
        returned = self.found.return_annotation
        if returned is not inspect.Signature.empty:
            returned = _Bare(returned)
        return str(self.found.replace(parameters=parameters, return_annotation=returned))


class _Bare:
    """An annotation that is shown as it was written."""

    def __init__(self, annotation: Any) -> None:
        self.text = (
            annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        )

    def __repr__(self) -> str:
        return self.text


class _Shown:
    """A default that is shown as its value, or as dots where this is no plain short value."""

    def __init__(self, value: Any) -> None:
        self.text = _short(value)

    def __repr__(self) -> str:
        return self.text


def _short(value: Any) -> str:
    text = repr(value)
    return "..." if len(text) > LONGEST or "<" in text or "\n" in text else text
