"""What `seeds list` and `seeds run` print, as lines of text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convcraft.workflows.seeds.catalogue import SEEDS, diagnose_seed
from convcraft.workflows.seeds.program import SEVERITIES
from convcraft.workflows.seeds.repeat import SeedRun, accuracy_spread
from convcraft.workflows.seeds.run import Examination, Repair

RESULTS = Path("benchmarks", "results", "seeds.json")


def list_seeds() -> list[dict[str, Any]]:
    """One row per article: what it builds and claims, how many defects are found as written, what was measured last."""
    measured = _measured()
    return [
        {
            "id": seed.id,
            "title": seed.title,
            "english": seed.english,
            "framework": seed.framework,
            "builds": seed.builds,
            "claim": seed.claim,
            "defects": len(diagnose_seed(seed.id)),
            "measured": measured.get(seed.id),
        }
        for seed in SEEDS.values()
    ]


def list_lines(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        claim = SEEDS[row["id"]].claim_text
        measured = row["measured"] or "not measured here"
        lines += [
            f"{row['id']}  {row['title']} ({row['english']})",
            f"     {row['framework']}: {row['builds']}",
            f"     claims: {claim}; as written: {row['defects']} defects; repaired: {measured}",
        ]
    return lines


def examination_lines(examined: Examination) -> list[str]:
    """What is wrong as written, the gravest first, and what the lines raise when they are run."""
    seed = examined.seed
    lines = [f"seed {seed.id}  {seed.title}", f"          {seed.framework}: {seed.builds}", "", "As written"]
    for number, diagnosis in enumerate(examined.diagnoses, 1):
        lines += [
            f"{number:>3}  {diagnosis.severity:<9}{diagnosis.check}: {diagnosis.cause}",
            f"     {'':<9}at {diagnosis.where}",
            f"     {'':<9}fix: {diagnosis.fix}",
        ]
    used = {diagnosis.severity for diagnosis in examined.diagnoses}
    lines += [f"     ({name}: {meaning})" for name, meaning in SEVERITIES.items() if name in used]
    lines += ["", "Run as written"]
    lines += [f"     {item.ran}: {item.outcome}" for item in examined.reproductions]
    return [*lines, ""]


def repair_lines(repair: Repair) -> list[str]:
    """The repaired system's figures beside the article's claim."""
    lines = ["Repaired", f"     {repair.what}"]
    lines += [_run_line(run) for run in repair.runs]
    if repair.runs:
        lines += [f"     test accuracy {_mean(repair.runs)}; the article claims: {repair.seed.claim_text}"]
    for name, value in repair.facts.items():
        lines += [f"     {line}" for line in _fact_lines(name, value)]
    lines += [f"     note: {note}" for note in repair.notes]
    return lines + [f"     file {path}" for path in repair.files]


def _run_line(run: SeedRun) -> str:
    low, high = run.interval
    return (
        f"     seed {run.seed}: test accuracy {run.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"{run.epochs} epochs in {run.train_seconds:.1f} s{'' if run.new else ', found finished'}: {run.run}"
    )


def _mean(runs: list[SeedRun]) -> str:
    spread = accuracy_spread(runs)
    if spread.std is None:
        return f"{spread.mean:.2%} (one run)"
    return f"{spread.mean:.2%} ± {spread.std:.2%} (mean and standard deviation of {spread.num_values} runs)"


def _fact_lines(name: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        inner = [line for key, item in value.items() for line in _fact_lines(key, item)]
        return [f"{name}:", *(f"  {line}" for line in inner)]
    if isinstance(value, bool):
        return [f"{name}: {'yes' if value else 'NO'}"]
    if isinstance(value, float):
        return [f"{name}: {value:.1e}" if abs(value) < 1e-3 else f"{name}: {value:.4f}"]
    return [f"{name}: {value}"]


def _measured() -> dict[str, str]:
    """Figures of the committed measurement, where this is a source tree."""
    for root in (Path(__file__).resolve().parents[4], Path.cwd()):
        if (root / RESULTS).is_file():
            found = json.loads((root / RESULTS).read_text(encoding="utf-8")).get("seeds", {})
            return {seed_id: entry["figure"] for seed_id, entry in found.items() if entry.get("figure")}
    return {}
