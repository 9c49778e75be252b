"""Whether all links and pictures of a built site lead somewhere in it."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The links of a page, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value and not urlsplit(value).scheme:
                self.links.add(value)


def broken_links(site: Path) -> tuple[int, list[str]]:
    """Return how many links inside a site there are, and those that lead nowhere, with their page.

    Links to other sites are not followed.
    """
    site = site.resolve()
    files = {str(path) for path in site.rglob("*") if path.is_file()}
    pages = sorted(path for path in files if path.endswith(".html"))
    found = {path: _Page(Path(path).read_text(encoding="utf-8")) for path in pages}
    count, broken = 0, []
    for path, page in found.items():
        folder = os.path.dirname(path)
        for link in sorted(page.links):
            parts = urlsplit(link)
            target = os.path.normpath(os.path.join(folder, unquote(parts.path)))
            target = path if not parts.path else target
            count += 1
            missing = target not in files
            if not missing and parts.fragment and target in found:
                missing = unquote(parts.fragment) not in found[target].anchors
            if missing:
                broken.append(f"{os.path.relpath(path, site)}: {link}")
    return count, broken
