"""Run the pages of this tutorial, and write what they print beside their code.

    python docs/tutorial/pages.py 01 zh/01        # run both, exercise with its solution included, show what differs
    python docs/tutorial/pages.py 01 --write      # the same, and put what was printed into the page

The ```python blocks of a page run in order and share their names. A ```text block behind one is what it prints. Under
the heading of the exercise the first block is the skeleton, the second the check; the one in <details> is the solution.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXERCISE = re.compile(r"^## (?:Exercise|练习)", re.MULTILINE)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")

Names = dict[str, Any]


@dataclass(frozen=True)
class Block:
    """A piece of a page's code.

    Attributes:
        code: the Python text, preceded by empty lines so that tracebacks name the page's line.
        printed: the text block behind it, or None.
        place: where that text stands in the page, as characters from and to.
    """

    code: str
    printed: str | None
    place: tuple[int, int] | None

    def missing(self) -> str | None:
        """What this block needs and this machine lacks: torch, or a folder of data."""
        if re.search(r"^import torch$", self.code, re.MULTILINE) and importlib.util.find_spec("torch") is None:
            return "torch is not installed"
        if '"CONVCRAFT_DATA"' in self.code and "CONVCRAFT_DATA" not in os.environ:
            return "CONVCRAFT_DATA is not set"
        return None


@dataclass(frozen=True)
class Page:
    path: Path
    text: str
    blocks: list[Block]  # up to the exercise
    skeleton: Block
    check: Block
    solution: Block

    def run(self, names: Names | None = None) -> tuple[Names, list[tuple[Block, str]]]:
        """Run all blocks up to the exercise.

        Returns:
            the names that they defined, and each block that ran with what it printed.
        """
        names = {} if names is None else names
        ran = [(block, self.run_block(block, names)) for block in self.blocks if block.missing() is None]
        return names, ran

    def run_block(self, block: Block, names: Names) -> str:
        """Run one block with the names so far; what it prints."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(block.code, str(self.path), "exec"), names)  # noqa: S102 - the page's own code
        return output.getvalue()


def read_page(path: Path) -> Page:
    """Take a page apart.

    Raises:
        ValueError: no exercise, or an exercise without skeleton, check and solution in this order.
    """
    text = path.read_text(encoding="utf-8")
    heading, details = EXERCISE.search(text), text.find("<details>")
    if heading is None or details < heading.start():
        raise ValueError(f"{path} has no exercise with a solution in <details>; add the heading and the three blocks.")
    found = list(FENCED.finditer(text))
    parts: dict[str, list[Block]] = {"page": [], "exercise": [], "solution": []}
    for match, following in zip(found, [*found[1:], None], strict=True):
        if match[1] != "python":
            continue
        shown = following is not None and following[1] == "text"
        part = "page" if match.start() < heading.start() else "exercise" if match.start() < details else "solution"
        code = "\n" * text.count("\n", 0, match.start(2)) + match[2]
        parts[part].append(
            Block(code, following[2], following.span(2)) if shown and following else Block(code, None, None)
        )
    if (len(parts["exercise"]), len(parts["solution"])) != (2, 1):
        raise ValueError(f"{path}: expected a skeleton, a check and one solution, found {parts['exercise']}")
    return Page(path, text, parts["page"], *parts["exercise"], *parts["solution"])


def differs(printed: str, expected: str, tolerance: float = 0.0) -> bool:
    """Whether what was printed is not what the page shows.

    Spaces are compared as one, seconds not at all, other numbers to `tolerance` times their size plus `tolerance`.
    """
    printed, expected = (" ".join(text.split()) for text in (printed, expected))
    words = NUMBER.split(expected)
    if NUMBER.split(printed) != words:
        return True
    return any(
        got != wanted
        and not re.match(r" ?(s\b|秒)", unit)
        and abs(float(got) - float(wanted)) > tolerance * (1 + abs(float(wanted)))
        for got, wanted, unit in zip(NUMBER.findall(printed), NUMBER.findall(expected), words[1:], strict=True)
    )


def pages(language: str = "*") -> list[Path]:
    """All pages, English first; or those of "en" or "zh"."""
    folders = {"en": [FOLDER], "zh": [FOLDER / "zh"]}.get(language, [FOLDER, FOLDER / "zh"])
    return [path for folder in folders for path in sorted(folder.glob("[0-9][0-9]-*.md"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names, such as 01 or zh/01; none: all pages")
    parser.add_argument("--write", action="store_true", help="put what was printed into the page")
    options = parser.parse_args()
    for path in pages():
        name = path.relative_to(FOLDER).as_posix()
        if options.names and not name.startswith(tuple(options.names)):
            continue
        page = read_page(path)
        names, ran = page.run()
        page.run_block(page.skeleton, names)
        page.run_block(page.solution, names)
        ran.append((page.check, page.run_block(page.check, names)))
        text = page.text
        for block, printed in reversed(ran):
            if block.place is None:
                if printed:
                    print(f"{name}: nothing shown beside\n{printed}")
            elif printed != block.printed:
                print(f"{name} prints\n{printed}")
                text = text[: block.place[0]] + printed + text[block.place[1] :]
        if options.write and text != page.text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
