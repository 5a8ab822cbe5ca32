"""Python in the documentation compiles, and what it takes from fededge and kfp is there and is called rightly."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs import pages
from tests.docs.pages import ALL_PAGES

_OURS = ("fededge", "kfp")
_READERS: dict[str, Callable[[str], Any]] = {"json": json.loads, "yaml": yaml.safe_load, "toml": tomllib.loads}
_KNOWN = {"", "console", "mermaid", "dockerfile", "python", *_READERS}


def _snippets() -> list[Any]:
    found = ((page, block.text) for page in ALL_PAGES for block in pages.blocks(page, "python"))
    return [pytest.param(text, id=f"{pages.name(page)}-{i}") for i, (page, text) in enumerate(found)]


@pytest.mark.parametrize("text", _snippets())
def test_a_snippet_fits_the_libraries(text: str) -> None:
    tree = ast.parse(text)
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Name):
            made = _resolve(node.value.func, names)
            if inspect.isclass(made):
                names[node.targets[0].id] = made  # its methods stand for those of the instance
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node, names)


def _imported(tree: ast.Module) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({n.asname or n.name: importlib.import_module(n.name) for n in node.names if _ours(n.name)})
        elif isinstance(node, ast.ImportFrom) and node.module and _ours(node.module):
            names.update({name.asname or name.name: _taken(node.module, name.name) for name in node.names})
    return names


def _taken(module: str, name: str) -> Any:
    """Return what `from module import name` does: an attribute, or a module in a package."""
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")


def _ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS


def _resolve(node: ast.expr, names: dict[str, Any]) -> Any:
    """Return what an expression like `kfp.Client` stands for; None if it is not of fededge or kfp."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and (owner := _resolve(node.value, names)) is not None:
        return getattr(owner, node.attr)
    return None


def _check_call(node: ast.Call, names: dict[str, Any]) -> None:
    called = _resolve(node.func, names)
    if called is None:
        return
    is_method = isinstance(node.func, ast.Attribute) and inspect.isclass(_resolve(node.func.value, names))
    positional = [*([None] if is_method else []), *node.args]
    inspect.signature(called).bind(*positional, **{word.arg: word.value for word in node.keywords if word.arg})


@pytest.mark.parametrize("page", ALL_PAGES, ids=pages.name)
def test_other_blocks_are_well_formed(page: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in _KNOWN
        if read := _READERS.get(block.language):
            read(block.text)
