"""Precision and compiling: what is refused where, scaled gradients, and names that stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from small_run import BASE, QUIET, bars, files_of, stop_after, trainer_for
from torch import Tensor, nn

from convcraft.config import RunConfig, TrainingConfig
from convcraft.errors import UserError
from convcraft.training import compiled, gradient_scaling, loop
from convcraft.training.checkpoint import CHECKPOINTS, load_newest
from convcraft.training.compiled import CompiledNetwork, network_for, what_is_missing
from convcraft.training.devices import accelerator_of, build_fabric, precision_of
from convcraft.training.loop import fit
from convcraft.training.stops import Interrupted, NonFinite

# Devices and precision ------------------------------------------------------------------------------------------


def test_unknown_devices_are_refused() -> None:
    with pytest.raises(UserError, match="tpu"):
        accelerator_of("tpu")


@pytest.mark.parametrize("accelerator", ["cpu", "mps"])
def test_float16_is_refused_off_cuda(accelerator: str) -> None:
    with pytest.raises(UserError, match=f"16-mixed on {accelerator}"):
        precision_of("16-mixed", accelerator)


def test_float16_is_refused_before_anything_is_built() -> None:
    with pytest.raises(UserError, match="16-mixed"):
        build_fabric(TrainingConfig(device="cpu", precision="16-mixed"))


def test_float16_is_taken_on_cuda_and_never_by_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision_of("16-mixed", "cuda") == "16-mixed"
    for supported, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported, **_: supported)
        assert precision_of("auto", "cuda") == expected


# Scaled gradients, on the CPU with the same scaler ----------------------------------------------------------------


@pytest.fixture
def float16_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fabric with float16 and a scaler, as on CUDA; products of this size are exact enough on the CPU."""

    def fabric(_config: TrainingConfig) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])

    monkeypatch.setattr(loop, "build_fabric", fabric)


FLOAT16 = BASE.changed(training={"gradient_clip_norm": 0.5})


@pytest.mark.usefixtures("float16_on_cpu")
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop", "muon"])  # fused, plain, ours
def test_overflowing_gradients_skip_steps_and_resume_is_exact(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"name": "vgg_small", "args": {"widths": [4, 8]}}
    config = FLOAT16.changed(model=network, optim={"name": optimizer, "learning_rate": 1e-3})
    whole = trainer_for(tmp_path / "whole", config)
    fit(whole, QUIET)
    assert whole.state.step == whole.total_steps
    scaler = gradient_scaling.scaler_of(whole.fabric)
    assert scaler is not None
    assert scaler.get_scale() < 2.0**24  # some steps overflowed
    with stop_after(monkeypatch, 7), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path / "parts", config), QUIET)
    saved = load_newest(tmp_path / "parts" / CHECKPOINTS)[0].state["gradient_scaler"]
    resumed = trainer_for(tmp_path / "parts", config, resume=True)
    assert gradient_scaling.state_of(resumed.fabric) == saved
    fit(resumed, QUIET)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "parts")


def scaled_pair(init_scale: float) -> tuple[Fabric, nn.Linear, torch.optim.Optimizer]:
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    model = nn.Linear(4, 2)
    return fabric, model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def test_clipping_sees_gradients_in_their_true_size() -> None:
    """Against plain float32 gradients: the loss is a sum, so they are the inputs' sums."""
    fabric, model, plain = scaled_pair(2.0**10)
    network, optimizer = fabric.setup(model, plain)
    images = torch.tensor([[1.0, 2.0, -1.0, 0.5]])
    fabric.backward(network(images).sum())
    assert model.weight.grad is not None
    assert torch.equal(model.weight.grad[0], images[0] * 2**10)
    gradient_scaling.clip_gradients(fabric, optimizer.optimizer, max_norm=1.0)
    true = torch.cat([images.expand(2, 4).flatten(), torch.ones(2)])
    assert torch.allclose(model.weight.grad[0], images[0] / true.norm(), atol=1e-5)
    before = model.weight.detach().clone()
    optimizer.step()  # must not divide by the scale again
    assert torch.allclose((model.weight - before).abs(), torch.full_like(before, 0.1), atol=2e-3)  # Adam's first step


def test_infinite_gradients_move_nothing_and_halve_the_scale() -> None:
    fabric, model, plain = scaled_pair(2.0**10)
    network, optimizer = fabric.setup(model, plain)
    fabric.backward(network(torch.ones(1, 4)).sum())
    assert model.weight.grad is not None
    model.weight.grad[0, 0] = torch.inf
    before = model.weight.detach().clone()
    gradient_scaling.clip_gradients(fabric, optimizer.optimizer, max_norm=1.0)
    optimizer.step()
    gradient_scaling.check_scale(fabric)
    assert torch.equal(model.weight, before)
    assert gradient_scaling.state_of(fabric)["scale"] == 2.0**9  # type: ignore[index]


