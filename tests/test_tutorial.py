"""Every page of the tutorial runs, prints what it shows, and its exercise's check knows right from wrong."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorial"
sys.path.insert(0, str(FOLDER))  # the tutorial's own scripts, which are no part of the package

import figures  # noqa: E402
from pages import Block, Page, differs, main, pages, read_page  # noqa: E402

SLOW = ("08", "09", "10")  # they train or load networks
# Sums of a training depend on the order of additions, hence on the machine's BLAS; central differences on rounding.
TOLERANCE = {"06": 1e-3, "08": 0.02, "09": 0.05, "10": 0.02}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)

# By page: wrong answers to its exercise, and words of the message that each gets.
WRONG: dict[str, list[tuple[str, str]]] = {
    "01": [
        ("def stamp(image, kernel):\n    return slide(image, kernel)", "give 4x4"),
        (
            "def stamp(image, kernel):\n"
            "    output = np.zeros((image.shape[0] + 1, image.shape[1] + 1))\n"
            "    for i, j in np.ndindex(image.shape):\n"
            "        output[i : i + 2, j : j + 2] = image[i, j] * kernel\n"
            "    return output",
            "do not overwrite",
        ),
        (
            "def stamp(image, kernel):\n"
            "    output = np.zeros((image.shape[0] + 1, image.shape[1] + 1))\n"
            "    for i, j in np.ndindex(image.shape):\n"
            "        output[i : i + 2, j : j + 2] += image[i, j] * kernel[::-1, ::-1]\n"
            "    return output",
            "stamp it as it is",
        ),
    ],
    "02": [
        (
            "def sizes(size, layers):\n    return [output_size(size, k, s, p) for k, s, p in layers]",
            "that the one before it left",
        ),
        (
            "def sizes(size, layers):\n"
            "    found = []\n"
            "    for k, s, p in layers:\n"
            "        size = (size - k) // s + 1\n"
            "        found.append(size)\n"
            "    return found",
            "Stride and padding",
        ),
        (
            "def sizes(size, layers):\n"
            "    found = []\n"
            "    for k, s, p in layers:\n"
            "        size = output_size(size, k, s, p)\n"
            "        found.append(size)\n"
            "    return found",
            "cannot be built",
        ),
    ],
    "03": [
        (
            "def depthwise(image, weight):\n    return sum(slide(c, k[0]) for c, k in zip(image, weight))",
            "The shape is",
        ),
        (
            "def depthwise(image, weight):\n    return np.stack([slide(c, weight[0, 0]) for c in image])",
            "belongs to weight[c, 0]",
        ),
        (
            "def depthwise(image, weight):\n    return np.stack([slide(c, k[0]) for c, k in zip(image, weight)])\n"
            "def separable_weights(inputs, outputs, kernel):\n    return inputs * kernel**2",
            "depthwise part alone",
        ),
    ],
    "04": [
        ("def max_pool(image, size, stride, padding):\n    return pool(image, size, stride, np.max)", "The shape is"),
        (
            "def max_pool(image, size, stride, padding):\n"
            "    return pool(np.pad(image, padding), size, stride, np.max)",
            "A zero won",
        ),
    ],
    "05": [
        (
            "def fold(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):\n"
            "    return weight * (gamma / (running_var + eps))[:, None, None, None], bias",
            "factor is wrong",
        ),
        (
            "def fold(weight, bias, gamma, beta, running_mean, running_var, eps=1e-5):\n"
            "    factor = gamma / np.sqrt(running_var + eps)\n"
            "    return weight * factor[:, None, None, None], bias * factor + beta",
            "the bias is off",
        ),
    ],
    "06": [
        (
            "def cross_entropy_backward(logits, labels):\n"
            "    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)\n"
            "    p[np.arange(len(labels)), labels] -= 1\n"
            "    return p",
            "divide by B",
        ),
        (
            "def cross_entropy_backward(logits, labels):\n"
            "    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)\n"
            "    p[np.arange(len(labels)), labels] -= 1\n"
            "    return -p / len(labels)",
            "sign is wrong",
        ),
        (
            "def cross_entropy_backward(logits, labels):\n"
            "    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) / len(labels)",
            "add up to 0",
        ),
    ],
    "07": [
        (
            "def adamw_step(w, g, m, s, t, learning_rate=0.1, decay=0.5):\n"
            "    return w * (1 - learning_rate * decay), m, s",
            "Only the decay",
        ),
        (
            "def adamw_step(w, g, m, s, t, learning_rate=0.1, decay=0.5, beta1=0.9, beta2=0.999, eps=1e-8):\n"
            "    g = g + decay * w\n"
            "    m = beta1 * m + (1 - beta1) * g\n"
            "    s = beta2 * s + (1 - beta2) * g**2\n"
            "    return w - learning_rate * m / (1 - beta1**t) / (np.sqrt(s / (1 - beta2**t)) + eps), m, s",
            "No decay",
        ),
        (
            "def adamw_step(w, g, m, s, t, learning_rate=0.1, decay=0.5, beta1=0.9, beta2=0.999, eps=1e-8):\n"
            "    w = w * (1 - learning_rate * decay)\n"
            "    m = beta1 * m + (1 - beta1) * g\n"
            "    s = beta2 * s + (1 - beta2) * g**2\n"
            "    return w - learning_rate * m / (np.sqrt(s) + eps), m, s",
            "Are m and s corrected?",
        ),
    ],
    "08": [
        (
            "def train_step(network, criterion, optimizer, images, labels):\n"
            "    loss = criterion(network(images), labels)\n"
            "    network.backward(criterion.backward())\n"
            "    optimizer.step()\n"
            "    return float(loss)",
            "zero_grad before backward",
        ),
        (
            "def train_step(network, criterion, optimizer, images, labels):\n"
            "    loss = criterion(network(images), labels)\n"
            "    optimizer.zero_grad()\n"
            "    network.backward(criterion.backward())\n"
            "    return float(loss)",
            "No weight moved",
        ),
    ],
    "09": [
        (
            "def pad_shortcut(x, new_channels):\n"
            "    return np.pad(x[:, :, ::2, ::2], ((0, 0), (0, new_channels), (0, 0), (0, 0)))",
            "stand behind",
        ),
        (
            "def pad_shortcut(x, new_channels):\n    return PadShortcut(2, new_channels)(x)\n"
            "def pad_shortcut_backward(g, shape):\n    return np.ones(shape)",
            "Only the pixels that were taken",
        ),
    ],
    "10": [
        (
            "def take_over(network, foreign):\n"
            "    own = network.state_dict()\n"
            "    network.load_state_dict({n: foreign.get(n, a) for n, a in own.items()})\n"
            "    return []",
            "strip the prefix",
        ),
        (
            "def take_over(network, foreign):\n"
            "    own = network.state_dict()\n"
            "    for name in list(foreign):\n"
            "        foreign[name[7:]] = foreign.pop(name)\n"
            "    network.load_state_dict({n: a if 'linear' in n else foreign[n] for n, a in own.items()})\n"
            "    return ['linear.bias', 'linear.weight']",
            "make a new one",
        ),
    ],
}


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def by_speed(paths: list[Path]) -> list[Any]:
    return [pytest.param(p, marks=[pytest.mark.slow] * p.name.startswith(SLOW), id=name_of(p)) for p in paths]


def in_chinese(path: Path) -> bool:
    return path.parent.name == "zh"


def has_chinese(text: str) -> bool:
    """Characters, or full-width punctuation."""
    return re.search("[\u4e00-\u9fff\uff00-\uff5e]", text) is not None


# The pages run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", by_speed(pages()))
def test_page_and_exercise(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_real_data(monkeypatch)
    page, number = read_page(path), path.name[:2]
    tolerance = TOLERANCE.get(number, 1e-9)
    with threadpool_limits(1):
        names, ran = page.run()
        for block, printed in ran:
            assert not differs(printed, block.printed or "", tolerance), f"{name_of(path)} printed\n{printed}"

        page.run_block(page.skeleton, names)
        refusal(page, names)
        for answer, words in WRONG[number]:
            page.run_block(page.skeleton, names)
            page.run_block(replace(page.skeleton, code=answer), names)
            message = refusal(page, names)
            assert in_chinese(path) or words in message

        page.run_block(page.solution, names)
        printed = page.run_block(page.check, names)
    assert printed.splitlines()[-1].startswith("正确" if in_chinese(path) else "Right")
    assert page.check.printed
    assert not differs(printed, page.check.printed, tolerance), f"{name_of(path)} printed\n{printed}"


def refusal(page: Page, names: dict[str, Any]) -> str:
    """The words with which the page's check refuses the present answer."""
    with pytest.raises(AssertionError) as refused:
        page.run_block(page.check, names)
    message = str(refused.value)
    assert len(message) > 10, f"{name_of(page.path)} does not say what is wrong"
    assert has_chinese(message) == in_chinese(page.path)
    return message


