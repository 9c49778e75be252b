"""`python -m docs`: build the site. It needs the extra `docs`, and no network."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from .generated import pages

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Write the source of the site, build it with warnings as errors, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "build" / "site")
    parser.add_argument("--source", type=Path, help="folder of the source (beside the site)")
    arguments = parser.parse_args()
    from sphinx.cmd.build import build_main

    out: Path = arguments.out.resolve()
    source: Path = (arguments.source or out.with_name(f"{out.name}-source")).resolve()
    begun = time.perf_counter()
    write_source(source)
    options = ["-W", "--keep-going", "-q", "-j", "auto", "-b", "html", "-c", str(HERE)]
    code = build_main([*options, "-d", str(out.with_name(f"{out.name}-doctrees")), str(source), str(out)])
    count = len(list(out.rglob("*.html")))
    print(f"{count} pages in {time.perf_counter() - begun:.0f} s: {out / 'index.html'}")
    return code


def write_source(folder: Path) -> None:
    """Write all pages and pictures, those that are as they were excepted: these are not read again."""
    texts = {path.relative_to(HERE / "pages").as_posix(): path for path in by_hand()}
    wanted = {name: path.read_text(encoding="utf-8") for name, path in texts.items()} | pages()
    for path in folder.rglob("*.md") if folder.exists() else ():
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    shutil.copytree(HERE.parent / "demos" / "gallery", folder / "gallery", dirs_exist_ok=True)


def by_hand() -> list[Path]:
    """Return the pages that are written by hand."""
    return sorted((HERE / "pages").rglob("*.md"))


if __name__ == "__main__":
    sys.exit(main())