def test_gradients_that_overflow_at_any_scale_are_an_error() -> None:
    fabric, _, _ = scaled_pair(2.0**-11)
    with pytest.raises(NonFinite, match="at any scale"):
        gradient_scaling.check_scale(fabric)


@pytest.mark.usefixtures("float16_on_cpu")
def test_an_infinite_loss_is_an_error_in_float16_too(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, FLOAT16)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFinite, match="the loss is nan"):
        fit(trainer, QUIET)


def test_other_precisions_have_no_scaler_and_clip_as_before() -> None:
    fabric = build_fabric(TrainingConfig(device="cpu", precision="32-true"))
    assert gradient_scaling.state_of(fabric) is None
    gradient_scaling.load_state(fabric, None)
    gradient_scaling.check_scale(fabric)
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    weight.grad = torch.tensor([3.0, 4.0])
    gradient_scaling.clip_gradients(fabric, torch.optim.SGD([weight]), max_norm=1.0)
    assert torch.allclose(weight.grad, torch.tensor([0.6, 0.8]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_learns_and_resumes_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FLOAT16.changed(training={"device": "cuda", "precision": "16-mixed", "epochs": 6})
    with stop_after(monkeypatch, 7), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path, config), QUIET)
    trainer = trainer_for(tmp_path, config, resume=True)
    fit(trainer, QUIET)
    assert trainer.state.best_loss is not None
    assert trainer.state.best_loss < 1.0  # ln 3 is chance
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


# Compiling --------------------------------------------------------------------------------------------------------


def test_yaml_writes_on_and_off_as_truth_values() -> None:
    for written, meant in ((True, "on"), (False, "off"), ("auto", "auto")):
        assert RunConfig.from_dict({"training": {"compile": written}}).training.compile == meant
    with pytest.raises(UserError, match=r"training\.compile"):
        RunConfig.from_dict({"training": {"compile": "always"}})


def test_off_and_short_runs_and_the_cpu_stay_plain() -> None:
    model = nn.Linear(2, 2)
    assert network_for(model, "off", 10**6, "cuda") is model
    assert network_for(model, "auto", 10**6, "cpu") is model
    assert network_for(model, "auto", compiled.PAYS_FROM_PASSES - 1, "cuda") is model


def test_auto_compiles_long_runs_on_cuda_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    monkeypatch.setattr(compiled, "what_is_missing", lambda _device: None)
    assert isinstance(network_for(model, "auto", compiled.PAYS_FROM_PASSES, "cuda"), CompiledNetwork)
    monkeypatch.setattr(compiled, "what_is_missing", lambda _device: "package triton")
    assert network_for(model, "auto", compiled.PAYS_FROM_PASSES, "cuda") is model


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert what_is_missing("cpu") == "C++ compiler (no-such-compiler)"
    with pytest.raises(UserError, match="no-such-compiler"):
        network_for(nn.Linear(2, 2), "on", 1, "cpu")


def use_backend(monkeypatch: pytest.MonkeyPatch, graphs: list[int]) -> None:
    """torch.compile up to the graph, which is then run as it is: no compiler is needed, and each graph is counted."""

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> object:
        graphs.append(1)
        return graph.forward

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: original(model, backend=backend))
    monkeypatch.setattr(compiled, "what_is_missing", lambda _device: None)
    torch._dynamo.reset()


def test_compiled_and_eager_parts_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names in the files, two batch sizes with one graph, and either goes on from the other's checkpoint."""
    graphs: list[int] = []
    use_backend(monkeypatch, graphs)
    on = BASE.changed(training={"compile": "on"}, model={"dropout": 0.0})
    uneven = bars(147)  # batches of 15 and of 14
    fit(trainer_for(tmp_path / "eager", on.changed(training={"compile": "off"}), train=uneven), QUIET)
    assert graphs == []
    with stop_after(monkeypatch, 9), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path / "parts", on, train=uneven), QUIET)
    assert len(graphs) == 1
    names = load_newest(tmp_path / "parts" / CHECKPOINTS)[0].tensors["model"].keys()
    assert names == load_newest(tmp_path / "eager" / CHECKPOINTS)[0].tensors["model"].keys()
    off = on.changed(training={"compile": "off"})
    fit(trainer_for(tmp_path / "parts", off, resume=True, train=uneven), QUIET)
    assert files_of(tmp_path / "eager") == files_of(tmp_path / "parts")


@pytest.mark.slow
@pytest.mark.skipif(what_is_missing("cpu") is not None, reason="no C++ compiler")
def test_compiled_code_trains_alike(tmp_path: Path) -> None:
    """The real compiler: about half a minute."""
    config = BASE.changed(model={"dropout": 0.0}, training={"precision": "32-true"})
    eager = trainer_for(tmp_path / "eager", config)
    fit(eager, QUIET)
    quick = trainer_for(tmp_path / "compiled", config.changed(training={"compile": "on"}))
    fit(quick, QUIET)
    for name, tensor in eager.model.state_dict().items():
        torch.testing.assert_close(quick.model.state_dict()[name], tensor, rtol=0, atol=1e-3)
