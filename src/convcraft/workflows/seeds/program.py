"""An article's program as the checks see it: its listing, what it is for, and what its text says about it.

The facts (what the task is, what is printed, what the text promises) were read out of the article by people and hold
no verdict. The checks (`checks_*.py`) were written with these five articles in view; they compare listing and facts.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

STOPS, WRONG, GAP, HARMLESS = "stops", "wrong", "gap", "harmless"
SEVERITIES = {
    STOPS: "the program ends with an error",
    WRONG: "the program runs, but its figure is not what it is said to be",
    GAP: "the text says it, the code does not do it",
    HARMLESS: "needless, but changes no result",
}


@dataclass(frozen=True)
class Diagnosis:
    """One thing that is wrong: found by which check, where, why, and how it is mended."""

    check: str
    severity: str  # a key of SEVERITIES
    where: str  # "line 7: self.fc1 = ...", or a section of the text
    cause: str
    fix: str

    def to_dict(self) -> dict[str, str]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Task:
    """What the program is meant to learn."""

    data: str
    num_classes: int
    image_shape: tuple[int, int, int]  # C, H, W
    train_images: int
    test_images: int


@dataclass(frozen=True)
class Shown:
    """What the article prints as its result."""

    steps_per_epoch: int | None = None
    test_steps: int | None = None


@dataclass(frozen=True)
class Promise:
    """Something that the text says of the program: a key of `checks_promises.FEATURES`, and the text's words."""

    feature: str
    said: str


@dataclass(frozen=True)
class Program:
    """A listing with the facts needed to judge it."""

    source: str
    task: Task
    shown: Shown = Shown()
    promises: tuple[Promise, ...] = ()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def lines(self) -> list[str]:
        return self.source.splitlines()

    def where(self, node: Any) -> str:
        """The line of a node, as in the listing."""
        return f"line {node.lineno}: {self.lines[node.lineno - 1].strip()}"

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Names that are given a plain value at the top of the program."""
        found: dict[str, Any] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = self.value(node.value, found)
                if value is not None:
                    found[node.targets[0].id] = value
        return found

    @cached_property
    def batch_size(self) -> int | None:
        """The keyword batch_size of the first call that has it, else the constant of that name."""
        for call in self.calls():
            value = self.value(keyword(call, "batch_size"))
            if isinstance(value, int):
                return value
        constant = self.constants.get("batch_size")
        return constant if isinstance(constant, int) else None

    def value(self, node: ast.expr | None, names: dict[str, Any] | None = None) -> Any:
        """A literal, a product of literals or a known name; None where it is neither."""
        known = self.constants if names is None else names
        if node is None:
            return None
        if isinstance(node, ast.Name):
            return known.get(node.id)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            left, right = self.value(node.left, known), self.value(node.right, known)
            return left * right if isinstance(left, int) and isinstance(right, int) else None
        try:
            return ast.literal_eval(node)
        except ValueError:
            return None

    def calls(self, *names: str, within: ast.AST | None = None) -> Iterator[ast.Call]:
        """Calls in the order of the listing; of these names only (the last part: `Dense` for layers.Dense)."""
        found = [node for node in ast.walk(within or self.tree) if isinstance(node, ast.Call)]
        for call in sorted(found, key=lambda node: (node.lineno, node.col_offset)):
            if not names or called_name(call) in names:
                yield call


def called_name(call: ast.Call) -> str:
    """The last part of what is called: "Dense" of `keras.layers.Dense(...)`."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    """The value of a keyword argument."""
    return next((item.value for item in call.keywords if item.arg == name), None)


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """An argument by place or by name."""
    return call.args[position] if position < len(call.args) else keyword(call, name)


def names_in(node: ast.AST) -> set[str]:
    """All names that an expression or statement uses."""
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


Check = Callable[[Program], Iterator[Diagnosis]]
