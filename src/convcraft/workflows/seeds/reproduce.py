"""The errors themselves: lines of the articles' listings are run, and what they raise is caught and shown.

PyTorch and NumPy lines really run. Keras lines run where Keras is installed; elsewhere the same arithmetic runs in
torch, and the outcome says so.
"""

from __future__ import annotations

import ast
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from convcraft.workflows.seeds import seed_000, seed_001, seed_002, seed_003, seed_004
from convcraft.workflows.seeds.checks_names import installed
from convcraft.workflows.seeds.checks_torch import build_network
from convcraft.workflows.seeds.program import Program

PLACE = re.compile(r" \(/[^)]*\)")  # where a package lies on this machine


@dataclass(frozen=True)
class Reproduction:
    """What was run, and what came of it."""

    ran: str
    outcome: str  # "ValueError: ...", or figures

    def to_dict(self) -> dict[str, str]:
        return dict(self.__dict__)


def reproduce(seed_id: str) -> list[Reproduction]:
    """Run what can be run of a seed's listing, and note what happens."""
    functions: dict[str, Callable[[], list[Reproduction]]] = {
        "000": _reproduce_000,
        "001": _reproduce_001,
        "002": _reproduce_002,
        "003": _reproduce_003,
        "004": _reproduce_004,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return functions[seed_id]()


def run_lines(program: Program, first: int, last: int, namespace: dict[str, Any]) -> str:
    """Execute the statements that begin within these lines of a listing.

    Returns:
        "Error: message" of what was raised, or "no error".
    """
    body = [node for node in program.tree.body if first <= node.lineno <= last]
    code = compile(ast.Module(body=body, type_ignores=[]), "<listing>", "exec")
    return outcome(lambda: exec(code, namespace))  # noqa: S102 - our own fixed text


def outcome(action: Callable[[], Any]) -> str:
    """What an action raises, in one line; "no error" where it raises nothing."""
    try:
        action()
    except Exception as error:  # any: what it is, is what is asked
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        return f"{type(error).__name__}: {PLACE.sub('', first).strip()}"
    return "no error"


def _line(program: Program, text: str) -> int:
    """The first line that contains a text."""
    return next(number for number, line in enumerate(program.lines, 1) if text in line)


def _reproduce_000() -> list[Reproduction]:
    found = []
    program, keras = seed_000.as_written(), _keras()
    add = _line(program, "model.add")
    if keras is not None:
        entrance = keras.Input((8, 8, 3))
        model = keras.Model(entrance, keras.layers.Conv2D(4, 3)(entrance))
        names = {"model": model, "layers": keras.layers}
        found.append(Reproduction(f"line {add} on a small Functional model", run_lines(program, add, add, names)))
    units = torch.full((16, 1), 0.5)
    labels = torch.arange(16).remainder(10).float()[:, None]
    found.append(
        Reproduction(
            "binary cross-entropy of one sigmoid unit with labels 0 to 9, in torch",
            outcome(lambda: functional.binary_cross_entropy(units, labels)),
        )
    )
    return found


def _reproduce_001() -> list[Reproduction]:
    program = seed_001.as_written()
    loader = _line(program, "train_loader")
    found = [Reproduction(f"line {loader}", run_lines(program, loader, loader, {"torch": torch}))]
    network = build_network(program)
    assert network is not None
    for batch_size in (64, 32, 1):
        images, labels = torch.rand(batch_size, 1, 28, 28), torch.zeros(batch_size, dtype=torch.int64)

        def step(images: torch.Tensor = images, labels: torch.Tensor = labels) -> None:
            functional.cross_entropy(network(images), labels)

        found.append(Reproduction(f"network and loss on a batch of {batch_size}", outcome(step)))
    with torch.no_grad():
        rows = network(torch.rand(64, 1, 28, 28))
        change = (functional.log_softmax(rows, dim=1) - rows).abs().max().item()
    found.append(Reproduction("rows that 64 images become", f"{len(rows)} rows of {rows.shape[1]} outputs"))
    found.append(Reproduction("log_softmax of its log_softmax", f"largest change {change:.0e}"))
    return found


def _reproduce_002() -> list[Reproduction]:
    program = seed_002.as_written()
    names: dict[str, Any] = {}
    run_lines(program, 1, len(program.lines), names)
    rng = np.random.default_rng(0)
    image, found = rng.standard_normal((28, 28)), []
    for side in (3, 5):
        kernel = rng.standard_normal((side, side))
        theirs = torch.conv2d(torch.from_numpy(image)[None, None], torch.from_numpy(kernel)[None, None])[0, 0].numpy()
        gap = np.abs(names["conv2d"](image, kernel) - theirs).max()
        found.append(
            Reproduction(f"conv2d of a 28x28 image, kernel {side}x{side}, against torch", f"differ by {gap:.0e}")
        )
    batch = np.zeros((4, 28, 28))
    found.append(Reproduction("conv2d of a batch", outcome(lambda: names["conv2d"](batch, np.zeros((3, 3))))))
    return found


def _reproduce_003() -> list[Reproduction]:
    from torchvision.models.resnet import resnet18

    program = seed_003.as_written()
    loader, model = _line(program, "train_loader"), _line(program, "import ResNet18")
    found = [
        Reproduction(f"line {loader}", run_lines(program, loader, loader, {"train_dataset": []})),
        Reproduction(f"line {model}", run_lines(program, model, model, {})),
    ]
    if not torch.cuda.is_available():
        found.append(Reproduction(".cuda() on this machine", outcome(lambda: torch.zeros(1).cuda())))
    with torch.no_grad():
        logits = resnet18().eval()(torch.rand(4, *program.task.image_shape))
        loss = functional.cross_entropy(logits, torch.arange(4)).item()
    classes = program.task.num_classes
    expected = f"ln {logits.shape[1]} = {math.log(logits.shape[1]):.2f}, ln {classes} = {math.log(classes):.2f}"
    found.append(Reproduction("torchvision's resnet18() as it comes: the first loss", f"{loss:.2f} ({expected})"))
    return found


def _reproduce_004() -> list[Reproduction]:
    program, keras = seed_004.as_written(), _keras()
    model = _line(program, "model = keras.Sequential")
    found = []
    if keras is not None:
        found.append(Reproduction(f"line {model}", run_lines(program, model, model, {"keras": keras})))
    else:
        maps, kernel = torch.zeros(1, 64, 1, 1), torch.zeros(64, 64, 3, 3)
        ran = "the fourth convolution in torch: 3x3 on 1x1 maps (Keras is not installed)"
        found.append(Reproduction(ran, outcome(lambda: torch.conv2d(maps, kernel))))
    rows, indices = torch.full((1000, 10), 0.1), torch.zeros(1000)
    ran = "categorical cross-entropy of rows (1000, 10) with labels (1000,), in torch"
    found.append(Reproduction(ran, outcome(lambda: -(indices * rows.log()).sum(1))))
    return found


def _keras() -> Any:
    """Keras where it is installed and can be imported, else None."""
    if installed("tensorflow") is None:
        os.environ.setdefault("KERAS_BACKEND", "torch")  # read when Keras is first imported
    return installed("keras")
