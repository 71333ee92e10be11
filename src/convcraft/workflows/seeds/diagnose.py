"""All checks, applied to any program: what is wrong in it, before its first step."""

from __future__ import annotations

from convcraft.workflows.seeds import checks_keras, checks_names, checks_promises, checks_protocol, checks_torch
from convcraft.workflows.seeds.program import SEVERITIES, Check, Diagnosis, Program

CHECKS: tuple[Check, ...] = (
    checks_names.missing_imports,
    checks_names.undefined_names,
    checks_names.hard_coded_cuda,
    checks_names.idle_arguments,
    checks_keras.add_on_functional,
    checks_keras.impossible_layers,
    checks_keras.outputs,
    checks_keras.label_shapes,
    checks_keras.counted_layers,
    checks_torch.one_batch,
    checks_torch.head_of_published_network,
    checks_protocol.repeated_softmax,
    checks_protocol.never_frozen,
    checks_protocol.noise_as_data,
    checks_protocol.same_data_again,
    checks_protocol.validation_is_training,
    checks_protocol.test_images_select,
    checks_protocol.test_images_train,
    checks_protocol.no_validation,
    checks_protocol.compiled_every_epoch,
    checks_protocol.printed_steps,
    checks_promises.normalisation,
    checks_promises.foreign_preprocessing,
    checks_promises.promises,
)


def diagnose(program: Program) -> list[Diagnosis]:
    """Every finding, what stops the program first."""
    return gravest_first([diagnosis for check in CHECKS for diagnosis in check(program)])


def gravest_first(found: list[Diagnosis]) -> list[Diagnosis]:
    """By severity; of equals each once, in the order of the checks."""
    ranks = list(SEVERITIES)
    return sorted(dict.fromkeys(found), key=lambda diagnosis: ranks.index(diagnosis.severity))
