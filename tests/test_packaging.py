"""What is in the tree, what is in the distributions, and whether a fresh install works."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grimp
import pytest

import bilevel_gym

from . import layers

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

TOP_LEVEL = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "README.md"}
TOP_LEVEL |= {"bilevel_gym", "demos", "docs", "envs", "pyproject.toml", "tests", "wrappers"}
# What builds, installs and runs leave behind.
ARTEFACTS = {"__pycache__", "build", "dist", "htmlcov", "runs", "venv"}
LINKS = {"bilevel_gym/envs": "../envs", "bilevel_gym/wrappers": "../wrappers"}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command, and return what it prints; its errors are shown where it fails."""
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def tracked(*options: str) -> list[str] | None:
    """Return what git lists, None where the tree is no git checkout."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    command = ("git", "-c", "safe.directory=*", "ls-files", *options)
    return run(*command, cwd=ROOT).splitlines()


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Return the path of every module in a tree, by its path inside the package."""
    found = {}
    for top in ("bilevel_gym", "envs", "wrappers"):
        for folder, folders, files in os.walk(root / top, followlinks=False):
            folders[:] = [name for name in folders if name != "__pycache__"]
            for name in files:
                if name.endswith(".py"):
                    path = Path(folder, name)
                    inside = path.relative_to(root).as_posix()
                    found[inside if top == "bilevel_gym" else f"bilevel_gym/{inside}"] = path
    return found


# The tree ---------------------------------------------------------------------------------------


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    listed = tracked()
    if listed is None:
        names = {name for name in os.listdir(ROOT) if not name.endswith(".egg-info")} - ARTEFACTS
    else:
        names = {path.split("/")[0] for path in listed}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_every_folder_with_modules_is_a_package_and_tasks_and_wrappers_lie_flat() -> None:
    folders = {os.path.dirname(module) for module in sources()}
    assert {f"{folder}/__init__.py" for folder in folders} <= set(sources())
    for link in LINKS:
        assert [folder for folder in folders if folder.startswith(link)] == [link]


def test_the_links_lead_to_the_real_folders() -> None:
    for link, target in LINKS.items():
        listed = tracked("--stage", link)
        if listed is not None:
            (entry,) = listed
            assert entry.startswith("120000 "), f"{link} is not committed as a link: {entry}"
        path = ROOT / link
        if path.is_symlink():
            assert os.readlink(path).replace(os.sep, "/") == target
        else:  # a checkout without links has a small file with the target instead
            assert path.is_file() and path.read_text(encoding="utf-8").strip() == target


def test_the_version_is_the_same_everywhere() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert importlib.metadata.version("bilevel-gym") == bilevel_gym.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "\n## [Unreleased]\n" in changes
    (date,) = re.findall(rf"^## \[{bilevel_gym.__version__}\] - ([\d-]+)$", changes, re.MULTILINE)
    cited = f"\nversion: {bilevel_gym.__version__}\ndate-released: {date}\n"
    assert cited in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    bibtex = f"version = {{{bilevel_gym.__version__}}}"
    assert bibtex in (ROOT / "docs" / "pages" / "layout.md").read_text(encoding="utf-8")


def test_every_library_that_is_imported_is_declared() -> None:
    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w-]", requirement)[0].lower() for requirement in requirements}

    project = PROJECT["project"]
    declared = names(project["dependencies"]).union(
        *(names(extra) for extra in project["optional-dependencies"].values())
    )
    providers = importlib.metadata.packages_distributions()
    graph = grimp.build_graph("bilevel_gym", include_external_packages=True, cache_dir=None)
    outside = {name.split(".")[0] for name in graph.modules} - {"bilevel_gym"}
    for name in outside - sys.stdlib_module_names:
        distributions = {given.lower().replace("_", "-") for given in providers.get(name, [])}
        importers = graph.find_modules_that_directly_import(name)
        assert distributions & declared, f"{importers} import {name}, which nothing declares"


@pytest.mark.parametrize(
    ("modules", "libraries"),
    [
        ("bilevel_gym.cli", "matplotlib pygame torch stable_baselines3 scipy rich PIL"),
        ("bilevel_gym.benchmark", "pandas pyarrow pydantic joblib dask distributed filelock"),
        ("bilevel_gym.rendering.grid, bilevel_gym.rendering.window", "pygame"),
        ("bilevel_gym.episodes.simulator", "numba"),
    ],
)
def test_libraries_are_not_imported_before_they_are_used(modules: str, libraries: str) -> None:
    code = f"import sys, bilevel_gym, {modules}; print({{*sys.modules}} & {{*{libraries.split()}}})"
    assert run(sys.executable, "-c", code, cwd=ROOT, PYTHONPATH=str(ROOT)) == "set()\n"


