"""Settings of a run: one frozen dataclass per stage, checked when built, saved as YAML.

The defaults are a sound start for small images; recipes (`convcraft.recipes`) hold complete, measured configurations.
`RunConfig.load(run / "config.yaml")` gives back exactly what a run was made with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from convcraft.errors import UserError

T = TypeVar("T")

RESIZES = ("stretch", "crop", "pad")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
TRAIN_DECODERS = ("contract", "fast", "auto")
OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")
MUON_SCALES = ("rms", "relative")
SCHEDULES = ("constant", "step", "cosine", "one_cycle", "plateau")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
COMPILE_CHOICES = ("off", "auto", "on")
ON_OR_OFF = {"training.compile"}  # settings whose words on and off YAML 1.1 reads as truth values
ENGINES = ("torch", "numpy")
LOSSES = ("cross_entropy", "bce", "mse", "nll")
CLASS_WEIGHTS = ("none", "balanced")
FLIP_MODES = ("random", "alternate")
POLICIES = ("none", "trivial_augment", "rand_augment")
LOG_SCHEDULES = ("even", "gradual")
TRACKERS = ("tensorboard", "wandb", "mlflow")
SELECTIONS = ("best", "last")
METHODS = ("none", "auto", "probe", "head", "last", "full", "gradual", "lp-ft", "norm", "bias", "lora")
ATTACKS = ("none", "fgsm", "pgd")


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"{name} is {value!r}", expected, f"Set {name} to {expected}.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, value, "one of " + ", ".join(choices))


def _check_range(name: str, value: float, low: float, high: float) -> None:
    _check(low <= value <= high, name, value, f"a number from {low:g} to {high:g}")


def _check_rising(name: str, value: tuple[float, ...], low: float, high: float) -> None:
    rising = len(value) == 2 and low <= value[0] <= value[1] <= high
    _check(rising, name, value, f"two rising numbers in {low:g}..{high:g}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are split."""

    source: str = "digits"  # a folder, a CSV/Parquet file, a folder of IDX files, or a named set
    data_dir: str | None = None  # where named sets are looked for first
    image_column: str | None = None  # CSV/Parquet: column of paths or bytes; None finds it
    label_column: str | None = None
    val_fraction: float = 0.1  # share of train that becomes val where the data brings no val
    test_fraction: float = 0.2  # share of everything that becomes test where the data brings no test
    test_split: str | None = None  # name of the split that serves as test ("val" for hymenoptera)
    split_seed: int = 0  # not the training seed: runs with other seeds keep the same test images
    labels_per_class: int | None = None  # keep only so many labelled train images of each class
    drop_leaks: bool = False  # remove train images that have a near copy in val or test
    allow_bad: bool = False  # go on although over 1 % of the files cannot be used
    final: bool = False  # train on train + val: no selection is possible, the last weights are the result
    memory_megabytes: int = 2048  # sets that decode to less stay in memory; larger ones stream
    num_workers: int = 2  # processes that decode when streaming
    train_decoder: str = "auto"  # of streamed train images: contract; fast, with slightly other pixels; auto

    def __post_init__(self) -> None:
        _check(bool(self.source), "data.source", self.source, "a path or the name of a data set")
        _check_range("data.val_fraction", self.val_fraction, 0.0, 0.9)
        _check_range("data.test_fraction", self.test_fraction, 0.0, 0.9)
        _check(
            self.labels_per_class is None or self.labels_per_class > 0,
            "data.labels_per_class",
            self.labels_per_class,
            "a whole number of at least 1",
        )
        _check_range("data.num_workers", self.num_workers, 0, 256)
        _check_choice("data.train_decoder", self.train_decoder, TRAIN_DECODERS)
        _check_range("data.memory_megabytes", self.memory_megabytes, 0, 1 << 24)


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What is asked of preprocessing; None is answered by the data (size, channels, mean, std of train)."""

    image_size: tuple[int, int] | None = None  # height, width in pixels
    channels: int | None = None  # 1 or 3
    resize: str = "crop"  # stretch: ignore aspect; crop: shorter side, centre crop; pad: longer side, pad with black
    interpolation: str = "bilinear"
    crop_fraction: float = 1.0  # crop: the shorter side is resized to image_size / crop_fraction
    mean: tuple[float, ...] | None = None  # per channel, of pixels in 0..1
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_choice("preprocess.resize", self.resize, RESIZES)
        _check_choice("preprocess.interpolation", self.interpolation, INTERPOLATIONS)
        _check(self.channels in (None, 1, 3), "preprocess.channels", self.channels, "1 (grey) or 3 (RGB)")
        _check(
            self.image_size is None or (len(self.image_size) == 2 and all(1 <= s <= 4096 for s in self.image_size)),
            "preprocess.image_size",
            self.image_size,
            "height and width from 1 to 4096 pixels",
        )
        _check(0.1 <= self.crop_fraction <= 1.0, "preprocess.crop_fraction", self.crop_fraction, "a number in 0.1..1")
        _check(
            self.std is None or all(s > 0 for s in self.std),
            "preprocess.std",
            self.std,
            "numbers above 0, one per channel",
        )
        _check(
            (self.mean is None) == (self.std is None),
            "preprocess.mean and preprocess.std",
            (self.mean, self.std),
            "both given or both left out",
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Random changes to train images; every draw is a function of (seed, epoch, sample) alone."""

    crop_padding_pixels: int = 0  # pad by so much with black, cut a random window of the first size
    horizontal_flip: bool = False  # mirrors half of the images: never for digits, letters, left/right hands
    vertical_flip: bool = False
    shift_fraction: float = 0.0  # moves by up to this share of height and width
    rotation_degrees: float = 0.0  # turns by up to so much either way
    scale_range: tuple[float, float] = (1.0, 1.0)  # zoom drawn from this range; 1.1 shows the object 10 % larger
    brightness: float = 0.0  # multiplies by 1 ± this
    contrast: float = 0.0  # multiplies the distance from the image's mean by 1 ± this
    erasing_probability: float = 0.0  # share of images of which a rectangle is blanked (Zhong et al. 2017)
    mixup_alpha: float = 0.0  # Beta(alpha, alpha) mixing of image pairs and labels (Zhang et al. 2018); 0 is off
    flip_mode: str = "random"  # alternate: mirrored every other epoch, the first time by chance (Jordan 2024)
    shear_degrees: float = 0.0  # leans by up to so much to either side
    crop_area_range: tuple[float, float] = (1.0, 1.0)  # share of the area that a window keeps (Szegedy et al. 2015)
    crop_aspect_range: tuple[float, float] = (0.75, 1.3333)  # width / height of that window, in pixels
    saturation: float = 0.0  # multiplies the distance from grey by 1 ± this
    hue: float = 0.0  # turns the colour circle by up to this share of a full turn either way
    noise_std: float = 0.0  # standard deviation of Gaussian noise, of pixels in 0..1
    policy: str = "none"  # one or more of 14 operations per image, drawn anew each time
    policy_operations: int = 2  # rand_augment: operations per image, one after the other
    policy_strength: int = 9  # rand_augment: strength of each, 0..30
    cutmix_alpha: float = 0.0  # Beta(alpha, alpha) share that stays of an image (Yun et al. 2019); 0 is off

    def __post_init__(self) -> None:
        _check_range("augment.crop_padding_pixels", self.crop_padding_pixels, 0, 512)
        _check_range("augment.shift_fraction", self.shift_fraction, 0.0, 1.0)
        _check_range("augment.rotation_degrees", self.rotation_degrees, 0.0, 180.0)
        _check_rising("augment.scale_range", self.scale_range, 0.1, 10.0)
        _check_range("augment.brightness", self.brightness, 0.0, 1.0)
        _check_range("augment.contrast", self.contrast, 0.0, 1.0)
        _check_range("augment.erasing_probability", self.erasing_probability, 0.0, 1.0)
        _check_range("augment.mixup_alpha", self.mixup_alpha, 0.0, 10.0)
        _check_choice("augment.flip_mode", self.flip_mode, FLIP_MODES)
        _check_range("augment.shear_degrees", self.shear_degrees, 0.0, 60.0)
        _check_rising("augment.crop_area_range", self.crop_area_range, 0.01, 1.0)
        _check_rising("augment.crop_aspect_range", self.crop_aspect_range, 0.1, 10.0)
        _check_range("augment.saturation", self.saturation, 0.0, 1.0)
        _check_range("augment.hue", self.hue, 0.0, 0.5)
        _check_range("augment.noise_std", self.noise_std, 0.0, 1.0)
        _check_choice("augment.policy", self.policy, POLICIES)
        _check_range("augment.policy_operations", self.policy_operations, 1, 8)
        _check_range("augment.policy_strength", self.policy_strength, 0, 30)
        _check_range("augment.cutmix_alpha", self.cutmix_alpha, 0.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    name: str = "lenet5"  # one of ours (`convcraft.models.build.OWN_MODELS`) or any timm name
    dropout: float = 0.0
    weights: str | None = None  # a file with starting weights: .safetensors, .pt, .pth, Keras
    freeze: tuple[str, ...] = ()  # modules that training leaves as they are, e.g. [conv1, layer1]
    args: dict[str, Any] = field(default_factory=dict)  # further arguments of a timm model, e.g. pad_type: same
    tapped_layers: tuple[str, ...] = ()  # layers whose pooled outputs the classifier reads as well (Head2Toe)
    num_tapped_features: int = 0  # how many of these numbers it reads
    pruned: dict[str, Any] = field(default_factory=dict)  # layers that pruning cut: path -> [out, in]; []: left out

    def __post_init__(self) -> None:
        _check(bool(self.name), "model.name", self.name, "the name of a network")
        sizes = [size for layer in self.pruned.values() for size in (layer if isinstance(layer, list) else [layer])]
        plain = all(type(size) is int and size >= 1 for size in sizes)
        _check(plain, "model.pruned", self.pruned, "a list of channels for each layer, such as [8, 16]")
        _check(0.0 <= self.dropout < 1.0, "model.dropout", self.dropout, "a number in 0..1, 1 excluded")
        _check(
            (self.num_tapped_features > 0) == bool(self.tapped_layers),
            "model.num_tapped_features",
            self.num_tapped_features,
            "above 0 where model.tapped_layers names layers, else 0",
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move. Norms and biases never get weight decay."""

    name: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    momentum: float = 0.9  # SGD, RMSprop and Muon
    nesterov: bool = True  # SGD and Muon
    betas: tuple[float, float] = (0.9, 0.999)  # Adam and AdamW
    epsilon: float = 1e-8
    muon_scale: str = "rms"  # Muon's updates: as large as AdamW's, or relative to weights that keep their length
    other: str = "adamw"  # Muon: what moves all but the hidden layers, adamw or sgd
    other_learning_rate: float | None = None  # its rate; None: optim.learning_rate. The schedule moves both

    def __post_init__(self) -> None:
        _check_choice("optim.name", self.name, OPTIMIZERS)
        _check_choice("optim.muon_scale", self.muon_scale, MUON_SCALES)
        _check_choice("optim.other", self.other, ("adamw", "sgd"))
        _check(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "a number above 0")
        _check(
            self.other_learning_rate is None or self.other_learning_rate > 0,
            "optim.other_learning_rate",
            self.other_learning_rate,
            "a number above 0",
        )
        _check(self.epsilon > 0, "optim.epsilon", self.epsilon, "a number above 0")
        _check(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "a number of at least 0")
        _check(0 <= self.momentum < 1, "optim.momentum", self.momentum, "a number in 0..1, 1 excluded")
        _check(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            self.betas,
            "two numbers in 0..1, 1 excluded",
        )
        _check(
            not (
                (self.name == "sgd" or (self.name, self.other) == ("muon", "sgd"))
                and self.nesterov
                and self.momentum == 0
            ),
            "optim.nesterov",
            self.nesterov,
            "false where optim.momentum is 0",
        )


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves, step by step, as a factor of `optim.learning_rate`."""

    name: str = "cosine"
    warmup_epochs: float = 0.0  # linear from 0 (constant, step, cosine, plateau)
    final_fraction: float = 0.0  # cosine and one_cycle end at learning_rate times this
    step_epochs: tuple[float, ...] = ()  # step: epochs at which the rate is multiplied by step_factor
    step_factor: float = 0.1  # step and plateau
    peak_fraction: float = 0.25  # one_cycle: share of the run at which the peak is reached
    start_fraction: float = 0.04  # one_cycle starts at learning_rate times this
    plateau_patience_epochs: int = 3  # plateau: epochs without a better validation loss before the rate falls

    def __post_init__(self) -> None:
        _check_choice("schedule.name", self.name, SCHEDULES)
        _check(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "a number of at least 0")
        _check_range("schedule.final_fraction", self.final_fraction, 0.0, 1.0)
        _check_range("schedule.start_fraction", self.start_fraction, 0.0, 1.0)
        _check(0 < self.peak_fraction < 1, "schedule.peak_fraction", self.peak_fraction, "a number between 0 and 1")
        _check(0 < self.step_factor < 1, "schedule.step_factor", self.step_factor, "a number between 0 and 1")
        _check_range("schedule.plateau_patience_epochs", self.plateau_patience_epochs, 0, 10_000)
        _check(
            list(self.step_epochs) == sorted(self.step_epochs),
            "schedule.step_epochs",
            self.step_epochs,
            "epochs in rising order",
        )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The loop."""

    epochs: int = 10  # 0 keeps the starting weights: to evaluate a pretrained network as it is
    batch_size: int = 128  # images per forward pass; the optimiser sees batch_size * accumulation_steps
    accumulation_steps: int = 1
    precision: str = "auto"  # bf16-mixed where the hardware computes in it, else 32-true; 16-mixed on CUDA alone
    compile: str = "off"  # torch.compile for the training passes; auto: in runs on CUDA long enough to earn it back
    channels_last: bool = True
    loss: str = "cross_entropy"  # from logits; bce: one sigmoid per class; mse: logits against 0 and 1; nll: the first
    label_smoothing: float = 0.0
    class_weights: str = "none"  # balanced: inverse class frequency, mean 1 over the train images
    gradient_clip_norm: float | None = None
    ema_decay: float | None = None  # keep a moving average of the weights and use it for validation and the result
    early_stopping_epochs: int | None = None  # stop after so many epochs without a better validation accuracy
    select: str = "best"  # which weights are the result: best on validation, or last
    checkpoint_seconds: float = 60.0  # loss of work is at most this
    keep_checkpoints: int = 3
    log_every_steps: int = 10
    log_schedule: str = "even"  # gradual: every step at first, then ever rarer, up to log_every_steps
    trackers: tuple[str, ...] = ("tensorboard",)  # beside metrics.jsonl; none, one or more
    eval_batch_size: int = 512
    seed: int = 0
    device: str = "auto"
    engine: str = "torch"  # what computes; numpy: convcraft.scratch, on the CPU in float32

    def __post_init__(self) -> None:
        _check_choice("training.engine", self.engine, ENGINES)
        _check(self.epochs >= 0, "training.epochs", self.epochs, "a whole number of at least 0")
        for name in ("batch_size", "accumulation_steps", "keep_checkpoints", "log_every_steps"):
            _check(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "a whole number of at least 1")
        _check(self.eval_batch_size >= 1, "training.eval_batch_size", self.eval_batch_size, "at least 1")
        _check_choice("training.precision", self.precision, PRECISIONS)
        _check_choice("training.compile", self.compile, COMPILE_CHOICES)
        _check_choice("training.loss", self.loss, LOSSES)
        _check_choice("training.class_weights", self.class_weights, CLASS_WEIGHTS)
        _check_choice("training.log_schedule", self.log_schedule, LOG_SCHEDULES)
        for tracker in self.trackers:
            _check_choice("training.trackers", tracker, TRACKERS)
        once = len(set(self.trackers)) == len(self.trackers)
        _check(once, "training.trackers", self.trackers, "a list in which each tracker stands once")
        _check_choice("training.select", self.select, SELECTIONS)
        _check_range("training.label_smoothing", self.label_smoothing, 0.0, 0.9)
        _check(
            self.gradient_clip_norm is None or self.gradient_clip_norm > 0,
            "training.gradient_clip_norm",
            self.gradient_clip_norm,
            "a number above 0",
        )
        _check(
            self.ema_decay is None or 0 < self.ema_decay < 1,
            "training.ema_decay",
            self.ema_decay,
            "a number between 0 and 1",
        )
        _check(
            self.early_stopping_epochs is None or self.early_stopping_epochs >= 1,
            "training.early_stopping_epochs",
            self.early_stopping_epochs,
            "a whole number of at least 1",
        )
        _check(self.checkpoint_seconds >= 0, "training.checkpoint_seconds", self.checkpoint_seconds, "at least 0")
        _check_range("training.seed", self.seed, 0, 2**31 - 1)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """What fine-tuning does with a pretrained network."""

    method: str = "none"  # none: plain training; auto: a planner chooses among the others under the budget
    rate_by_method: bool = True  # optim.learning_rate is that of a new classifier; methods that move more take less
    budget_seconds: float | None = None  # auto: whole fine-tuning may take so long; None: as long as it needs
    layer_decay: float = 1.0  # learning rate of each stage below the head, as a multiple of the stage above
    unfreeze_epochs: float = 1.0  # gradual: one more stage learns after so many epochs
    lora_rank: int = 8  # lora: columns of the low-rank change of a layer
    lora_budget: float | None = None  # lora: largest share of the network's parameters that may be trained
    train_statistics: bool = False  # False: batch norm keeps the pretrained means and variances
    l2_sp: float = 0.0  # pulls weights towards where they started (Li et al. 2018)
    attack: str = "none"  # adversarial training: fgsm or pgd
    attack_epsilon: float = 8 / 255  # largest change of a pixel in 0..1
    attack_steps: int = 3  # pgd
    interpolate: bool = False  # mixes the result with the starting weights where validation gains (WiSE-FT)
    num_models: int = 1  # trains so many with other seeds and keeps the mean of their weights
    views: int = 2  # augmented views of each image that are cached for frozen layers, beside the image itself
    proof_fraction: float = 0.1  # share of train that is kept back for the comparison of before and after
    cross_fit_below: int = 1500  # smaller sets are cross-fitted: every image is predicted by networks that never saw it
    num_folds: int = 3  # of that cross-fitting

    def __post_init__(self) -> None:
        _check_choice("finetune.method", self.method, METHODS)
        _check_choice("finetune.attack", self.attack, ATTACKS)
        _check(
            self.budget_seconds is None or self.budget_seconds > 0,
            "finetune.budget_seconds",
            self.budget_seconds,
            "a number above 0",
        )
        _check(0 < self.layer_decay <= 1, "finetune.layer_decay", self.layer_decay, "a number above 0 and up to 1")
        _check(self.unfreeze_epochs > 0, "finetune.unfreeze_epochs", self.unfreeze_epochs, "a number above 0")
        _check_range("finetune.lora_rank", self.lora_rank, 1, 4096)
        _check(
            self.lora_budget is None or 0 < self.lora_budget <= 1,
            "finetune.lora_budget",
            self.lora_budget,
            "a number above 0 and up to 1",
        )
        _check(self.l2_sp >= 0, "finetune.l2_sp", self.l2_sp, "a number of at least 0")
        _check_range("finetune.attack_epsilon", self.attack_epsilon, 0.0, 1.0)
        _check_range("finetune.attack_steps", self.attack_steps, 1, 1000)
        _check_range("finetune.num_models", self.num_models, 1, 100)
        _check_range("finetune.views", self.views, 0, 1000)
        _check_range("finetune.proof_fraction", self.proof_fraction, 0.0, 0.5)
        _check_range("finetune.cross_fit_below", self.cross_fit_below, 0, 1_000_000)
        _check_range("finetune.num_folds", self.num_folds, 2, 20)


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """How a run was made smaller from another one."""

    source: str | None = None  # the run that it was made from; None: it was not
    weights: str | None = None  # that the source began with, and these weights with it; None: with random numbers
    prune: float | None = None  # share of the multiply-adds to remove, in whole channels and blocks
    largest_cut: float = 0.8  # of the channels of a layer that stays
    channel_multiple: int = 8  # channels that stay in a wide layer: processors work on so many at once
    thinning_worth: float = 0.15  # of a multiply-add saved in a thinned layer, beside 1 for one of a block left out
    importance_images: int = 1000  # train images by which importance is measured
    sparsity: float | None = None  # share of the weights that end as zero
    sparsify_until: float = 0.7  # share of the training after which no further weight is set to zero
    int8: bool = False  # learn on with weights and maps rounded as int8 exports round them
    int8_from: float = 0.0  # share of the epochs after which they are rounded
    distil: bool = False  # learn from what the source says of every augmented image, too
    temperature: float = 4.0  # softens both sides' answers
    distil_weight: float = 0.9  # share of the loss that is the source's answers; the rest is the labels
    slice_columns: tuple[str, ...] = ()  # of the table: the gate judges each of their values beside the classes
    class_groups: dict[str, Any] = field(default_factory=dict)  # the gate judges them, too: name -> [class, class]

    def __post_init__(self) -> None:
        for name in ("prune", "sparsity"):
            value = getattr(self, name)
            _check(value is None or 0 < value < 1, f"compress.{name}", value, "a number between 0 and 1")
        _check(0 < self.largest_cut < 1, "compress.largest_cut", self.largest_cut, "a number between 0 and 1")
        _check_range("compress.channel_multiple", self.channel_multiple, 1, 1024)
        _check(0 < self.thinning_worth <= 1, "compress.thinning_worth", self.thinning_worth, "a number in 0..1, not 0")
        _check_range("compress.importance_images", self.importance_images, 1, 1_000_000)
        _check(0 < self.sparsify_until <= 1, "compress.sparsify_until", self.sparsify_until, "a number in 0..1, not 0")
        _check(0 <= self.int8_from < 1, "compress.int8_from", self.int8_from, "a number in 0..1, not 1")
        _check(self.temperature > 0, "compress.temperature", self.temperature, "a number above 0")
        _check(0 < self.distil_weight <= 1, "compress.distil_weight", self.distil_weight, "a number in 0..1, not 0")
        named = all(
            isinstance(members, list) and members and all(isinstance(member, str) for member in members)
            for members in self.class_groups.values()
        )
        _check(named, "compress.class_groups", self.class_groups, "a list of names for each group: {round: ['0', '6']}")
        made = self.prune is not None or self.sparsity is not None or self.distil or self.int8
        _check(made == (self.source is not None), "compress.source", self.source, "the run that is made smaller")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that makes a run; the saved file reproduces it."""

    recipe: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    compress: CompressConfig = field(default_factory=CompressConfig)

    @property
    def command(self) -> str:
        """The command that makes such a run."""
        if self.compress.source is not None:
            return "compress"
        return "train" if self.finetune.method == "none" else "finetune"

    @property
    def first_weights(self) -> str | None:
        """The weights of others that the result goes back to, by whatever runs it was made from; None: random ones."""
        return self.model.weights or self.compress.weights

    def __post_init__(self) -> None:
        if self.data.final:
            fixed = self.training.early_stopping_epochs is None and self.schedule.name != "plateau"
            _check(
                fixed and self.training.select == "last",
                "data.final",
                True,
                "a fixed schedule with training.select: last (there is no validation part to select on)",
            )
        if self.compress.int8:  # the last step puts weights on the grid: they must be the result
            training = self.training
            last = training.select == "last" and training.ema_decay is None and training.early_stopping_epochs is None
            _check(
                last and training.epochs > 0 and training.compile == "off",
                "compress.int8",
                True,
                "training.epochs above 0, select: last, compile: off, and neither ema_decay nor early_stopping_epochs",
            )

    def changed(self, **changes: Any) -> RunConfig:
        """The same settings with some replaced; `data=`, `training=` ... take dicts of fields. None leaves a field."""
        new: dict[str, Any] = {}
        for section, value in changes.items():
            if isinstance(value, dict):
                given = {name: item for name, item in value.items() if item is not None}
                new[section] = dataclasses.replace(getattr(self, section), **given)
            elif value is not None:
                new[section] = value
        return dataclasses.replace(self, **new)

    def to_dict(self) -> dict[str, Any]:
        return _plain(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, values: object) -> RunConfig:
        return _build(cls, values, "")

    def save(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Read a saved configuration.

        Raises:
            UserError: no such file, not YAML, an unknown key (the nearest valid name is given) or a value out of range.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}", "a readable configuration file", "Check the path.") from error
        try:
            values = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UserError(f"{path}: {error}", "a YAML file", "Correct the line named above.") from error
        return cls.from_dict(values)


def _plain(value: Any) -> Any:
    """Tuples as lists, so that YAML and JSON need no tags."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _build(cls: type[T], values: object, where: str) -> T:
    """A dataclass from plain values; unknown keys fail with the nearest valid name."""
    if not isinstance(values, dict):
        raise UserError(f"{where or 'the configuration'} is {values!r}", "a mapping of settings", "See the docs.")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            fix = f"Did you mean {where}{near[0]}?" if near else f"Remove it; valid: {', '.join(hints)}."
            raise UserError(f"unknown setting {where}{key}", "a known setting", fix)
    return cls(**{key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check a plain value against a type hint and give it that type."""
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{where}.")
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    origin = typing.get_origin(hint)
    if origin is tuple:
        _check(isinstance(value, (list, tuple)), where, value, "a list")
        item_hint = typing.get_args(hint)[0]
        return tuple(_convert(item_hint, item, where) for item in value)
    if origin is dict:
        _check(isinstance(value, dict), where, value, "a mapping")
        return dict(value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # YAML 1.1 reads 1e-3 as text; what is no number fails below
            return float(value)
    if where in ON_OR_OFF and isinstance(value, bool):
        return "on" if value else "off"
    _check(type(value) is hint, where, value, f"a value of type {hint.__name__}")
    return value
