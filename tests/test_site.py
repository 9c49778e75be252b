"""The site: a page for everything, code that runs, links that lead somewhere."""

from __future__ import annotations

import inspect
import os
import pkgutil
import re
from pathlib import Path

import pytest

from bilevel_gym.methods.table import ROWS
from bilevel_gym.optimizers import OPTIMIZERS
from bilevel_gym.registration import TASKS
from docs import notebooks
from docs.__main__ import PAGES, by_hand
from docs.generated import pages
from docs.markdown import as_markdown
from docs.methods import tables
from docs.reference import Name, public_names

from .pasted import ROOT, blocks, run_alone

GALLERY = ROOT / "demos" / "gallery"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#[^)]*)?\)|`[^`<]*<([^>`]+)>`")


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    """Make all pages that come from the code, once."""
    return pages()


def hand_pages() -> dict[str, str]:
    """Return the pages by hand, by their path in the site."""
    return {
        path.relative_to(PAGES).as_posix(): path.read_text(encoding="utf-8") for path in by_hand()
    }


WITH_CODE = [name for name, text in hand_pages().items() if blocks(text)]
# To import PyTorch takes longer than what these do with it: they share a process.
TORCH = re.compile(r"\btorch\b|stable_baselines3|ParametricGame|design_reward")
HEAVY = [page for page in WITH_CODE if TORCH.search("".join(blocks(hand_pages()[page])))]

# What must hold after the code of a page, and what it must have printed.
AFTERWARDS = {
    "clients.md": "assert agent.predict(np.int64(0))[0].shape == ()",
    "own-game.md": """
from bilevel_gym.testing import check_hyper_gradient
check_hyper_gradient(gym.make("Commute-v0", fast_pay=-1.2))""",
}
PRINTED = {"own-game.md": "relative error", "quickstart.md": "0.46\n0.0\n"}


def test_every_task_and_every_method_has_a_page(generated: dict[str, str]) -> None:
    for task in TASKS:
        page = generated[f"tasks/{task.id}.md"]
        for part in ("## Description", "## All arguments", "## Methods that fit", "ground truth"):
            assert part in page, f"{task.id} lacks {part}"
        assert f"../gallery/{task.id}" not in page
        assert (GALLERY / re.findall(r"\.\./gallery/(\w+\.png)", page)[0]).is_file()
    for row in ROWS:
        page = generated[f"methods/{row.name}.md"]
        assert row.source in page and "## Options" in page and "## In equations" in page
    for name in OPTIMIZERS:
        assert f"\n## {name}\n" in generated["optimizers.md"]


def test_equations_belong_to_methods() -> None:
    files = {path.stem for path in (ROOT / "docs" / "equations").iterdir()}
    assert files <= {row.name for row in ROWS}


def test_a_method_that_was_measured_shows_it(generated: dict[str, str]) -> None:
    page = generated["methods/trace.md"].partition("## Measured")[2].partition("\n## ")[0]
    shown = [row[0] for _, rows in tables(page) for row in rows]
    assert any(cell == "`trace`" for cell in shown)
    assert all(cell.startswith("`trace`") for cell in shown)
    assert "cosine" in page and "annealed" in page


def test_the_scoreboard_has_every_task_with_an_exact_answer(generated: dict[str, str]) -> None:
    board = generated["scoreboard.md"].partition("## How to submit")[0]
    for task in TASKS:
        exact = "F and its hyper-gradient are exact" in generated[f"tasks/{task.id}.md"]
        assert (f"[{task.id}](" in board) == exact, task.id


def test_every_link_between_pages_and_to_pictures_leads_somewhere(
    generated: dict[str, str],
) -> None:
    texts = generated | hand_pages()
    assert not set(generated) & set(hand_pages())
    count = 0
    for page, text in texts.items():
        for link, download in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
            target = link or download
            if not re.search(r"\.(md|png|gif)$", target):
                continue
            count += 1
            path = os.path.normpath(os.path.join(os.path.dirname(page), target))
            if path.startswith("gallery/"):
                assert (GALLERY / Path(path).name).is_file(), f"{page}: {target}"
            else:
                assert path in texts, f"{page}: {target}"
    assert count > 500


def test_every_page_by_hand_is_in_a_table_of_contents() -> None:
    index = hand_pages()["index.md"]
    listed = set(re.findall(r"^[\w/-]+$", index, flags=re.MULTILINE))
    assert {path.removesuffix(".md") for path in hand_pages()} - {"index"} <= listed


def code_of(page: str) -> str:
    code = "\n".join([*blocks(hand_pages()[page]), AFTERWARDS.get(page, "")])
    assert re.search("^(import|from) bilevel_gym", code, flags=re.MULTILINE), page
    return code


@pytest.mark.parametrize("page", [page for page in WITH_CODE if page not in HEAVY])
def test_the_code_of_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path) -> None:
    assert PRINTED.get(page, "") in run_alone("-c", code_of(page), folder=tmp_path)


def test_the_code_of_pages_with_learners_runs_from_top_to_bottom(tmp_path: Path) -> None:
    assert len(HEAVY) == 4
    code = [f"exec(compile({code_of(page)!r}, {page!r}, 'exec'), {{}})" for page in HEAVY]
    run_alone("-c", "\n".join(code), folder=tmp_path)


