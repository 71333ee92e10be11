"""The traced optimisers: gradients of the surfaces, printed numbers redone by hand, torch beside them, the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from convcraft.cli.app import main
from convcraft.workflows.scratch.surfaces import BEALE, BOWL, Surface
from convcraft.workflows.scratch.trace import RULES, SETTINGS, Rule, Trace, table_lines, trace, trace_all

Array = NDArray[np.float64]
SURFACES = {surface.name: surface for surface in (BOWL, BEALE)}


@pytest.fixture(scope="module")
def traces() -> dict[tuple[str, str], Trace]:
    return {(each.surface.name, each.rule.name): each for each in trace_all()}


@pytest.mark.parametrize("surface", SURFACES.values(), ids=SURFACES)
def test_gradients_are_those_of_the_loss(surface: Surface) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.uniform(-2, 3, (2, 50))
    step = 1e-6
    along_x, along_y = surface.gradient(x, y)
    np.testing.assert_allclose(
        along_x, (surface.loss(x + step, y) - surface.loss(x - step, y)) / (2 * step), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        along_y, (surface.loss(x, y + step) - surface.loss(x, y - step)) / (2 * step), rtol=1e-5, atol=1e-5
    )
    at_minimum = surface.gradient(*np.array(surface.minimum)[:, None])
    np.testing.assert_allclose(at_minimum, 0, atol=1e-12)
    left, right, bottom, top = surface.window
    assert left < surface.minimum[0] < right
    assert bottom < surface.minimum[1] < top


def by_hand(rule: str, settings: dict[str, Any], gradients: list[Array], start: Array) -> list[Array]:
    """The weights after each step by the textbook's formulas, written here once more."""
    w, v, m, s = start.copy(), np.zeros(2), np.zeros(2), np.zeros(2)
    rate, after = settings["learning_rate"], []
    for t, g in enumerate(gradients, start=1):
        if rule == "SGD":
            w = w - rate * g
        elif rule in ("momentum", "Nesterov"):
            v = settings["momentum"] * v + g
            w = w - rate * (v if rule == "momentum" else g + settings["momentum"] * v)
        elif rule == "RMSprop":
            s = settings["alpha"] * s + (1 - settings["alpha"]) * g**2
            w = w - rate * g / (np.sqrt(s) + settings["eps"])
        else:
            beta1, beta2 = settings["betas"]
            m, s = beta1 * m + (1 - beta1) * g, beta2 * s + (1 - beta2) * g**2
            w = w * (1 - rate * settings.get("weight_decay", 0.0))
            w = w - rate * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + settings["eps"])
        after.append(w)
    return after


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_the_path_is_the_formulas(surface: str, rule: str, traces: dict[tuple[str, str], Trace]) -> None:
    found = traces[surface, rule]
    start = np.array(found.surface.start)
    expected = by_hand(rule, found.settings, [step.gradient for step in found.steps], start)
    np.testing.assert_allclose(found.path, [start, *expected], rtol=1e-10, atol=1e-10)
    for step in found.steps:
        np.testing.assert_allclose(step.gradient, found.surface.gradient(*step.before))


def redone(rule: str, numbers: dict[str, Array], settings: dict[str, Any]) -> Array:
    """The last line of the printed formula, from the printed numbers."""
    w, rate = numbers["w"], settings["learning_rate"]
    if rule == "SGD":
        return w - rate * numbers["g"]
    if rule == "momentum":
        return w - rate * numbers["v"]
    return (numbers["u"] if rule == "AdamW" else w) - rate * numbers["d"]


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("rule", [rule.name for rule in RULES])
def test_printed_terms_lead_to_the_next_weights(surface: str, rule: str, traces: dict[tuple[str, str], Trace]) -> None:
    found = traces[surface, rule]
    for step in found.steps:
        numbers = {"w": step.before, "g": step.gradient, **step.terms}
        np.testing.assert_allclose(redone(rule, numbers, found.settings), step.after, rtol=1e-9, atol=1e-12)
        assert all(name in " ".join(found.rule.formula) for name in step.terms)


