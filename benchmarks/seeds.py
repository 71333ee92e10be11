"""Claims: all five `convcraft seeds run` end well; 001 repaired >= 99.2 % on MNIST, 003 repaired >= 75 %.

    python benchmarks/seeds.py [--only 001 003] [--seeds 3] [--runs FOLDER]

Runs each article's repaired system at full size and writes results/seeds.json after each, with where it was measured.
An article whose run fails leaves what was measured before as it is, and the others go on. What is finished in the
folder of runs is not trained again, so a measurement that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measured_on import DATA, RESULTS, alike, convcraft_json, hardware, spread, stolen_seconds, versions, write_result

from convcraft.training.run_folder import read_summary
from convcraft.workflows.seeds.catalogue import SEEDS

RUNS = Path(__file__).resolve().parents[1] / "runs" / "seeds"
BARS = {"001": 0.992, "003": 0.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where run folders are kept, to go on from")
    arguments = parser.parse_args()
    failed: dict[str, str] = {}
    seeds = _earlier()
    for seed_id in arguments.only:
        stolen_before = stolen_seconds()
        try:
            measured = _measure(seed_id, arguments.seeds, arguments.runs)
        except SystemExit as error:  # the command's own message
            failed[seed_id] = str(error)
            print(f"{seed_id} failed: {error}", flush=True)
        else:
            print(f"{seed_id}: {measured['figure'] or 'no accuracy'}", flush=True)
            seeds[seed_id] = {
                **measured,
                "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "torchvision", "numpy"),
            }
        write_result("seeds", conclude(seeds, failed))
    if failed:
        raise SystemExit(1)


def conclude(seeds: Mapping[str, Mapping[str, Any]], failed: Mapping[str, str]) -> dict[str, Any]:
    """The result file. met is None while an article is missing, its last run failed, or was not judged by its bar."""
    above = [seeds[seed_id].get("above_bar") if seed_id in seeds else None for seed_id in BARS]
    complete = set(SEEDS) <= seeds.keys() and not failed and None not in above
    return {
        "claim": "all five end well; 001 repaired >= 0.992 in 10 epochs; 003 repaired well above 0.70: >= 0.75",
        "seeds": dict(sorted(seeds.items())),
        "failed": dict(failed),
        "met": all(above) if complete else None,
    }


def _measure(seed_id: str, seeds: int, runs: Path) -> dict[str, Any]:
    """One article: defects found, figures of its repair, and whether the bar holds."""
    options = ("--seeds", str(seeds), "--out", str(runs), "--data-dir", str(DATA))
    result = convcraft_json("seeds", "run", seed_id, *options)
    repaired = result["repaired"]
    found: dict[str, Any] = {
        "defects_as_written": len(result["as_written"]["diagnoses"]),
        "what": repaired["what"],
        "claim": repaired["claim"],
        "figure": None,
        "facts": repaired["facts"],
    }
    if repaired["runs"]:
        accuracies = [run["accuracy"] for run in repaired["runs"]]
        found["test_accuracy"] = spread(accuracies)
        found["train_seconds"] = spread([run["train_seconds"] for run in repaired["runs"]])
        summaries = [read_summary(Path(run["run"])) for run in repaired["runs"]]
        found |= {name: alike(summary[name] for summary in summaries) for name in ("threads", "precision")}
        found["epochs"] = [run["epochs"] for run in repaired["runs"]]
        mean = found["test_accuracy"]["mean"]
        found["figure"] = f"{mean:.2%} ({len(accuracies)} runs)" + (" of a stand-in" if seed_id == "000" else "")
        if seed_id in BARS:
            found |= {"bar": BARS[seed_id], "above_bar": mean >= BARS[seed_id]}
    return found


def _earlier() -> dict[str, Any]:
    """What was measured before, of the other articles."""
    path = RESULTS / "seeds.json"
    earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["seeds"] if path.exists() else {}
    return earlier


if __name__ == "__main__":
    main()