def test_the_examples_of_pages_from_the_code_run(generated: dict[str, str], tmp_path: Path) -> None:
    """One page of each kind, each block in a namespace of its own."""
    kinds = ("tasks/BilevelToll-v0.md", "tasks/index.md", "methods/trace.md", "optimizers.md")
    code = [f"exec({block!r}, {{}})" for page in kinds for block in blocks(generated[page])]
    assert len(code) >= len(kinds)
    run_alone("-c", "\n".join(code), folder=tmp_path)


@pytest.mark.parametrize(
    ("command", "said"), [("check", "Commute-v0 passed."), ("solve", "ended at the best value")]
)
def test_a_task_of_the_readers_own_passes_the_commands(
    tmp_path: Path, command: str, said: str
) -> None:
    (source,) = (x for x in blocks(hand_pages()["own-game.md"]) if "class Commute" in x)
    (tmp_path / "commute.py").write_text(source, encoding="utf-8")
    given = ("-m", "bilevel_gym.cli", command, "commute:Commute-v0")
    assert said in run_alone(*given, folder=tmp_path)


def test_every_module_name_and_demo_of_the_pages_exists() -> None:
    text = "\n".join(hand_pages().values())
    names = set(re.findall(r"`(?:help\(\"?)?(bilevel_gym(?:\.[A-Za-z]\w*)+)", text))
    assert len(names) >= 10
    for name in names - {"bilevel_gym.tasks"}:  # a group of entry points
        pkgutil.resolve_name(name)
    for path in re.findall(r"demos/\w+\.py", text):
        assert (ROOT / path).is_file(), path
    for module in re.findall(r"python -m ((?:tests|docs)[.\w]*)", text):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module


def test_the_tables_of_methods_name_methods() -> None:
    named = {
        name
        for _, rows in tables(hand_pages()["which-method.md"])
        for row in rows
        for name in re.findall(r"^`([a-z-]+)`", row[0])
    }
    assert len(named) > 15 and named <= {row.name for row in ROWS}


def test_every_public_name_has_a_docstring_and_types() -> None:
    names = [name for name in public_names() if name.documented]
    assert len(names) > 500
    bare = [name.path for name in names if not inspect.getdoc(name.thing)]
    assert bare == []
    assert [name.path for name in names if untyped(name)] == []


def test_what_takes_or_returns_arrays_says_their_shapes() -> None:
    """A shape in brackets or in words; for how a class is made, in its docstring as well."""
    shapeless, count = [], 0
    for name in (name for name in public_names() if name.documented):
        function = vars(name.thing).get("__init__") if inspect.isclass(name.thing) else name.thing
        if not inspect.isfunction(function) or "Array" not in str(function.__annotations__):
            continue
        count += 1
        said = f"{inspect.getdoc(name.thing)} {inspect.getdoc(function)}"
        if not re.search(r"\[[^]]*\]|shape|scalar", said, re.IGNORECASE):
            shapeless.append(name.path)
    assert count > 150 and shapeless == []


def untyped(name: Name) -> list[str]:
    """Return the parameters of a name that have no type, and "return" without one of the result."""
    function = name.thing
    if inspect.isclass(function):
        function = vars(function).get("__init__")
    if not inspect.isfunction(function) or function.__module__ == "typing":  # of a protocol
        return []
    signature = inspect.signature(function)
    missing = [
        parameter.name
        for parameter in list(signature.parameters.values())
        if parameter.annotation is parameter.empty and parameter.name not in ("self", "cls")
    ]
    returned = signature.return_annotation
    return [*missing, *(["return"] if returned is inspect.Signature.empty else [])]


def test_the_notebooks_were_made_from_the_tutorials_as_they_are() -> None:
    assert {path.stem for path in notebooks.FOLDER.glob("*.md")} == set(notebooks.NAMES)
    assert notebooks.stale() == [], "python -m docs.notebooks executes what has changed"


@pytest.mark.parametrize("name", notebooks.NAMES)
def test_a_tutorial_ends_with_an_exercise_that_has_a_checked_solution(name: str) -> None:
    cells = notebooks.cells(notebooks.source(name))
    assert "## Exercise" in cells[-2][1]
    kind, solution = cells[-1]
    assert kind == "solution" and "\nassert " in solution
    ran = [cell for cell in notebooks.kept(name)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in ran] == [*range(1, len(ran) + 1)]
    assert [kind for kind, _ in cells if kind != "markdown"] == ["code"] * (len(ran) - 1) + [kind]


def test_sections_of_docstrings_become_lists_and_examples_are_fenced() -> None:
    text = """Do it, for $x.

Args:
    first: One,
        in two lines.
    **others: The rest.

Example:
    >>> 1 + 1
    2

More."""
    lines = [line for line in as_markdown(text).splitlines() if line]
    assert lines == [
        r"Do it, for \$x.",
        "**Arguments**",
        "* `first`: One,",
        "  in two lines.",
        "* `**others`: The rest.",
        "**Example**",
        "```pycon",
        ">>> 1 + 1",
        "2",
        "```",
        "More.",
    ]


def test_tables_are_read_as_they_are_written() -> None:
    assert tables("a\n| x | y |\n|---|---|\n| `1` | |\n") == [(["x", "y"], [["`1`", ""]])]
