"""What this site adds to Sphinx: formulas as MathML, and links from names in code."""

from __future__ import annotations

from collections import Counter
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.errors import ExtensionError

from bilevel_gym.methods.table import ROWS
from bilevel_gym.registration import TASKS


def setup(app: Any) -> dict[str, bool]:
    """Register both."""
    app.add_html_math_renderer(
        "mathml", inline_renderers=(inline, None), block_renderers=(block, None)
    )
    app.connect("doctree-resolved", link_names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def inline(translator: Any, node: Any) -> None:
    """Write a formula in a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block(translator: Any, node: Any) -> None:
    """Write a formula on lines of its own."""
    translator.body.append(f'<div class="formula">{mathml(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def mathml(node: Any, *, as_block: bool) -> str:
    """Return a formula as MathML.

    Raises:
        ExtensionError: If it has a command that is not known.
    """
    try:
        return str(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        raise ExtensionError(f"{node.source}: {error} in {node.astext()}") from error


def link_names(app: Any, doctree: Any, docname: str) -> None:
    """Make links of names of this package, and of tasks, that stand in code in a text."""
    known = _known(app.env)
    for node in list(doctree.findall(nodes.literal)):
        found = known.get(node.astext().removesuffix("()"))
        if found and not isinstance(node.parent, nodes.reference):
            page, anchor = found
            uri = app.builder.get_relative_uri(docname, page) + anchor
            node.replace_self(nodes.reference("", "", node.deepcopy(), refuri=uri, internal=True))


def _known(env: Any) -> dict[str, tuple[str, str]]:
    """Return page and anchor of what is documented, by the texts that name it; made once.

    These are full paths, names of classes that are the only ones of their name, ids of tasks, and
    names of methods where they are chosen.
    """
    if not hasattr(env, "known_names"):
        known: dict[str, tuple[str, str]] = {}
        classes = Counter(
            path.rpartition(".")[2] for path, _, kind, *_ in every(env) if kind == "class"
        )
        for path, _, kind, page, node_id, _ in every(env):
            known[path] = (page, f"#{node_id}")
            if kind == "class" and classes[name := path.rpartition(".")[2]] == 1:
                known[name] = known[path]
        known |= {task.id: (f"tasks/{task.id}", "") for task in TASKS}
        known |= {f"--method {row.name}": (f"methods/{row.name}", "") for row in ROWS}
        env.known_names = known
    return env.known_names


def every(env: Any) -> list[Any]:
    """Return all that is documented of the package: path, name, kind, page, anchor, priority."""
    return [found for found in env.domains["py"].get_objects() if "." in found[0]]
