"""Imports point one way: which of our packages a module may import, anywhere in it, or name in a string for later."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The longest key that fits a module counts. Within its own package a module may import anything.
MAY_IMPORT = {
    "cma_clip": "",
    "cma_clip.cli": "dataset train serve client bench",
    "kernels": "cma_clip",
    "model": "cma_clip kernels",
    "dataset": "cma_clip model",
    "train": "cma_clip kernels model dataset",
    "train.fit": "cma_clip kernels model dataset serve",
    "serve": "cma_clip kernels model dataset",
    "client": "cma_clip",
    "client.predict": "cma_clip model dataset",
    "client.console": "cma_clip model dataset",
    "client.report": "cma_clip model dataset",
    "deploy": "cma_clip model serve",
    "bench": "cma_clip kernels model dataset train serve client",
}
PACKAGES = {row.partition(".")[0] for row in MAY_IMPORT}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def wrong_imports(module: str, source: str) -> list[str]:
    row = max((row for row in MAY_IMPORT if f"{module}.".startswith(f"{row}.")), key=len)
    forbidden = PACKAGES - {row.partition(".")[0], *MAY_IMPORT[row].split()}
    named = sorted((line, name) for line, name in named_modules(source) if name.partition(".")[0] in forbidden)
    return [f"line {line}: {name}" for line, name in named]


def named_modules(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of what the source imports, and of strings that are the name of a module of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
            yield node.lineno, node.value


def is_module(text: str) -> bool:
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        return False
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    assert wrong_imports(module_of(path), path.read_text()) == []


def test_an_import_against_the_direction_is_found_wherever_it_hides() -> None:
    source = (
        'TABLE = {"a": "serve.launch", "b": "no.module"}\ndef f():\n    from train import score\n    import model\n'
    )
    assert wrong_imports("client.classify", source) == ["line 1: serve.launch", "line 3: train", "line 4: model"]
    assert wrong_imports("client.report", source) == ["line 1: serve.launch", "line 3: train"]
    assert wrong_imports("bench.engines", source) == []


def test_the_table_has_no_circle() -> None:
    rows = {row: words.split() for row, words in MAY_IMPORT.items() if row != "cma_clip.cli"}
    below = {p: {word for row in rows if row.partition(".")[0] == p for word in rows[row]} for p in PACKAGES}
    assert not [(name, other) for name in PACKAGES for other in below[name] if name in below[other]]
