"""The import graph of the package: `python -m tests.layers` prints its size and its faults."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

PACKAGE = "bilevel_gym"
Import = tuple[str, str]

# The tables of tasks and methods may name modules above them; a group of entry points is none.
TABLES = {"bilevel_gym.methods.table", "bilevel_gym.methods.registry", "bilevel_gym.envs.tasks"}


def layers() -> dict[str, int]:
    """Return the layer of each package, as the contract in pyproject.toml lists them; core is 0."""
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    contract = tomllib.loads(text)["tool"]["importlinter"]["contracts"][0]
    return {
        name: layer
        for layer, names in enumerate(reversed(contract["layers"]))
        for name in re.findall(r"\w+", names)
    }


def package_of(module: str) -> str:
    """Return the part of a module's name that the contract orders; "" for the root."""
    return (module + ".").split(".")[1]


def named_in_strings(module: str, modules: Iterable[str]) -> set[str]:
    """Return the modules that stand in strings of a module, as "bilevel_gym.x:Y" or ".x:Y"."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    package = spec.name if spec.submodule_search_locations else spec.parent
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"(bilevel_gym)?((?:\.\w+)+)(?::\w+)?", node.value)
            if match:
                found.add((match[1] or str(package)) + match[2])
    return found & set(modules)


@dataclass(frozen=True)
class Measured:
    """What the import graph of a tree looks like.

    Attributes:
        modules: How many modules there are.
        packages: How many packages and modules stand directly below the root.
        between: Pairs of these of which one imports the other.
        upward: Imports between modules that do not point to a lower layer.
        circles: Sets of modules that import each other, directly or not.
    """

    modules: int
    packages: int
    between: list[Import]
    upward: list[Import]
    circles: list[list[str]]

    def __str__(self) -> str:
        """Return the numbers in a line, and the faults in lines of their own."""
        faults = [f"upward: {importer} -> {imported}" for importer, imported in self.upward]
        faults += ["circle: " + " ".join(circle) for circle in self.circles]
        numbers = (
            f"{self.modules} modules in {self.packages} packages, {len(self.between)} imports "
            f"between packages, {len(self.upward)} upward, {len(self.circles)} circles"
        )
        return "\n".join([numbers, *faults])


def measure(package_of: Callable[[str], str] = package_of) -> Measured:
    """Measure the tree that `import bilevel_gym` finds against the layers in pyproject.toml.

    Imports inside functions, those for type checkers and names in strings count; the latter do
    not in the tables of tasks and methods.

    Args:
        package_of: Takes the name of a module to the part of it that stands in the contract.
    """
    order = layers()
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    names = sorted(graph.modules)
    imports = []
    for name in names:
        imported = set(graph.find_modules_directly_imported_by(name))
        if name not in TABLES:
            imported |= named_in_strings(name, names)
        imports += [(name, other) for other in sorted(imported - {name})]
    between = [(a, b) for a, b in imports if package_of(a) != package_of(b)]
    index = {name: number for number, name in enumerate(names)}
    rows, columns = zip(*((index[a], index[b]) for a, b in imports), strict=True)
    matrix = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(matrix, connection="strong")
    components = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return Measured(
        modules=len(names),
        packages=len({package_of(name) for name in names} - {""}),
        between=sorted({(package_of(a), package_of(b)) for a, b in between}),
        upward=[
            (a, b)
            for a, b in between
            if PACKAGE not in (a, b) and order[package_of(a)] <= order[package_of(b)]
        ],
        circles=[[names[i] for i in component] for component in components if len(component) > 1],
    )


if __name__ == "__main__":
    print(measure())
