"""Variants are weighed in three ways at once; the front is what no other beats in all of them."""

from __future__ import annotations

import json

import pytest

from convcraft.errors import UserError
from convcraft.evaluation.trade_off import TradeOff, Variant
from convcraft.report.run_content import ReportContent
from convcraft.report.run_report import render


def variant(name: str, accuracy: float, milliseconds: float, size_bytes: int) -> Variant:
    return Variant(
        name=name,
        accuracy=accuracy,
        interval=(accuracy - 0.02, min(1.0, accuracy + 0.02)),
        num_images=500,
        agreement=0.99,
        milliseconds=milliseconds,
        quick=milliseconds,
        slow=milliseconds,
        size_bytes=size_bytes,
        command=f"convcraft export RUN --format {name}",
    )


@pytest.mark.parametrize(
    ("variants", "front"),
    [
        ([("a", 0.9, 10, 100)], [True]),
        ([("a", 0.9, 10, 100), ("b", 0.9, 5, 100)], [False, True]),
        ([("a", 0.9, 10, 100), ("b", 0.8, 5, 50)], [True, True]),
        ([("a", 0.9, 10, 100), ("b", 0.9, 10, 100)], [True, True]),  # equals do not beat each other
        ([("a", 0.9, 10, 100), ("b", 0.9, 11, 90), ("c", 0.9, 10, 90)], [False, False, True]),
    ],
)
def test_front(variants: list[tuple[str, float, float, int]], front: list[bool]) -> None:
    found = TradeOff(tuple(variant(*entry) for entry in variants), "500 images", "a machine")
    assert list(found.front) == front
    assert [entry["on_front"] for entry in found.to_dict()["variants"]] == front
    assert TradeOff.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_damage_is_named() -> None:
    with pytest.raises(UserError, match=r"variants\.json"):
        TradeOff.from_dict({"variants": [{"name": "a"}]})


def test_the_page_shows_every_variant_with_its_command() -> None:
    found = TradeOff((variant("onnx", 0.9, 1.25, 2_000_000), variant("<b>", 0.8, 30, 9_000_000)), "500 images", "x")
    page = render(ReportContent(title="t", trade_off=found))
    assert 'id="variants"' in page
    assert "convcraft export RUN --format onnx" in page
    assert "1.25" in page
    assert "2.00" in page
    assert "<b>" not in page.split("<main>")[1]
    assert 'id="variants"' not in render(ReportContent(title="t"))
