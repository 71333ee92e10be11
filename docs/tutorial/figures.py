"""Draw the tutorial's pictures from what its pages compute: python docs/tutorial/figures.py [01 08 ...]

Every picture is made of the names that its English page defines, so it cannot say anything else than the page. Pictures
with words are drawn twice, NAME.svg and NAME.zh.svg, and land in docs/assets/tutorial. Pages 08 to 10 train or load
networks, which takes half a minute.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from pages import FOLDER, Names, pages, read_page

ASSETS = FOLDER.parent / "assets" / "tutorial"
BLUE, ORANGE, GREEN, RED, GREY, PALE = "#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#718096", "#edf2f7"
TINTS = ("#bee3f8", "#fbd38d", "#c6f6d5", "#fed7d7")
LANGUAGES = ("en", "zh")

Words = Callable[[str, str], str]  # (English, 中文) -> the one that is drawn
Fills = dict[tuple[int, int], str]  # (row, column) -> colour
Drawing = tuple[int, int, list[str]]  # width, height, elements


# Pieces -----------------------------------------------------------------------------------------------------------


def text(x: float, y: float, words: object, size: int = 15, colour: str = "#1a202c", anchor: str = "middle") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-family="sans-serif">{words}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str = "none", line: str = GREY, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}" stroke="{line}" {more}/>'


def path(points: Iterable[Sequence[float]], colour: str, width: float = 2, more: str = "") -> str:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}" {more}/>'


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = GREY) -> str:
    angle = math.atan2(y2 - y1, x2 - x1)
    tips = [(x2 - 9 * math.cos(angle + turn), y2 - 9 * math.sin(angle + turn)) for turn in (-0.4, 0.4)]
    return path([(x1, y1), (x2, y2)], colour) + path([tips[0], (x2, y2), tips[1]], colour)


def grid(
    x: float, y: float, table: np.ndarray, side: float = 40, fills: dict[tuple[int, int], str] | None = None
) -> str:
    """Numbers in cells; `fills` colours some of them."""
    cells = []
    for (i, j), number in np.ndenumerate(table):
        left, top = x + j * side, y + i * side
        cells.append(box(left, top, side, side, (fills or {}).get((i, j), "#ffffff")))
        cells.append(text(left + side / 2, top + side / 2 + 5, f"{number:g}"))
    return "".join(cells)


def picture(x: float, y: float, pixels: np.ndarray, side: float) -> str:
    """Grey pixels, 0 black to 1 white, `side` wide altogether."""
    cell = side / len(pixels)
    squares = [
        f'<rect x="{x + j * cell:.2f}" y="{y + i * cell:.2f}" width="{cell + 0.2:.2f}" height="{cell + 0.2:.2f}" '
        f'fill="#{round(255 * value):02x}{round(255 * value):02x}{round(255 * value):02x}"/>'
        for (i, j), value in np.ndenumerate(pixels)
    ]
    return "".join(squares)


def chart(
    x: float, y: float, width: float, height: float, curves: dict[str, tuple[str, np.ndarray]], title: str, log: bool
) -> Iterator[str]:
    """Curves {name: (colour, values)} over their index, with the axis's ends written beside."""
    everything = np.concatenate([values for _, values in curves.values()])
    low, high = (everything.min(), everything.max()) if log else (0.0, everything.max())
    scale = (lambda value: math.log(value / low) / math.log(high / low)) if log else (lambda value: value / high)
    yield box(x, y, width, height, "#ffffff")
    yield text(x + width / 2, y - 10, title)
    for value in (low, high):
        yield text(x - 6, y + height * (1 - scale(value)) + 5, f"{value:.2g}", 12, GREY, "end")
    for number, (name, (colour, values)) in enumerate(curves.items()):
        step = width / max(1, len(values) - 1)
        yield path([(x + i * step, y + height * (1 - scale(value))) for i, value in enumerate(values)], colour)
        yield text(x + width - 8, y + 60 + 18 * number, name, 13, colour, "end")


# Pictures ---------------------------------------------------------------------------------------------------------


def window(names: Names, say: Words) -> Drawing:
    """Page 1: the kernel at its first place."""
    image, kernel = names["image"], names["kernel"]
    output = names["slide"](image, kernel)
    first = {(i, j): TINTS[0] for i in (0, 1) for j in (0, 1)}
    parts = [grid(20, 20, image, fills=first), text(170, 88, "*", 26), grid(200, 40, kernel, fills=first)]
    parts += [text(310, 88, "=", 22), grid(340, 40, output, fills={(0, 0): TINTS[1]})]
    products = " + ".join(
        f"{pixel:g}·{weight:g}" for pixel, weight in zip(image[:2, :2].flat, kernel.flat, strict=True)
    )
    return 440, 200, [*parts, text(220, 180, f"{products} = {output[0, 0]:g}", 16)]


