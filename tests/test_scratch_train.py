"""Training in NumPy: the numbers of torch's training, exact resumes, refusals, and a run folder for all commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import BASE, QUIET, TRAIN, VAL, files_of, stop_after, trainer_for
from torch import Tensor

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.data.named import read_digits
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.scratch import parallel
from convcraft.tasks.classification import Classification
from convcraft.training.checkpoint import CHECKPOINTS, load_newest
from convcraft.training.freeze import freeze
from convcraft.training.loop import fit
from convcraft.training.metrics_log import read_metrics
from convcraft.training.random_state import seed_all
from convcraft.training.run_folder import read_run
from convcraft.training.stops import Interrupted, NonFinite
from convcraft.workflows.choose_config import choose_config
from convcraft.workflows.finetune import finetune
from convcraft.workflows.load_model import build_network
from convcraft.workflows.lr_range import find_learning_rate
from convcraft.workflows.scratch.loss import NumpyLoss, num_correct
from convcraft.workflows.scratch.networks import TWINS, held_modules, named_modules, numpy_network
from convcraft.workflows.scratch.train import DEFAULT_RECIPE, train_in_numpy
from convcraft.workflows.scratch.trainer import NumpyTrainer, check_numpy, numpy_threads, prepare_numpy_trainer
from convcraft.workflows.train import train

DIGITS = RunConfig().changed(
    data={"source": "digits"},
    model={"name": "lenet5", "dropout": 0.1},
    training={"epochs": 2, "batch_size": 64, "checkpoint_seconds": 1000.0, "engine": "numpy", "trackers": ()},
)
SETTINGS = {
    "adamw, dropout": {},
    "ema, accumulation, clipping": {
        "training": {"ema_decay": 0.9, "accumulation_steps": 2, "gradient_clip_norm": 0.5},
    },
    "sgd, plateau, bce": {
        "optim": {"name": "sgd", "learning_rate": 0.05},
        "schedule": {"name": "plateau", "plateau_patience_epochs": 0},
        "training": {"loss": "bce"},
    },
    "batch norm, mixup, rmsprop": {
        "model": {"name": "resnet20_cifar"},
        "augment": {"mixup_alpha": 0.4},
        "optim": {"name": "rmsprop", "learning_rate": 1e-3},
        "schedule": {"name": "one_cycle"},
        "training": {"label_smoothing": 0.1, "channels_last": False},
    },
}


def numpy_trainer(run: Path, config: RunConfig, *, resume: bool = False) -> NumpyTrainer:
    """As `small_run.trainer_for`, which makes torch's: the same start values, data and plan."""
    run.mkdir(exist_ok=True, parents=True)
    seed_all(config.training.seed)
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    freeze(model, config.model.freeze)
    task = Classification(3, config.training.label_smoothing, loss_name=config.training.loss)
    facts = {"classes": ("v", "h", "b")}
    return prepare_numpy_trainer(run, config, TRAIN, VAL, task, model, facts, resume=resume, console=QUIET)


# Beside torch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", ["cross_entropy", "nll", "bce", "mse"])
def test_losses_are_torchs(name: str, smoothing: float, weights: tuple[float, ...] | None, mixed: bool) -> None:
    draw = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(7, 3, generator=draw)).requires_grad_()
    targets: Tensor = torch.randint(3, (7,), generator=draw)
    if mixed:
        targets = torch.softmax(torch.randn(7, 3, generator=draw), dim=1)
    task = Classification(3, smoothing, None if weights is None else torch.tensor(weights), name)
    expected = task.loss(logits, targets)
    expected.backward()
    assert logits.grad is not None
    loss = NumpyLoss(task)
    found = loss(logits.detach().numpy(), targets.numpy())
    assert found == pytest.approx(expected.item(), rel=2e-6)
    gradient = loss.backward()
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, logits.grad.numpy(), atol=2e-7)
    assert num_correct(logits.detach().numpy(), targets.numpy()) == int(task.num_correct(logits, targets))


