"""The conda recipe: rattler-build renders it, and it says what `pyproject.toml` says.

It needs `py-rattler-build`, of the extra `dev`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import bilevel_gym

rattler_build: Any = pytest.importorskip("rattler_build")

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / ".conda" / "recipe.yaml"

# Names that are others in conda's channels.
RENAMED = {"matplotlib": "matplotlib-base", "typing-extensions": "typing_extensions"}


@pytest.fixture(scope="module")
def rendered() -> dict[str, Any]:
    """Return what the recipe comes to; there is one package, for all platforms."""
    recipe = rattler_build.Stage0Recipe.from_file(str(RECIPE))
    (variant,) = recipe.render(rattler_build.VariantConfig(), rattler_build.RenderConfig())
    found: dict[str, Any] = variant.recipe.to_dict()
    return found


def test_it_requires_what_the_package_requires(rendered: dict[str, Any]) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, needed = pyproject["project"], pyproject["build-system"]["requires"]

    def as_conda(requirement: str) -> str:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()  # type: ignore[union-attr]
        return f"{RENAMED.get(name, name)} {bounds}"

    python = f"python {project['requires-python']}"
    assert rendered["requirements"] == {
        "host": [python, "pip", *map(as_conda, needed)],
        "run": [python, *map(as_conda, project["dependencies"])],
    }
    scripts = [f"{name} = {place}" for name, place in project["scripts"].items()]
    assert rendered["build"]["python"]["entry_points"] == scripts


def test_it_is_made_of_this_tree_in_this_version(rendered: dict[str, Any]) -> None:
    assert rendered["package"] == {"name": "bilevel-gym", "version": bilevel_gym.__version__}
    (source,) = rendered["source"]
    assert (RECIPE.parent / source["path"]).resolve() == ROOT
    for name in rendered["about"]["license_file"]:
        assert (ROOT / name).is_file()
