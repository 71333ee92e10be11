"""`convcraft scratch check`: files of a learner, good and bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convcraft.cli.app import _run

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_layer.py"
BROKEN = """
from convcraft.scratch import layers, optim
from convcraft.scratch.linear import linear, linear_backward

class Linear(layers.Linear):
    def backward(self, grad_output):
        grad_input, grad_weight, grad_bias = linear_backward(grad_output, self.input, self.weight.data)
        self.weight.grad += grad_weight
        self.bias.grad += grad_bias / len(grad_output)
        return grad_input

class Swish(layers.Module):
    def forward(self, input):
        self.input = input
        return input / (1 + 2.718281828459045 ** -input)

    def backward(self, grad_output):
        return grad_output / (1 + 2.718281828459045 ** -self.input)

class MyAdam(optim.Adam):
    def update(self, parameter, memory, settings):
        super().update(parameter, memory, {**settings, "weight_decay": 0.0})
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "layer.py"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_example_is_right_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["scratch", "check", str(EXAMPLE)]) == 0
    printed = capsys.readouterr().out
    assert "Swish: right" in printed
    assert "2 of 2 right" in printed


@pytest.mark.parametrize(
    ("good", "bad", "words"),
    [
        (".sum(axis=0)", ".mean(axis=0)", "3 times too small, the number of images"),
        (".sum(axis=0)", "[0]", "Only the first image counts"),
        ("self.weight.grad += ", "self.weight.grad[...] = ", "overwrites the gradient of weight"),
        ("(gate + self.input * gate * (1 - gate))", "gate", "As if the layer multiplied by a constant"),
        ("return grad_output * self.weight.data", "return grad_output", "derivative is missing"),
    ],
)
def test_breaking_the_example_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], good: str, bad: str, words: str
) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert good in text
    assert _run(["scratch", "check", str(written(tmp_path, text.replace(good, bad)))]) == 1
    assert words in capsys.readouterr().out


def test_a_layer_named_as_ours_is_compared_with_torch_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["scratch", "check", str(written(tmp_path, BROKEN)), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    by_name = {entry["name"]: entry for entry in answer["checked"]}
    assert set(by_name) == {"Linear", "Swish", "MyAdam"}
    assert by_name["Linear"]["torch_gap"] > 0.1
    assert by_name["Swish"]["torch_gap"] is None
    assert "Weight decay is left out" in by_name["MyAdam"]["diagnosis"]
    assert not any(entry["passed"] for entry in answer["checked"])


def test_one_layer_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["scratch", "check", str(written(tmp_path, BROKEN)), "--layer", "Swish"]) == 1
    assert "Linear" not in capsys.readouterr().out


def test_the_engine_itself_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["scratch", "check"]) == 0
    printed = capsys.readouterr().out
    assert "Conv2d: right" in printed
    assert "torch" in printed
    assert "WRONG" not in printed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "defines no layer"),
        ("x = = 1\n", "SyntaxError"),
        ("x = 1\n\ny = 1 / 0\n", "line 3 stops with ZeroDivisionError"),
        ("import sys\nsys.exit(0)\n", "stops with SystemExit"),
        (
            "from convcraft.scratch.optim import Optimizer\nclass Mine(Optimizer):\n"
            "    def update(self, parameter, memory, settings): pass\n",
            "an optimiser whose formula is known",
        ),
        (
            "from convcraft.scratch.module import Module\nclass Needy(Module):\n    def __init__(self, a, b): pass\n"
            "    def forward(self, input): return input\n",
            "def examples()",
        ),
        (
            "from convcraft.scratch.layers import Linear\nclass Odd(Linear):\n"
            "    def __init__(self): super().__init__(77, 2)\n",
            "input_shape",
        ),
    ],
)
def test_a_file_that_cannot_be_checked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    assert _run(["scratch", "check", str(written(tmp_path, text))]) == 2
    assert words in capsys.readouterr().err


def test_a_missing_file_and_an_unknown_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["scratch", "check", str(tmp_path / "none.py")]) == 2
    assert "no file" in capsys.readouterr().err
    assert _run(["scratch", "check", "--layer", "Nothing"]) == 2
    assert "Conv2d" in capsys.readouterr().err


def test_examples_say_how_a_layer_is_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
import numpy as np
from convcraft.scratch.layers import Linear

class Needy(Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)

def examples():
    return [(Needy(7, 2), np.ones((3, 7)))]
"""
    assert _run(["scratch", "check", str(written(tmp_path, text))]) == 0
    assert "1 of 1 right" in capsys.readouterr().out


def test_a_layer_with_our_name_and_other_parameters_is_checked_without_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = """
import numpy as np
from convcraft.scratch.module import Module, Parameter

class Linear(Module):
    def __init__(self, inputs, outputs):
        self.W = Parameter(np.ones((inputs, outputs), np.float32))

    def forward(self, input):
        self.input = input
        return input @ self.W.data

    def backward(self, grad_output):
        self.W.grad += self.input.T @ grad_output
        return grad_output @ self.W.data.T
"""
    assert _run(["scratch", "check", str(written(tmp_path, text))]) == 0
    printed = capsys.readouterr().out
    assert "Linear: right" in printed
    assert "torch" not in printed