LARGE = ("alexnet", "vgg11", "vgg11_bn", "resnet50")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in TWINS])
def test_every_network_is_its_torch_twin(name: str) -> None:
    config = RunConfig().changed(model={"name": name}).model
    size = (64, 64) if name == "alexnet" else (32, 32)
    torch.manual_seed(0)
    model = build_model(config, num_classes=5, in_channels=3, image_size=size).eval()
    network = numpy_network(config, model, np.random.default_rng(0)).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(network(images.numpy()), expected, atol=2e-5 * max(1.0, np.abs(expected).max()))
    assert network.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"dropout": 0.0}},
        {"model": {"dropout": 0.0}, "training": {"ema_decay": 0.9, "accumulation_steps": 2, "gradient_clip_norm": 0.1}},
        {"model": {"dropout": 0.0}, "optim": {"name": "sgd", "learning_rate": 0.02}, "schedule": {"name": "one_cycle"}},
        {"model": {"dropout": 0.0}, "optim": {"name": "rmsprop", "learning_rate": 1e-3}},
        {"model": {"name": "resnet20_cifar", "dropout": 0.0}, "augment": {"mixup_alpha": 0.4}},
        {"model": {"dropout": 0.0, "freeze": ("c1",)}, "optim": {"name": "adam", "weight_decay": 0.1}},
    ],
    ids=[
        "adamw",
        "ema, accumulation, clipping",
        "sgd, one cycle",
        "rmsprop",
        "batch norm, mixup",
        "frozen, adam decay",
    ],
)
def test_a_run_is_torchs_run(changes: dict[str, Any], tmp_path: Path) -> None:
    """Same start values, order, augmentation, schedule and rules: the first epoch's losses agree, and so do weights."""
    config = BASE.changed(**changes).changed(training={"epochs": 1, "log_every_steps": 1, "precision": "32-true"})
    ours = numpy_trainer(tmp_path / "numpy", config)
    fit(ours, QUIET)
    theirs = trainer_for(tmp_path / "torch", config)
    fit(theirs, QUIET)
    left, right = read_metrics(tmp_path / "numpy"), read_metrics(tmp_path / "torch")
    assert [record["learning_rate"] for record in left[:-1]] == [record["learning_rate"] for record in right[:-1]]
    assert len(left) == len(right) > 5
    found, expected = ([record["loss"] for record in records] for records in (left, right))
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-5)
    of_numpy, of_torch = (load_newest(tmp_path / name / CHECKPOINTS)[0].tensors for name in ("numpy", "torch"))
    assert of_numpy.keys() == of_torch.keys()
    for stem in of_numpy.keys() - {"optimizer"}:
        for name, tensor in of_numpy[stem].items():
            # Rounding grows from step to step: torch itself, on one thread and on two, parts by as much.
            assert torch.allclose(tensor.float(), of_torch[stem][name].float(), rtol=1e-2, atol=1e-2), (stem, name)


def test_frozen_parts_keep_their_bits_and_their_statistics(tmp_path: Path) -> None:
    config = BASE.changed(model={"name": "resnet20_cifar", "freeze": ("conv1", "bn1", "layer1")})
    trainer = numpy_trainer(tmp_path, config)
    before = trainer.network.state_dict()
    fit(trainer, QUIET)
    changed = {name for name, array in trainer.network.state_dict().items() if not np.array_equal(array, before[name])}
    assert not any(name.startswith(("conv1", "bn1", "layer1")) for name in changed)
    assert {"layer2.0.conv1.weight", "layer3.2.bn2.running_mean", "linear.bias"} <= changed
    held = {
        name
        for name, module in named_modules(trainer.network)
        if module in held_modules(trainer.network, trainer.model)
    }
    assert {"conv1", "bn1", "layer1", "layer1.2.bn2"} <= held
    assert "layer2" not in held


# Stopping and going on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_resume_is_exact(changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BASE.changed(**changes)
    fit(numpy_trainer(tmp_path / "whole", config), QUIET)
    with stop_after(monkeypatch, 4), pytest.raises(Interrupted):
        fit(numpy_trainer(tmp_path / "parts", config), QUIET)
    assert load_newest(tmp_path / "parts" / CHECKPOINTS)[0].state["step"] == 4
    np.random.default_rng(9).random()  # whatever happened to other generators
    seed_all(99)
    fit(numpy_trainer(tmp_path / "parts", config, resume=True), QUIET)
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    config = BASE.changed(model={"name": "seed_cnn"})
    blas = parallel.blas_threads()
    for number in (1, 2):
        with numpy_threads(number):
            fit(numpy_trainer(tmp_path / str(number), config), QUIET)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    assert parallel.blas_threads() == blas


