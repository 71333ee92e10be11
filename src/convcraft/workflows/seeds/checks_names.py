"""Checks on names: used but never defined, imported but not there, devices that not every machine has."""

from __future__ import annotations

import ast
import builtins
import difflib
import importlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType

from convcraft.workflows.seeds.program import GAP, STOPS, Diagnosis, Program


def missing_imports(program: Program) -> Iterator[Diagnosis]:
    """`from package import name` where the installed package has no such name; packages not installed are let be."""
    for node in ast.walk(program.tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        module = installed(node.module)
        if module is None:
            continue
        for alias in node.names:
            if not hasattr(module, alias.name):
                near = difflib.get_close_matches(alias.name.lower(), [name.lower() for name in dir(module)], n=1)
                functions = [name for name in dir(module) if near and name.lower() == near[0]]
                fix = f"Write {functions[0]}." if functions else f"Look the name up in {node.module}."
                yield Diagnosis(
                    "missing import", STOPS, program.where(node), f"{node.module} has no {alias.name}: ImportError", fix
                )


def installed(name: str) -> ModuleType | None:
    """A module; None where its package is not installed, or is but cannot be imported (Keras without a backend)."""
    try:
        return importlib.import_module(name)
    except Exception:  # any: a broken package may raise whatever it likes, and is as good as none
        return None


def undefined_names(program: Program) -> Iterator[Diagnosis]:
    """Names that are used but bound nowhere in the listing; the first use of each."""
    bound = _bound_names(program.tree) | set(dir(builtins))
    seen: set[str] = set()
    uses = [node for node in ast.walk(program.tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)]
    for node in sorted(uses, key=lambda use: (use.lineno, use.col_offset)):
        if node.id in bound or node.id in seen:
            continue
        seen.add(node.id)
        package = importlib.util.find_spec(node.id) is not None
        fix = f"Add `import {node.id}`." if package else f"Define {node.id} before it is used."
        yield Diagnosis(
            "undefined name", STOPS, program.where(node), f"{node.id} is used but never defined: NameError", fix
        )


def _bound_names(tree: ast.Module) -> set[str]:
    """Everything that an import, assignment, loop, definition or parameter binds, wherever it stands."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name is not None:
            bound.add(node.name)
    return bound


def hard_coded_cuda(program: Program) -> Iterator[Diagnosis]:
    """`.cuda()` that no question for a GPU stands before."""
    guarded = {
        call
        for node in ast.walk(program.tree)
        if isinstance(node, (ast.If, ast.IfExp)) and any(program.calls("is_available", within=node.test))
        for call in program.calls("cuda", within=node)
    }
    first = next((call for call in program.calls("cuda") if call not in guarded), None)
    if first is not None:
        yield Diagnosis(
            "CUDA hard-coded",
            STOPS,
            program.where(first),
            "without an NVIDIA GPU .cuda() raises; nothing here asks whether there is one",
            'device = "cuda" if torch.cuda.is_available() else "cpu", then .to(device).',
        )


def idle_arguments(program: Program) -> Iterator[Diagnosis]:
    """Parameters that a function takes and never reads: what is passed there changes nothing."""
    for function in ast.walk(program.tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        idle = [item.arg for item in function.args.args if item.arg not in used and item.arg != "self"]
        if idle:
            names = ", ".join(idle)
            yield Diagnosis(
                "argument without effect",
                GAP,
                program.where(function),
                f"{function.name} takes {names} and never uses it: another value would change nothing",
                "Remove the argument, or hand it on.",
            )