def use_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of page 10 that reads CIFAR-10 runs only where its files are."""
    place = ROOT.parent / "shared" / "data"
    if (place / "weights" / "resnet20_cifar10.safetensors").is_file():
        monkeypatch.setenv("CONVCRAFT_DATA", str(place))
    else:
        monkeypatch.delenv("CONVCRAFT_DATA", raising=False)


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "other"),
    [
        ("loss 0.50\n", "loss 0.50\n", 0.0, False),
        ("[[1. 2.]\n [3. 4.]]", "[[1. 2.]\n  [3. 4.]]", 0.0, False),
        ("loss 0.50", "loss 0.51", 0.0, True),
        ("loss 0.50", "loss 0.51", 0.02, False),
        ("loss 0.50", "cost 0.50", 0.02, True),
        ("3.1 s", "9.9 s", 0.0, False),
        ("3.1 秒", "9.9 秒", 0.0, False),
        ("3 epochs", "4 epochs", 0.0, True),
        ("right", "right 1", 0.0, True),
        ("-1.00", "1.00", 0.02, True),
    ],
)
def test_comparison_of_outputs(printed: str, expected: str, tolerance: float, other: bool) -> None:
    assert differs(printed, expected, tolerance) == other


def test_page_without_exercise_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "01-nothing.md"
    page.write_text("# 1\n\n```python\nprint(1)\n```\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no exercise"):
        read_page(page)


def test_outputs_are_written_into_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = (FOLDER / "01-convolution.md").read_text(encoding="utf-8")
    page = tmp_path / "01-convolution.md"
    page.write_text(right.replace("[[19. 25.]", "[[18. 25.]").replace("(1, 1, 2, 2)\n", ""), encoding="utf-8")
    monkeypatch.setattr("pages.FOLDER", tmp_path)
    monkeypatch.setattr("sys.argv", ["pages.py", "01"])
    main()
    assert page.read_text(encoding="utf-8") != right
    monkeypatch.setattr("sys.argv", ["pages.py", "01", "--write"])
    main()
    assert page.read_text(encoding="utf-8") == right


# Two languages ----------------------------------------------------------------------------------------------------


def test_ten_pages_in_both_languages() -> None:
    english, chinese = ([path.name for path in pages(language)] for language in ("en", "zh"))
    assert english == chinese
    assert [name[:2] for name in english] == [f"{number:02}" for number in range(1, 11)]


@pytest.mark.parametrize("path", pages("en"), ids=name_of)
def test_same_code_in_both_languages(path: Path) -> None:
    """Apart from comments, and from strings that are Chinese in the Chinese page."""
    english, chinese = (read_page(place) for place in (path, path.parent / "zh" / path.name))
    pairs = zip(blocks(english), blocks(chinese), strict=True)
    for ours, theirs in pairs:
        assert shape(ours.code) == shape(theirs.code), f"{path.name}:\n{theirs.code}"
        for string, translated in zip(strings(ours.code), strings(theirs.code), strict=True):
            assert string == translated or has_chinese(translated), f"{path.name}: {string!r}, {translated!r}"
            assert not has_chinese(string), f"{path.name}: {string!r}"


def blocks(page: Page) -> list[Block]:
    return [*page.blocks, page.skeleton, page.check, page.solution]


def shape(code: str) -> str:
    """The code without its strings; of f-strings the values and their formats stay."""

    class Blank(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            return ast.Constant("") if isinstance(node.value, str) else node

        def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
            values = [value for value in node.values if isinstance(value, ast.FormattedValue)]
            for value in values:
                value.value = self.visit(value.value)
            return ast.JoinedStr(list(values))

    return ast.dump(Blank().visit(ast.parse(code)), indent=1)


def strings(code: str) -> list[str]:
    """All strings outside f-strings, in order."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if not isinstance(node, ast.JoinedStr):
            for child in ast.iter_child_nodes(node):
                yield from walk(child)

    return list(walk(ast.parse(code)))


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_pages_need_only_what_they_promise(path: Path) -> None:
    """NumPy, the engine and scikit-learn's digits; the last page reads files, and compares with torch."""
    allowed = {"numpy", "convcraft.scratch", "sklearn.datasets", *sys.stdlib_module_names}
    if path.name.startswith("10"):
        allowed |= {"safetensors.numpy", "torch", "convcraft.models.resnet_cifar", "pandas", "PIL"}
    for block in blocks(read_page(path)):
        for node in ast.walk(ast.parse(block.code)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert any(module == name or module.startswith(name + ".") for name in allowed), module


# Links and pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*pages(), FOLDER / "README.md", FOLDER / "zh" / "README.md"], ids=name_of)
def test_links_and_pictures_exist(path: Path) -> None:
    for target in LINK.findall(FENCED.sub("", path.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            place = path.parent / unquote(target).partition("#")[0]
            assert place.exists(), f"{name_of(path)} links to {target}"


@pytest.mark.parametrize("path", pages(), ids=name_of)
def test_pages_are_linked_in_order(path: Path) -> None:
    folder = pages("zh" if in_chinese(path) else "en")
    text = path.read_text(encoding="utf-8")
    number = folder.index(path)
    for neighbour in folder[max(0, number - 1) : number] + folder[number + 1 : number + 2]:
        assert f"({neighbour.name})" in text
    twin = f"../{path.name}" if in_chinese(path) else f"zh/{path.name}"
    assert f"({twin})" in text
    assert f"({path.name})" in (path.parent / "README.md").read_text(encoding="utf-8")


def test_readmes_lead_to_the_tutorial() -> None:
    assert "(docs/tutorial/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/tutorial/zh/README.md)" in (ROOT / "README.zh.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] * n.startswith(SLOW)) for n in figures.FIGURES]
)
def test_pictures_are_those_of_the_pages(number: str) -> None:
    with threadpool_limits(1):
        drawn = figures.draw(number)
    for name, content in drawn.items():
        stored = (figures.ASSETS / name).read_text(encoding="utf-8")
        xml.etree.ElementTree.fromstring(stored)
        other = differs(content, stored, 0.1 if number in SLOW else 0.0)
        assert not other, f"{name} is not what the page computes: run python docs/tutorial/figures.py {number}"


def test_every_picture_is_used() -> None:
    used = {Path(target).name for path in pages() for target in LINK.findall(path.read_text(encoding="utf-8"))}
    assert {path.name for path in figures.ASSETS.glob("*.svg")} <= used