def test_exploding_loss_stops_and_names_the_batch(tmp_path: Path) -> None:
    config = BASE.changed(optim={"name": "sgd", "learning_rate": 1e30}, model={"args": {"activation": "relu"}})
    with np.errstate(all="ignore"), pytest.raises(NonFinite, match=r"is (nan|inf)"):
        fit(numpy_trainer(tmp_path, config), QUIET)
    report = json.loads((tmp_path / "non_finite.json").read_text())
    assert all(name.startswith("bars#") for name in report["images"])


def test_command_line_stops_with_75_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ending:
            main(["scratch", "train", *arguments, "--quiet"])
        return int(ending.value.code or 0), capsys.readouterr().out

    common = (
        "digits",
        "--epochs",
        "1",
        "--batch-size",
        "100",
        "--set",
        "training.trackers=[]",
        "--json",
        "--threads",
        "1",
    )
    code, printed = run(*common, "--out", str(tmp_path / "whole"))
    whole = json.loads(printed.splitlines()[-1])
    assert code == 0
    with stop_after(monkeypatch, 5):
        code, printed = run(*common, "--out", str(tmp_path / "parts"))
    assert code == 75
    message = json.loads(printed.splitlines()[-1])["stopped"]["message"]
    assert message.startswith("stopped at step 5 of ")
    assert message.endswith(f"convcraft scratch train --out {tmp_path / 'parts'} --resume")
    code, printed = run("--resume", "--out", str(tmp_path / "parts"), "--json")
    assert code == 0
    assert json.loads(printed.splitlines()[-1])["weights_sha256"] == whole["weights_sha256"]
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.filterwarnings("error::RuntimeWarning")  # one clear message, no warnings of NumPy before it
def test_command_line_ends_with_1_where_the_loss_blows_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--learning-rate", "1e30", "--set", "optim.name=sgd", "--set", "schedule.name=constant")
    with pytest.raises(SystemExit) as ending:
        main(["scratch", "train", "digits", "--epochs", "1", "--out", str(tmp_path / "run"), "--quiet", *settings])
    assert ending.value.code == 1
    assert "non_finite.json names the batch" in capsys.readouterr().err


# The run folder -----------------------------------------------------------------------------------------------------


def test_later_commands_take_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    result = train(DIGITS.changed(training={"epochs": 6}), run, console=QUIET)
    assert result.report is not None
    assert result.report.accuracy > 0.85  # chance is 0.1
    assert result.summary["engine"] == "numpy"
    assert result.summary["precision"] == "32-true"
    # The torch network of the run is judged by its saved weights: the figures are those that NumPy logged.
    best = max(record["accuracy"] for record in read_metrics(run) if record["event"] == "val")
    assert result.report.accuracy == best
    description = read_run(run)
    build_network(description.config.model, description.classes, description.preprocess).load_state_dict(
        load_newest(run / CHECKPOINTS)[0].tensors["model"]
    )
    digit = np.asarray(next(iter(read_digits().splits.values()))[0].image)
    Image.fromarray(digit).save(tmp_path / "digit.png")
    commands = (["evaluate", str(run)], ["report", str(run)], ["predict", str(run), str(tmp_path / "digit.png")])
    answers = []
    for command in commands:
        with pytest.raises(SystemExit) as ending:
            main([*command, "--quiet", "--json"])
        assert ending.value.code == 0
        answers.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert answers[0]["accuracy"] > 0.85
    assert answers[2]["predictions"][0]["label"] in description.classes
    assert "convcraft train --config" in (run / "report.html").read_text(encoding="utf-8")


def test_train_with_the_runs_config_is_the_same_run(tmp_path: Path) -> None:
    """`convcraft train --config RUN/config.yaml`, as the report says, computes in NumPy again."""
    config = DIGITS.changed(training={"epochs": 1})
    first = train(config, tmp_path / "first", console=QUIET)
    again = train(RunConfig.load(tmp_path / "first" / "config.yaml"), tmp_path / "again", console=QUIET)
    assert first.summary["weights_sha256"] == again.summary["weights_sha256"]


