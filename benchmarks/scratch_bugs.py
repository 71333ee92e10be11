"""Claim: the gradient checker names every planted bug, in each layer, loss and optimiser, without false alarms.

    python benchmarks/scratch_bugs.py [--seeds 20]

The bugs are those of tests/scratch_planted_bugs.py, with the words that must name each. Sound are the engine's own
layers, losses, optimisers and blocks, checked with other numbers for every seed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measured_on import hardware, versions, write_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from scratch_planted_bugs import LAYER_BUGS, LOSS_BUGS, OPTIMIZER_BUGS
from test_scratch_gradcheck import SOUND

from convcraft.scratch import optim
from convcraft.scratch.gradcheck import check_gradients, check_loss
from convcraft.scratch.optimizer_check import check_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    bugs = [
        *(entry(layer, check_gradients(layer, input).lines(), words) for layer, input, words in LAYER_BUGS),
        *(entry(loss, check_loss(loss, input, target).lines(), words) for loss, input, target, words in LOSS_BUGS),
        *(entry(kind, [check_optimizer(kind).line()], words) for kind, words in OPTIMIZER_BUGS),
    ]
    reports = [
        check_gradients(make(), np.random.default_rng(seed).standard_normal(shape), seed)
        for make, shape in SOUND
        for seed in range(options.seeds)
    ]
    sound = [report.passed for report in reports]
    sound += [check_optimizer(kind).passed for kind in (optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW)]
    caught, named = (sum(bug[what] for bug in bugs) for what in ("caught", "named"))
    print(
        f"{caught} of {len(bugs)} bugs caught, {named} named; {sound.count(False)} of {len(sound)} sound called wrong"
    )
    write_result(
        "scratch_bugs",
        {
            "claim": "every planted bug is caught and named, nothing sound is called wrong",
            "planted": len(bugs),
            "caught": caught,
            "named": named,
            "sound_checks": len(sound),
            "false_alarms": sound.count(False),
            "met": caught == named == len(bugs) and all(sound),
            "bugs": bugs,
            "seeds": options.seeds,
            "hardware": hardware(),
            "versions": versions("convcraft", "numpy"),
        },
    )


def entry(bug: Any, lines: list[str], words: str) -> dict[str, Any]:
    """What the checker said of one bug."""
    said = " | ".join(line for line in lines if " right " not in line)
    name = bug.__name__ if isinstance(bug, type) else type(bug).__name__
    return {"bug": name, "caught": bool(said), "named": words in said, "said": " ".join(said.split())}


if __name__ == "__main__":
    main()
