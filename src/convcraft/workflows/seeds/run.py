"""`convcraft seeds run`: an article's system as written, then repaired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from convcraft.errors import UserError
from convcraft.recipes.catalogue import load_recipe
from convcraft.recipes.seed_000 import IMAGENET_MEAN, IMAGENET_STD
from convcraft.workflows.seeds import by_hand, imagenet_resnet, save_and_fine_tune
from convcraft.workflows.seeds.catalogue import Seed, diagnose_seed, find_seed
from convcraft.workflows.seeds.listings import write_listings
from convcraft.workflows.seeds.options import RunOptions
from convcraft.workflows.seeds.program import Diagnosis
from convcraft.workflows.seeds.repeat import SeedRun, accuracy_spread, name_by_content, train_over_seeds
from convcraft.workflows.seeds.reproduce import Reproduction, reproduce


@dataclass(frozen=True)
class Examination:
    """An article as written: what is wrong, found without a training step, and what its lines raise when run."""

    seed: Seed
    diagnoses: list[Diagnosis]
    reproductions: list[Reproduction]

    def to_dict(self) -> dict[str, Any]:
        return {
            "diagnoses": [diagnosis.to_dict() for diagnosis in self.diagnoses],
            "reproduced": [reproduction.to_dict() for reproduction in self.reproductions],
        }


@dataclass(frozen=True)
class Repair:
    """An article's repaired system, as it was run here.

    what: in words; says so where it is not the article's own system.
    facts: further results by name, for people and for JSON.
    files: pictures and listings that were written.
    """

    seed: Seed
    what: str
    runs: list[SeedRun] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        spread = accuracy_spread(self.runs) if self.runs else None
        return {
            "what": self.what,
            "claim": self.seed.claim,
            "test_accuracy": None if spread is None else spread.mean,
            "test_accuracy_std": None if spread is None else spread.std,
            "runs": [run.to_dict() for run in self.runs],
            "facts": self.facts,
            "notes": list(self.notes),
            "files": [str(path) for path in self.files],
        }


def examine_seed(seed_id: str) -> Examination:
    """Diagnose an article's program, and let its failing lines fail.

    Raises:
        UserError: no such article.
    """
    return Examination(find_seed(seed_id), diagnose_seed(seed_id), reproduce(seed_id))


def repair_seed(seed_id: str, options: RunOptions, console: Console) -> Repair:
    """Run an article's repaired system, over several seeds where it is trained.

    Everything lands in options.out / seed_id: listings as written and repaired, run folders, pictures. What is finished
    there is not done again.

    Raises:
        UserError: unknown article, data or weights that are not there or do not fit.
        Interrupted: a signal came; the state is saved, and the same command goes on.
    """
    seed = find_seed(seed_id)
    out = options.out / (f"{seed_id}-quick" if options.quick else seed_id)
    out.mkdir(parents=True, exist_ok=True)
    listings, kept = write_listings(seed_id, out)
    functions: dict[str, Callable[[Seed, RunOptions, Path, Console], Repair]] = {
        "000": _repair_000,
        "001": _repair_plain,
        "002": _repair_002,
        "003": _repair_003,
        "004": _repair_004,
    }
    made = functions[seed_id](seed, options, out, console)
    return Repair(made.seed, made.what, made.runs, made.facts, (*kept, *made.notes), (*listings, *made.files))


def _repair_plain(seed: Seed, options: RunOptions, out: Path, console: Console) -> Repair:
    assert seed.recipe is not None
    if options.weights is not None:
        fix = "Leave --weights out."
        raise UserError(f"--weights for seed {seed.id}", "no weights: it starts from random values", fix)
    config = options.applied_to(load_recipe(seed.recipe))
    runs = train_over_seeds(config, options.num_runs, out, console)
    return Repair(seed, f"recipe {seed.recipe}: {seed.builds} on {seed.data}", runs)


def _repair_000(seed: Seed, options: RunOptions, out: Path, console: Console) -> Repair:
    config = load_recipe(str(seed.recipe))
    if options.weights is not None:
        config = options.applied_to(config.changed(model={"weights": str(options.weights)}))
        runs = train_over_seeds(config, options.num_runs, out / name_by_content(options.weights), console)
        what = f"recipe {seed.recipe}: ResNet-50 from {options.weights.name}, fine-tuned on CIFAR-10 at 224 pixels"
        return Repair(seed, what, runs)
    stand_in = imagenet_resnet.choose_stand_in(config, options)
    runs = train_over_seeds(stand_in.config, 1, out / stand_in.folder, console)
    notes = (*_one_run(options, "the stand-in"), *imagenet_resnet.how_to_get_weights())
    return Repair(seed, stand_in.what, runs, notes=notes)


def _repair_002(seed: Seed, options: RunOptions, out: Path, console: Console) -> Repair:
    facts, files = by_hand.demonstrate(out, options.data_dir)
    return Repair(
        seed, "convolution with stride, padding, dilation, channels, groups and batches", [], facts, (), files
    )


def _repair_003(seed: Seed, options: RunOptions, out: Path, console: Console) -> Repair:
    config = load_recipe(str(seed.recipe))
    what = f"recipe {seed.recipe}: ResNet-18 with ten outputs, all of it trained from random values"
    if options.weights is not None:
        preprocess = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        weights = {"weights": str(options.weights)}
        config, out = config.changed(model=weights, preprocess=preprocess), out / name_by_content(options.weights)
        what = f"ResNet-18 as torchvision has it, from {options.weights.name}, all of it trained"
    runs = train_over_seeds(options.applied_to(config), options.num_runs, out, console)
    note = (
        "the article's text says that only the top layer is trained, its code trains everything; so does this recipe, "
        "as random features with a trained top would stay far below"
    )
    return Repair(seed, what, runs, notes=() if options.weights is not None else (note,))


def _repair_004(seed: Seed, options: RunOptions, out: Path, console: Console) -> Repair:
    if options.weights is not None:
        what = f"the article's network with the weights of {options.weights.name}, judged on MNIST's test images"
        runs, facts = save_and_fine_tune.judge_keras_file(options, out, console)
        return Repair(seed, what, runs, facts, _one_run(options, "a file to be judged"))
    repair = _repair_plain(seed, options, out, console)
    facts = {f"seed {run.seed}": save_and_fine_tune.follow_up(run.run, options, console) for run in repair.runs}
    return Repair(seed, repair.what, repair.runs, facts)


def _one_run(options: RunOptions, what: str) -> tuple[str, ...]:
    """Said where --seeds asks for several runs and one is made."""
    return () if options.num_runs == 1 else (f"{what} is run once, with seed 0: --seeds {options.seeds} has no effect",)