def test_profile_books_every_part(tmp_path: Path) -> None:
    summary = train(
        DIGITS.changed(training={"epochs": 1, "ema_decay": 0.9}), tmp_path, profile=True, console=QUIET
    ).summary
    seconds = summary["profile"]["seconds"]
    assert not any(setting in summary["profile"]["hint"] for setting in ("precision", "compile"))  # NumPy has neither
    assert all(seconds[part] > 0 for part in ("data", "forward", "backward", "optimizer", "average", "validation"))


def test_starting_weights_are_taken(tmp_path: Path) -> None:
    first = train(DIGITS, tmp_path / "first", console=QUIET)
    file = tmp_path / "first" / CHECKPOINTS / first.summary["checkpoint"] / "model.safetensors"
    config = DIGITS.changed(model={"weights": str(file)}, training={"epochs": 0})
    again = train(config, tmp_path / "again", console=QUIET)
    assert again.summary["weights_sha256"] == first.summary["weights_sha256"]


# Settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "vgg_small"}}, "network 'vgg_small' in NumPy"),
        ({"model": {"name": "timm/resnet18"}}, "network 'timm/resnet18' in NumPy"),
        ({"model": {"name": "resnet18", "args": {"stem": "cifar"}}}, "model.args.stem"),
        ({"model": {"name": "resnet18", "dropout": 0.1}}, "model.dropout 0.1 for resnet18"),
        ({"model": {"tapped_layers": ("c1",), "num_tapped_features": 6}}, "model.tapped_layers"),
        ({"optim": {"name": "muon"}}, "optim.name muon in NumPy"),
        ({"training": {"precision": "bf16-mixed"}}, "training.precision bf16-mixed in NumPy"),
        ({"training": {"compile": "on"}}, "training.compile on in NumPy"),
        ({"training": {"device": "cuda"}}, "training.device cuda in NumPy"),
        ({"finetune": {"method": "head"}}, "finetune.method head in NumPy"),
    ],
)
def test_what_numpy_has_not_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = DIGITS.changed(**changes)
    with pytest.raises(UserError, match=message):
        check_numpy(config)
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()


def test_other_workflows_refuse_the_engine(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"range test with training\.engine numpy"):
        find_learning_rate(DIGITS, tmp_path / "sweep", console=QUIET)
    with pytest.raises(UserError, match=r"training\.engine numpy in fine-tuning"):
        finetune(DIGITS.changed(finetune={"method": "probe"}), tmp_path / "fine", console=QUIET)
    with pytest.raises(UserError, match=r"training\.engine is 'jax'"):
        DIGITS.changed(training={"engine": "jax"})


def test_another_engine_cannot_go_on_with_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 2), pytest.raises(Interrupted):
        train(DIGITS, tmp_path, console=QUIET)
    with pytest.raises(UserError, match=r"training\.engine"):
        train(DIGITS.changed(training={"engine": "torch"}), tmp_path, resume=True, console=QUIET)


def test_scratch_train_leaves_runs_of_torch_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 2), pytest.raises(Interrupted):
        train(DIGITS.changed(training={"engine": "torch"}), tmp_path, console=QUIET)
    with pytest.raises(UserError, match="was begun with torch"):
        train_in_numpy(RunConfig(), tmp_path, resume=True, console=QUIET)


def test_recipe_is_one_that_numpy_can_follow() -> None:
    nothing: dict[str, Any] = {}
    config = choose_config(
        "mnist",
        DEFAULT_RECIPE,
        None,
        data_settings=nothing,
        preprocess_settings=nothing,
        model_settings=nothing,
        optim_settings=nothing,
        training_settings=nothing,
    )
    assert config.training.engine == "numpy"
    check_numpy(config)


def test_the_loop_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "scratch.md"
    block = re.search(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    exec(block.group(1), {})  # noqa: S102 - a page of ours
    share, rest = capsys.readouterr().out.split("%")
    assert int(share) >= 93
    assert rest == " of 297 digits\n"
