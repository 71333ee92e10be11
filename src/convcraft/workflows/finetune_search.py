"""The searching part of fine-tuning: the pool's features, the candidates, and what was tried of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.augment import Augmenter
from convcraft.data.dataset import TrainingData
from convcraft.finetune.attempts import Attempt, Candidate, new_attempts
from convcraft.finetune.feature_cache import features_dir
from convcraft.finetune.features import Features, extract_features
from convcraft.finetune.map_warp import MapWarp
from convcraft.finetune.planner import Budget, Diary, Search, plan, try_fully
from convcraft.finetune.pool import Pool, make_pool
from convcraft.finetune.probe_candidates import LayersCandidate, Material, ProbeCandidate, PrototypeCandidate
from convcraft.finetune.tapped_network import InOnePiece
from convcraft.finetune.trained_candidate import Shared, TrainedCandidate
from convcraft.models.tap_points import tap_points
from convcraft.tasks.classification import Classification
from convcraft.workflows.console import data_progress
from convcraft.workflows.pretrained_start import StartNetwork
from convcraft.workflows.train import library_versions

FEW_LABELS = 5  # of the rarest class: so few and prototypes stand beside the probe
MIXTURES = (0.25, 0.5, 0.75)  # shares of the trained weights that finetune.interpolate judges as well
AUTO_MIXTURES: dict[str, tuple[float, ...]] = {"lp-ft": (0.5,)}  # what auto judges
AUTO_METHODS = ("last", "lp-ft", "full")
CHOOSING = ("auto", "probe")  # methods that choose among candidates
MOST_ROWS = {"layers": 20_000, "views": 200_000}  # images times views: beyond, features would not fit into memory
WARPED = "probe with warped maps"
VIEW_SHARE = 0.4  # of a budget, at most this goes into views of the images


class Tuning:
    """One fine-tuning run: its pool, features and candidates.

    said: the lines of the plan, as they were printed.
    """

    def __init__(
        self,
        config: RunConfig,
        run: Path,
        data: TrainingData,
        network: StartNetwork,
        task: Classification,
        budget: Budget,
        console: Console,
    ) -> None:
        self.config, self.run, self.data, self.network, self.task = config, run, data, network, task
        self.budget, self.console = budget, console
        self.said: list[str] = []
        self.pool = make_pool(data, config)
        self.say(describe_pool(self.pool))
        diary = Diary(run)
        budget.earlier = diary.spent_seconds
        self.search = Search(self.pool, len(data.classes), run, budget, diary, self.say)
        self.passes = network.pass_seconds(config.training, trains=config.finetune.method != "probe")
        self.features = self._extract(self._num_views())
        self.material = Material(
            self.features,
            self.pool.images.targets,
            self.pool.groups,
            len(data.classes),
            network.copy,
            config.training.seed,
            None if task.class_weights is None else task.class_weights.numpy(),
        )

    def say(self, line: str) -> None:
        """A line of the plan: on the console, and in the run's record."""
        self.said.append(line)
        self.console.print(line, highlight=False, markup=False)

    @property
    def chooses(self) -> bool:
        """Whether several candidates are compared, so that a choice is to be judged."""
        return self.config.finetune.method in CHOOSING or self.config.finetune.interpolate

    def attempts(self) -> list[Attempt]:
        """Everything that is tried; the plain probe first."""
        method = self.config.finetune.method
        if not self.pool.rounds:  # nothing can be judged: class means need no penalty and no stopping
            self.say("one image or group of copies per class: class means, whatever the method")
            return new_attempts(PrototypeCandidate(self.material), self.pool, len(self.data.classes))
        probe = ProbeCandidate(self.material, self.features.last[:1])
        if method in CHOOSING:
            trained = self._trained(AUTO_METHODS) if method == "auto" else []
            return plan(self.search, [probe, *self._more_probes()], trained)
        return try_fully(self.search, probe) + try_fully(self.search, self._trained((method,))[0])

    def selectable(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Those that the result may be chosen from: all, or the variants of the method that was asked for."""
        asked = attempts if self.config.finetune.method in CHOOSING or not self.pool.rounds else attempts[1:]
        return list(asked)

    # --- features ---

    def _num_views(self) -> int:
        """Views of each image that probes learn from: as asked, unless time or memory do not hold them."""
        if self.config.finetune.method not in CHOOSING:
            return 0
        asked, num_images = self.config.finetune.views, len(self.pool.images)
        affordable = VIEW_SHARE * self.budget.left / (self.passes.forward * num_images) - 1
        views = int(max(0, min(asked, affordable, MOST_ROWS["views"] // num_images - 1)))
        if views < asked:
            self.say(f"{views} instead of {asked} views of each image: more would take too much time or memory")
        return views

    def _extract(self, views: int) -> Features:
        """The pool through the network, once per view."""
        config = self.config
        wants_layers = config.finetune.method in CHOOSING
        if wants_layers and len(self.pool.images) * (views + 1) > MOST_ROWS["layers"]:
            wants_layers = False
            self.say("many layers are not read: their features would take too much memory")
        unmixed = dataclasses.replace(config.augment, mixup_alpha=0.0, cutmix_alpha=0.0)  # a view has one label
        augmenter = Augmenter(unmixed, self.data.preprocess, len(self.data.classes), config.training.seed)
        with data_progress(self.console) as progress:
            extract = partial(
                extract_features,
                self.network.model,
                self.pool.images,
                taps=tap_points(self.network.model) if wants_layers else (),
                views=views,
                augmenter=augmenter,
                cache_dir=features_dir(),
                device=config.training.device,
                progress=progress,
            )
            if not views:
                return extract()
            try:
                return extract(warp=MapWarp(seed=config.training.seed), num_warped=config.finetune.views)
            except InOnePiece as error:
                self.say(f"{WARPED}: not tried; {error.received}")
                return extract()

    # --- candidates ---

    def _more_probes(self) -> list[Candidate]:
        more: list[Candidate] = []
        if np.bincount(self.pool.images.targets, minlength=len(self.data.classes)).min() <= FEW_LABELS:
            more.append(PrototypeCandidate(self.material))
        if self.features.num_views:
            if len(self.features.warped):
                rows = np.concatenate([self.features.last[:1], self.features.warped])
                more.append(ProbeCandidate(self.material, rows, WARPED))
            more.append(ProbeCandidate(self.material, self.features.last, "probe with views"))
        if self.features.tapped:
            more.append(LayersCandidate(self.material, views=self.features.num_views > 0))
        return more

    def _trained(self, methods: Sequence[str]) -> list[TrainedCandidate]:
        config = self.config
        shared = Shared(
            run=self.run,
            config=config,
            task=self.task,
            pool=self.pool,
            material=self.material,
            facts={
                "classes": list(self.data.classes),
                "data_sha256": self.data.description["sha256"],
                "preprocess": self.data.preprocess.as_dict(),
                "versions": library_versions(),
            },
            passes=self.passes,
            console=self.console,
        )
        mixtures = AUTO_MIXTURES if config.finetune.method == "auto" else {}
        if config.finetune.interpolate:
            mixtures = dict.fromkeys(methods, MIXTURES)
        return [
            TrainedCandidate(shared, method, config.training.epochs, mixtures.get(method, ())) for method in methods
        ]


def describe_pool(pool: Pool) -> str:
    """Who learns and who judges, in a sentence."""
    if not pool.rounds:
        return f"{len(pool.images)} images, one of each class: nothing can be held back, so nothing can be proven"
    if pool.cross_fitted:
        return (
            f"{len(pool.images):,} labelled images, cross-fitted in {len(pool.rounds)} rounds, so that every image is "
            "judged by networks that never saw it; the result then learns from all of them"
        )
    return (
        f"{len(pool.rounds[0].fit):,} images to learn from, {len(pool.chooses):,} that choose, "
        f"{len(pool.proves):,} kept back for the comparison of before and after"
    )
