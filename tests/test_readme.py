"""The documents say what is so: commands parse, links lead somewhere, tables hold the program's own values."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import typer.main
import yaml
from PIL import Image

from convcraft.cli.app import app
from convcraft.config import RunConfig
from convcraft.data.named import NAMED_SETS, read_digits
from convcraft.recipes.catalogue import load_recipe
from convcraft.workflows.choose_config import assign

ROOT = Path(__file__).resolve().parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
PAGES = [*READMES, *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shell_lines(text: str) -> list[str]:
    """The lines of ```sh blocks without comments."""
    blocks = (body for language, body in FENCED.findall(text) if language in ("sh", "bash", "console"))
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


def convcraft_calls(line: str) -> Iterator[list[str]]:
    """The arguments of each call of convcraft in a line of shell."""
    for part in re.split(r"\||&&|;", line):
        words = shlex.split(part)
        if words[:1] == ["convcraft"]:
            yield words[1:]


def check_call(words: list[str]) -> None:
    """Fail unless the command line parses and its recipe, data set name and settings exist; runs nothing."""
    if words in (["--help"], ["--version"]):
        return
    assert words[0] in COMMANDS, f"no command {words[0]}"
    if "--help" in words:
        return
    values = COMMANDS[words[0]].make_context(words[0], words[1:]).params
    if values.get("recipe") is not None:
        load_recipe(values["recipe"])
    data = values.get("data")
    if data is not None:
        assert data in NAMED_SETS or "/" in data or "." in data, f"{data} is neither a named set nor a path"
    assign(RunConfig(), values.get("set_") or ())


def inline_code(text: str) -> list[str]:
    """What stands between backticks in running text."""
    prose = FENCED.sub("", text)
    split = [line for line in prose.splitlines() if line.count("`") % 2]
    assert not split, f"code that goes on in the next line cannot be checked: {split}"
    return INLINE.findall(prose)


def options_of(command: Any) -> set[str]:
    """A command's options, and those of its sub-commands."""
    own = {option for parameter in command.params for option in parameter.opts}
    return own.union(*(options_of(below) for below in getattr(command, "commands", {}).values()))


# Commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_parse(page: Path) -> None:
    for line in shell_lines(page.read_text(encoding="utf-8")):
        for words in convcraft_calls(line):
            try:
                check_call(words)
            except Exception as error:
                pytest.fail(f"{name_of(page)}: {line}\n{type(error).__name__}: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_inline_commands_and_options_exist(page: Path) -> None:
    """`convcraft evaluate` in running text is no full command line, but its words must exist."""
    options = {name: options_of(command) for name, command in COMMANDS.items()}
    known = set().union(*options.values()) | {"--help", "--version"}
    for code in inline_code(page.read_text(encoding="utf-8")):
        words = code.split()
        if words[0] == "convcraft" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in COMMANDS, f"{name_of(page)}: `{code}`"
            used = {word for word in words if word.startswith("--")}
            assert used <= options[words[1]] | {"--help"}, f"{name_of(page)}: `{code}`"
        elif words[0].startswith("--"):
            assert words[0].split("=")[0] in known, f"{name_of(page)}: `{code}` is no option of any command"


@pytest.mark.parametrize(
    "words",
    [
        ["serve", "runs/digits"],
        ["train", "mnist", "--learning_rate", "1"],
        ["predict", "runs/digits"],
        ["train", "mnits"],
        ["train", "mnist", "--recipe", "mnits"],
        ["train", "mnist", "--set", "optim.lr=1"],
    ],
    ids=" ".join,
)
def test_wrong_command_lines_are_caught(words: list[str]) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - typer's own, AssertionError, UserError
        check_call(words)


def test_both_readmes_give_the_same_commands() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert shell_lines(english)
    assert shell_lines(english) == shell_lines(chinese)


def test_both_readmes_have_the_same_python() -> None:
    english, chinese = (re.sub(r"  #.*", "", snippet(page)) for page in READMES)
    assert english == chinese


# Links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_exist(page: Path) -> None:
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{name_of(page)} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Values -----------------------------------------------------------------------------------------------------------


def test_settings_table_is_that_of_the_code() -> None:
    """docs/training.md, docs/finetuning.md and docs/compress.md list every setting with its default."""
    text = "".join(
        (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("training.md", "finetuning.md", "compress.md")
    )
    listed = {name: yaml.safe_load(value) for name, value in re.findall(r"^\| `(\w+\.\w+)` \| `(.+?)` \|", text, re.M)}
    sections = {key: value for key, value in RunConfig().to_dict().items() if isinstance(value, dict)}
    assert listed == {
        f"{section}.{key}": value for section, fields in sections.items() for key, value in fields.items()
    }


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_versions_are_those_of_the_constraints(page: Path) -> None:
    pinned = set((ROOT / "constraints.txt").read_text(encoding="utf-8").split())
    named = set(re.findall(r"`([a-z]+==[\d.]+)`", page.read_text(encoding="utf-8")))
    assert {version.split("==")[0] for version in named} == {"torch", "torchvision"}
    assert named <= pinned


def readme_table() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_table_is_up_to_date() -> None:
    made = readme_table()
    for name, language in made.READMES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        assert made.with_table(text, made.table(language)) == text, f"{name}: run python benchmarks/readme_table.py"


def test_results_table_of_known_results(tmp_path: Path) -> None:
    accuracy = {"mean": 0.9961, "min": 0.9958, "max": 0.9964, "values": [0.9958, 0.9961, 0.9964]}
    seconds = {"mean": 110.4, "min": 104.0, "max": 117.0, "values": [104, 110.2, 117]}
    result = {
        "recipes": {"mnist": {"test_accuracy": accuracy, "train_seconds": seconds}},
        "hardware": {"cpu": "Some CPU", "cores": 2},
        "command": "python benchmarks/mnist.py",
    }
    (tmp_path / "mnist.json").write_text(json.dumps(result), encoding="utf-8")
    made = readme_table()
    row = made.table("en", tmp_path).splitlines()[2]
    assert row == (
        "| MNIST, recipe `mnist`: test accuracy | 99.61 % (99.58 to 99.64, 3 runs); trained in 110 s (104 to 117) "
        "| Some CPU, 2 cores | `python benchmarks/mnist.py` |"
    )
    assert "3 次运行" in made.table("zh", tmp_path)
    assert made.table("en", tmp_path / "nothing") == "Nothing measured yet."


def test_no_paths_of_one_machine() -> None:
    """Nobody else has these folders."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the project is not known")
    names = subprocess.run(listing, capture_output=True, check=True, text=True).stdout.split("\0")
    pattern = re.compile(rb"(?<![\w.~-])/(?:work|root)(?:/|\b)(?!\.)")
    found = []
    for name in filter(None, names):
        path = ROOT / name
        if not path.is_file() or name == name_of(Path(__file__)):
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{name}: {match.group().decode()}" for match in pattern.finditer(content)]
    assert not found


# The snippet ------------------------------------------------------------------------------------------------------


def snippet(page: Path) -> str:
    (code,) = [body for language, body in FENCED.findall(page.read_text(encoding="utf-8")) if language == "python"]
    return code


@pytest.mark.slow
def test_python_snippet_runs(tmp_path: Path) -> None:
    """The README's Python, run beside the picture that the demo writes."""
    picture = tmp_path / "convcraft-demo" / "digit.png"
    picture.parent.mkdir()
    scan = read_digits().splits["all"][0].image
    assert isinstance(scan, np.ndarray)
    Image.fromarray(scan).resize((256, 256), Image.Resampling.NEAREST).save(picture)
    command = [sys.executable, "-c", snippet(READMES[0])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"\d+\.\d% on validation after \d+ s", lines[0])
    assert re.fullmatch(r"\d+ of 359 test digits", lines[1])
    assert re.fullmatch(r"convcraft-demo/digit\.png: \d \(\d+% sure\)", lines[2])
    assert (tmp_path / "runs/from-python/report.html").is_file()
