"""`python -m docs`: build the site. It needs the extra `docs`, and no network."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from .generated import pages
from .links import broken_links
from .results import RESULTS

HERE = Path(__file__).resolve().parent
PAGES = HERE / "pages"


OUT = "folder of the site; what is needed on the way is written beside it"


def main() -> int:
    """Write the source of the site, build it with warnings as errors, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build" / "site", help=OUT)
    arguments = parser.parse_args()
    from sphinx.cmd.build import build_main

    out: Path = arguments.out.resolve()
    source = out.with_name(f"{out.name}-source")
    begun = time.perf_counter()
    write_source(source)
    # Everything is read anew, as pages that are as they were may link to others that are not.
    options = ["-W", "--keep-going", "-q", "-E", "-b", "html", "-c", str(HERE)]
    doctrees = ["-d", str(out.with_name(f"{out.name}-doctrees"))]
    code = build_main([*options, *doctrees, str(source), str(out)])
    count, broken = broken_links(out)
    for line in broken:
        print(f"broken link: {line}", file=sys.stderr)
    written, seconds = len(list(out.rglob("*.html"))), time.perf_counter() - begun
    print(
        f"{written} pages, {count} links, {len(broken)} of them broken, in {seconds:.0f} s: {out}"
    )
    return code or bool(broken)


def write_source(folder: Path) -> None:
    """Write all pages and pictures into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    texts = {path.relative_to(PAGES).as_posix(): path.read_text("utf-8") for path in by_hand()}
    for name, text in (texts | pages()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    shutil.copytree(HERE.parent / "demos" / "gallery", folder / "gallery")
    shutil.copytree(RESULTS, folder / "results")


def by_hand() -> list[Path]:
    """Return the pages that are written by hand."""
    return sorted(PAGES.rglob("*.md"))


if __name__ == "__main__":
    sys.exit(main())
