"""All pages that are made from the code."""

from __future__ import annotations

from . import methods, notebooks, reference, registries, results, tasks


def pages() -> dict[str, str]:
    """Return the text of every page that is made from the code, by its path in the site."""
    found: dict[str, str] = {}
    for part in (tasks, methods, registries, reference, results, notebooks):
        found |= part.pages()
    return found