OF_TORCH = {
    "SGD": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "Nesterov": torch.optim.SGD,
    "RMSprop": torch.optim.RMSprop,
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
}


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("rule", OF_TORCH)
def test_torch_takes_the_same_steps(surface: str, rule: str, traces: dict[tuple[str, str], Trace]) -> None:
    found = traces[surface, rule]
    settings = {("lr" if name == "learning_rate" else name): value for name, value in found.settings.items()}
    weights = torch.tensor(found.surface.start, dtype=torch.float64, requires_grad=True)
    optimizer = OF_TORCH[rule]([weights], **settings)
    for number in range(1, 31):
        optimizer.zero_grad()
        loss: Any = found.surface.loss(weights[0], weights[1])  # type: ignore[arg-type]
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(weights.detach().numpy(), found.path[number], rtol=1e-9, atol=1e-9)


def test_the_paths_show_what_they_are_to_teach(traces: dict[tuple[str, str], Trace]) -> None:
    along_y = traces["bowl", "SGD"].path[:15, 1]
    assert (along_y[1:] * along_y[:-1] < 0).all()  # from wall to wall
    assert traces["bowl", "Nesterov"].losses[20] < traces["bowl", "SGD"].losses[20] / 2
    first = traces["bowl", "Adam"].steps[0]
    np.testing.assert_allclose(np.abs(first.after - first.before), 0.3, rtol=1e-8)  # the rate, whatever the gradient
    rest = traces["Beale", "AdamW"].path[-1]
    assert np.linalg.norm(rest) < np.linalg.norm(BEALE.minimum) - 0.3  # decay keeps it short of the minimum
    assert traces["Beale", "Adam"].losses[-1] < 1e-4


def test_a_planted_mistake_shows() -> None:
    """Adam without its corrections, as an article has it, takes another first step."""
    rule = next(rule for rule in RULES if rule.name == "Adam")
    settings = SETTINGS["bowl"]["Adam"]

    def without_corrections(*given: Any) -> dict[str, Array]:
        terms = rule.terms(*given)
        return {**terms, "d": terms["m"] / (np.sqrt(terms["s"]) + settings["eps"])}

    wrong = trace(BOWL, Rule(rule.name, rule.formula, rule.build, without_corrections), settings, 1).steps[0]
    assert not np.allclose(redone("Adam", {"w": wrong.before, **wrong.terms}, settings), wrong.after, rtol=0.1)


def test_command_draws_prints_and_gives_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pictures" / "optimizers.png"
    with pytest.raises(SystemExit) as ending:
        main(["scratch", "trace", "--out", str(file), "--steps", "2", "--json"])
    assert ending.value.code == 0
    with Image.open(file) as picture:
        assert min(picture.size) > 1000
        colours = picture.convert("RGB").getcolors(1 << 24) or []
        assert len(colours) > 50  # something is drawn
    *printed, last = capsys.readouterr().out.splitlines()
    answer = json.loads(last)
    assert [(each["surface"], each["optimizer"]) for each in answer["traces"]] == [
        (surface, rule.name) for surface in SURFACES for rule in RULES
    ]
    assert all(len(each["steps"]) == 2 and len(each["path"]) == len(each["losses"]) for each in answer["traces"])
    assert "    w_next = (-3.64, -1.2)" in printed  # SGD on the bowl: -4 + 0.09 * 4, 1.5 - 0.09 * 30
    assert table_lines(trace_all(), 2)[1] in printed


def test_command_refuses_another_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["scratch", "trace", "--out", str(tmp_path / "picture.gif")])
    assert ending.value.code == 2
    assert "a file that ends in .png" in capsys.readouterr().err


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "scratch.md").read_text(encoding="utf-8")
    shown = page.partition("```\nbowl, Adam")[2].partition("```")[0]
    assert shown
    assert f"bowl, Adam{shown}".strip() in "\n".join(table_lines(trace_all(), 1))
