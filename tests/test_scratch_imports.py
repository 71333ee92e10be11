"""The engine stands on NumPy alone, and stays short."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import convcraft.scratch

PACKAGE = Path(convcraft.scratch.__file__).parent
MOST_LINES, MOST_PRINTED_LINES = 1500, 2000
# Prints what a module brings with it besides NumPy (and what NumPy brings) and the standard library; and what of ours.
LIST_IMPORTED = """
import importlib, json, sys
import numpy, numpy.random
before = set(sys.modules)
importlib.import_module(sys.argv[1])
found = {name.split(".")[0] for name in set(sys.modules) - before} - {"numpy", "convcraft"} - sys.stdlib_module_names
ours = {name for name in sys.modules if name.startswith("convcraft.")}
print(json.dumps([sorted(found), sorted(ours)]))
"""


def modules() -> list[str]:
    """All of the engine, as names to import."""
    files = sorted(PACKAGE.rglob("*.py"))
    parts = [file.relative_to(PACKAGE.parents[1]).with_suffix("").parts for file in files]
    return [".".join(part[:-1] if part[-1] == "__init__" else part) for part in parts]


def engine_files() -> list[Path]:
    """The engine without the algorithms that are there to be compared, and without the tools that examine a layer."""
    apart = {"gradcheck.py", "diagnosis.py", "optimizer_check.py"}
    files = [file for file in PACKAGE.rglob("*.py") if "conv_algorithms" not in file.parts and file.name not in apart]
    return sorted(files)


def docstrings(source: str) -> list[ast.Expr]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                found.append(first)
    return found


def statements(source: str) -> int:
    """Lines of code as Python counts them: one with its arguments over ten printed lines is one. No docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.NEWLINE for token in tokens) - len(docstrings(source))


def printed_lines(source: str) -> int:
    """Printed lines that hold code: neither blank, nor comment, nor docstring."""
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for each in docstrings(source):
        assert each.end_lineno is not None
        lines -= set(range(each.lineno, each.end_lineno + 1))
    return len(lines)


def test_the_counters_count_code_alone() -> None:
    module = '"""Module.\n\nTwo."""\n\nimport a  # why\n# alone\n\n'
    source = module + 'def f(\n    x,\n):\n    """Doc."""\n    return """\n    text\n"""\n'
    assert statements(source) == 3
    assert printed_lines(source) == 1 + 3 + 3


@pytest.mark.parametrize("name", modules())
def test_only_numpy_and_the_standard_library_are_imported(name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", LIST_IMPORTED, name], capture_output=True, text=True, check=True)
    foreign, ours = json.loads(ran.stdout)
    assert foreign == []
    assert all(each == "convcraft.scratch" or each.startswith("convcraft.scratch.") for each in ours)


def test_the_engine_is_short() -> None:
    """Fewer than 1,500 lines of code. Printed they are more, since the formatter gives every argument of a long list a
    line of its own, and the same lists stand at function, forward and layer: that is bounded, too.
    """
    sources = {file.relative_to(PACKAGE).as_posix(): file.read_text(encoding="utf-8") for file in engine_files()}
    counted = {name: statements(source) for name, source in sources.items()}
    assert len(counted) > 20
    assert sum(counted.values()) < MOST_LINES, counted
    assert sum(printed_lines(source) for source in sources.values()) < MOST_PRINTED_LINES


def test_every_public_function_and_class_says_what_it_does() -> None:
    """Docstrings; a method may leave it to its class, a derivative to its file."""
    silent = []
    for file in engine_files():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                fields = isinstance(node, ast.ClassDef) and node.name.startswith("Saved")
                if ast.get_docstring(node) is None and not fields:
                    silent.append(f"{file.name}:{node.name}")
    assert silent == []