def stride(names: Names, say: Words) -> Drawing:
    """Page 2: where the windows of stride 2 lie on a 3x3 image with padding 1."""
    image, kernel = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2)
    padded = np.pad(image, 1)
    fills = {(i, j): TINTS[2 * (i // 2) + j // 2] for i in range(4) for j in range(4)}
    output = names["slide"](image, kernel, stride=2, padding=1)
    parts = [grid(20, 20, padded, fills=fills), box(60, 60, 120, 120, line=RED, more='stroke-width="3"')]
    parts += [text(250, 128, "*", 26), grid(280, 80, kernel), text(390, 128, "=", 22)]
    parts.append(grid(420, 80, output, fills={(i, j): TINTS[2 * i + j] for i in (0, 1) for j in (0, 1)}))
    return 520, 240, parts


def pooling(names: Names, say: Words) -> Drawing:
    """Page 4: four windows, their largest number and their mean."""
    image, pool = names["image"], names["pool"]
    small = {(i, j): TINTS[2 * i + j] for i in (0, 1) for j in (0, 1)}
    parts = [grid(20, 30, image, fills={(i, j): TINTS[2 * (i // 2) + j // 2] for i in range(4) for j in range(4)})]
    for left, function, word in ((250, np.max, say("maximum", "最大值")), (380, np.mean, say("mean", "平均值"))):
        parts += [grid(left, 70, pool(image, 2, 2, function), fills=small), text(left + 40, 175, word)]
    return 490, 210, [*parts, arrow(195, 110, 238, 110)]


def batch_norm(names: Names, say: Words) -> Drawing:
    """Page 5: which numbers share a mean."""
    parts = []
    for image in range(4):
        parts.append(text(50, 73 + 58 * image, f"{say('image', '图像')} {image + 1}", 14))
        for channel in range(5):
            chosen = channel == 2
            x, y = 100 + 70 * channel, 45 + 58 * image
            parts += [box(x, y, 44, 44, TINTS[1] if chosen else PALE)]
            parts += [path([(x, y + d), (x + 44, y + d)], "#ffffff", 1) for d in (11, 22, 33)]
            parts += [path([(x + d, y), (x + d, y + 44)], "#ffffff", 1) for d in (11, 22, 33)]
    parts += [text(122 + 70 * c, 32, f"c = {c}", 14, ORANGE if c == 2 else GREY) for c in range(5)]
    parts.append(box(234, 40, 56, 230, line=ORANGE, more='stroke-width="2.5"'))
    return (
        470,
        310,
        [*parts, text(262, 295, say("one μ and one σ² for these", "这些数共用一个 μ 和一个 σ²"), 14, ORANGE)],
    )


def backward(names: Names, say: Words) -> Drawing:
    """Page 6: the numbers forward, and the gradients that come back."""
    parts = []
    nodes = (("w·x + b", 150), ("ReLU", 300), ("(y - 5)²", 450))
    for words, x in nodes:
        parts += [box(x - 45, 65, 90, 40, PALE), text(x, 90, words)]
    for left, right, forward, back in (
        (20, 105, "x = 2", "dL/dx = 12"),
        (195, 255, "z = 7", "4"),
        (345, 405, "y = 7", "4"),
        (495, 560, "L = 4", "1"),
    ):
        parts += [arrow(left, 78, right, 78, BLUE), arrow(right, 93, left, 93, RED)]
        parts += [text((left + right) / 2, 68, forward, 13, BLUE), text((left + right) / 2, 112, back, 13, RED)]
    parts += [arrow(135, 25, 135, 63, BLUE), arrow(165, 63, 165, 25, RED)]
    parts += [text(128, 20, "w = 3, b = 1", 13, BLUE, "end"), text(172, 20, "dL/dw = 8, dL/db = 4", 13, RED, "start")]
    return 580, 130, parts


def valley(names: Names, say: Words) -> Drawing:
    """Page 7: three paths over the level lines of (a² + 25 b²) / 2."""

    def place(point: Sequence[float]) -> tuple[float, float]:
        return 320 + 34 * point[0], 120 - 52 * point[1]

    turns = np.linspace(0, 2 * np.pi, 60)
    parts = []
    for level in (0.5, 2, 5, 10, 17, 26, 37, 50):
        radius = math.sqrt(2 * level)
        parts.append(path([place((radius * math.cos(t), radius / 5 * math.sin(t))) for t in turns], "#cbd5e0", 1))
    colours = {"SGD": GREY, "momentum": BLUE, "Adam": ORANGE}
    for number, (name, points) in enumerate(names["paths"].items()):
        parts.append(path([place(point) for point in points], colours[name], 1.8))
        word = say(name, {"momentum": "动量"}.get(name, name))
        parts.append(text(600, 28 + 20 * number, word, 14, colours[name], "end"))
    return 640, 240, [*parts, text(320, 124, "×", 16, RED), text(38, 32, say("start", "起点"), 13)]


def lenet(names: Names, say: Words) -> Drawing:
    """Page 8: the loss of every step, and the digits that were read wrongly."""
    curve = {say("loss", "损失"): (BLUE, np.array(names["losses"]))}
    parts = list(chart(60, 40, 300, 180, curve, say("loss of every step", "每一步的损失"), log=False))
    test, said, right = names["test"], names["said"], names["right"]
    parts.append(text(520, 30, say("true → read as", "真实 → 读成")))
    for number, index in enumerate(np.flatnonzero(~right)[:12]):
        x, y = 400 + 62 * (number % 4), 44 + 68 * (number // 4)
        parts.append(picture(x, y, names["digits"].images[test[index]] / 16, 44))
        parts.append(text(x + 22, y + 60, f"{names['labels'][test[index]]} → {said[index]}", 13))
    return 660, 260, parts


def residual_block(names: Names, say: Words) -> Drawing:
    """Page 9: what is beside what in a block."""
    parts, x = [], 70
    for word, width in ((say("conv", "卷积"), 62), ("BN", 46), ("ReLU", 54), (say("conv", "卷积"), 62), ("BN", 46)):
        parts += [arrow(x - 22, 60, x - 2, 60), box(x, 42, width, 36, PALE), text(x + width / 2, 65, word, 14)]
        x += width + 24
    parts += [arrow(x - 22, 60, x - 2, 60), text(x + 11, 66, "⊕", 26), arrow(x + 24, 60, x + 44, 60)]
    parts += [box(x + 46, 42, 54, 36, PALE), text(x + 73, 65, "ReLU", 14), arrow(x + 102, 60, x + 126, 60)]
    parts += [text(36, 66, "x"), text(x + 136, 66, "y"), text(70 + (x - 94) / 2, 30, "F(x)", 14, GREY)]
    parts += [path([(48, 66), (52, 66), (52, 120), (x + 11, 120), (x + 11, 76)], BLUE)]
    parts += [
        arrow(x + 11, 100, x + 11, 74, BLUE),
        text(70 + (x - 94) / 2, 112, say("shortcut: x", "捷径：x"), 14, BLUE),
    ]
    return int(x + 155), 140, parts


def residual(names: Names, say: Words) -> Drawing:
    """Page 9: gradients by block in 44 layers, and the losses of 20 layers."""
    colours = {"residual": (say("residual", "残差"), BLUE), "plain": (say("plain", "无捷径"), ORANGE)}
    sizes = {word: (colour, np.array(names["sizes"][44, name])) for name, (word, colour) in colours.items()}
    curves = {word: (colour, np.array(names["curves"][name])) for name, (word, colour) in colours.items()}
    title = say("size of the gradient, by block (44 layers)", "各块的梯度大小（44 层）")
    parts = list(chart(60, 40, 260, 180, sizes, title, log=True))
    parts += chart(390, 40, 260, 180, curves, say("loss of every step (20 layers)", "每一步的损失（20 层）"), log=False)
    parts += [text(60, 238, say("front", "前"), 13, GREY, "start"), text(320, 238, say("back", "后"), 13, GREY, "end")]
    return 680, 255, parts


def resnet20(names: Names, say: Words) -> Drawing:
    """Page 10: a digit, what the network gets, and its answer."""
    image = names["digits"].images[7]
    seen = names["prepare"](image)[0, 0] * names["std"] + names["mean"]
    parts = [picture(20, 40, image / 16, 140), picture(210, 40, np.clip(seen, 0, 1), 140)]
    parts += [text(90, 26, "8x8"), text(280, 26, "28x28"), arrow(166, 110, 204, 110), arrow(356, 110, 394, 110)]
    for k, probability in enumerate(names["probabilities"]):
        parts += [text(412, 51 + 14 * k, k, 12), box(424, 41 + 14 * k, 1 + 150 * float(probability), 10, BLUE, BLUE)]
    return 600, 195, parts


FIGURES: dict[str, list[tuple[str, Callable[[Names, Words], Drawing]]]] = {
    "01": [("window", window)],
    "02": [("stride", stride)],
    "04": [("pooling", pooling)],
    "05": [("batch-norm", batch_norm)],
    "06": [("backward", backward)],
    "07": [("valley", valley)],
    "08": [("lenet", lenet)],
    "09": [("residual-block", residual_block), ("residual", residual)],
    "10": [("resnet20", resnet20)],
}


def draw(number: str) -> dict[str, str]:
    """File names and SVG texts of a page's pictures; a picture without words has no second file."""
    (page,) = [path for path in pages("en") if path.name.startswith(number)]
    names, _ = read_page(page).run()
    made = {}
    for name, function in FIGURES[number]:
        english, chinese = (svg(*function(names, lambda *both, i=i: both[i])) for i in range(len(LANGUAGES)))
        made[f"{name}.svg"] = english
        if chinese != english:
            made[f"{name}.zh.svg"] = chinese
    return made


def svg(width: int, height: int, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", default=list(FIGURES), help="pages, such as 01 08; none: all")
    ASSETS.mkdir(parents=True, exist_ok=True)
    for number in parser.parse_args().numbers:
        for name, content in draw(number).items():
            (ASSETS / name).write_text(content, encoding="utf-8")
            print(Path("docs/assets/tutorial") / name)


if __name__ == "__main__":
    main()