@pytest.fixture(scope="module")
def measured() -> layers.Measured:
    """Measure the tree once."""
    return layers.measure()


def test_no_import_points_upward_or_names_a_higher_module_in_a_string(
    measured: layers.Measured,
) -> None:
    assert measured.upward == []


def test_no_modules_import_each_other(measured: layers.Measured) -> None:
    assert measured.circles == []


def test_names_in_strings_are_found() -> None:
    module = "bilevel_gym.envs.tasks"
    entry_points = layers.named_in_strings(module, ["bilevel_gym.envs.grid_world"])
    assert entry_points == {"bilevel_gym.envs.grid_world"}


# The distributions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Distributions:
    """A copy of the tree, and what was built of it."""

    tree: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """Build the sdist, and the wheel from it, out of a copy of the tree."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(
        ROOT,
        copy,
        symlinks=True,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "runs", *ARTEFACTS),
    )
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, copy, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Distributions(copy, sdist, wheel)


@pytest.fixture(scope="session")
def installed(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a fresh environment; return the folder of its programs."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip(programs, "install", "-q", "--no-compile", distributions.wheel)  # most is never imported
    return programs


def pip(programs: Path, *command: str | Path) -> str:
    """Run this environment's pip on another one."""
    own = (sys.executable, "-m", "pip", "--python", programs / "python")
    return run(*own, *command, cwd=programs)


def test_the_wheel_holds_the_package_its_licence_and_nothing_else(
    distributions: Distributions,
) -> None:
    with zipfile.ZipFile(distributions.wheel) as archive:
        names = set(archive.namelist())
        version = bilevel_gym.__version__
        info = f"bilevel_gym-{version}.dist-info/"
        licence = [name for name in names if name.startswith(info) and name.endswith("/LICENSE")]
        assert len(licence) == 1
        assert archive.read(licence[0]) == (distributions.tree / "LICENSE").read_bytes()
        modules = sources(distributions.tree)
        contents = {name for name in names if not name.startswith(info)}
        shipped = ("default.toml", "deep.toml", "how_to_read.md")
        data = {f"bilevel_gym/benchmark/{name}" for name in shipped}
        network = ("", "_demand", "_equilibrium")
        data |= {f"bilevel_gym/envs/sioux_falls{name}.csv" for name in network}
        data.add("bilevel_gym/envs/best_known.json")
        assert contents == {*modules, "bilevel_gym/py.typed", *data}
        for name, path in modules.items():
            assert archive.read(name) == path.read_bytes(), name


def test_the_source_distribution_holds_tasks_and_seats(distributions: Distributions) -> None:
    with tarfile.open(distributions.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("envs/base.py", "wrappers/lower_level.py", "py.typed"):
        assert f"bilevel_gym/{name}" in names
    assert "LICENSE" in names


def test_a_fresh_install_plays_from_a_foreign_folder(installed: Path, tmp_path: Path) -> None:
    script = """
import importlib.resources, pickle, sys
import gymnasium as gym, numpy as np
import bilevel_gym, bilevel_gym.envs, bilevel_gym.wrappers
from gymnasium.envs.registration import EnvSpec

assert "site-packages" in bilevel_gym.__file__, bilevel_gym.__file__
assert bilevel_gym.envs.__file__.startswith(bilevel_gym.__file__.rpartition("__init__")[0])
assert importlib.resources.files("bilevel_gym").joinpath("py.typed").is_file()

env = gym.make("BilevelGridWorld-v0")
_, info = env.reset(seed=0)
_, objective, _, _, info = env.step(info["upper_params"])
follower = bilevel_gym.LowerLevel(env, info["upper_params"])
follower.reset(seed=0)
follower.step(1)
again = gym.make(EnvSpec.from_json(env.spec.to_json()))
again.reset(seed=0)
assert pickle.loads(pickle.dumps(env)).step(info["upper_params"])[1] == objective
frame = gym.make("BilevelGridWorld-v0", render_mode="rgb_array")
frame.reset(seed=0)
assert frame.render().dtype == np.uint8
for name in ("envs", "wrappers", "tests", "demos"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} can be imported from outside the package")
print(f"{objective:.6f}")
"""
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    assert run(installed / "python", path, cwd=tmp_path) == "-1.198591\n"


def test_the_requirements_of_a_fresh_install_agree(installed: Path) -> None:
    assert "No broken requirements" in pip(installed, "check")


def test_the_command_line_of_a_fresh_install_works(installed: Path, tmp_path: Path) -> None:
    program = installed / "bilevel-gym"
    assert bilevel_gym.__version__ in run(program, "--version", cwd=tmp_path)
    assert "BilevelGridWorld-v0" in run(program, "list", cwd=tmp_path, COLUMNS="200")
