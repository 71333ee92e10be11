"""Checks on how the figure comes about: which images train, which select, which judge, and what is counted."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from convcraft.workflows.seeds.program import (
    GAP,
    HARMLESS,
    WRONG,
    Diagnosis,
    Program,
    argument,
    called_name,
    keyword,
    names_in,
)

FRAMES_FIX = "Set part of the training images aside for it, and open the test images once, at the end."


def validation_is_training(program: Program) -> Iterator[Diagnosis]:
    """fit() that validates on the very images that it trains on."""
    for call in program.calls("fit"):
        train, validation = argument(call, 0, "x"), keyword(call, "validation_data")
        if isinstance(validation, ast.Tuple) and validation.elts:
            validation = validation.elts[0]
        if train is not None and validation is not None and ast.dump(train) == ast.dump(validation):
            cause = "validation data are the training data: the validation figure cannot show overfitting"
            yield Diagnosis("validation = training", WRONG, program.where(call), cause, FRAMES_FIX)


def test_images_select(program: Program) -> Iterator[Diagnosis]:
    """Test images that are looked at while training is still going on."""
    for call in program.calls("fit"):
        validation = keyword(call, "validation_data")
        if validation is not None and names_in(validation) & _test_names(program):
            cause = "the test images are the validation data: what is chosen by them is no longer judged by them"
            yield Diagnosis("test as validation", WRONG, program.where(call), cause, FRAMES_FIX)
    for loop in _epoch_loops(program):
        for call in program.calls(within=loop):
            if _reads_test(program, call):
                cause = "the test images are looked at after every epoch: they serve as development set"
                yield Diagnosis("test as validation", WRONG, program.where(call), cause, FRAMES_FIX)


def test_images_train(program: Program) -> Iterator[Diagnosis]:
    """fit() on test images."""
    for call in program.calls("fit"):
        given = [item for item in (argument(call, 0, "x"), argument(call, 1, "y")) if item is not None]
        if set().union(*map(names_in, given), set()) & _test_names(program):
            cause = "the network is trained on the test images: what it reaches on them says nothing about new ones"
            yield Diagnosis("test as training", WRONG, program.where(call), cause, FRAMES_FIX)


def no_validation(program: Program) -> Iterator[Diagnosis]:
    """A program that trains without any validation images of its own."""
    fits = list(program.calls("fit"))
    own = any(name.startswith("val") or "_val" in name for name in _stored_names(program.tree))
    trains = fits or list(program.calls("backward"))
    if trains and not own and not any(keyword(call, "validation_data") for call in fits):
        cause = "no image is set aside for validation: nothing tells when to stop"
        yield Diagnosis("no validation", GAP, program.where(trains[0]), cause, FRAMES_FIX)


def compiled_every_epoch(program: Program) -> Iterator[Diagnosis]:
    """compile() in a loop over epochs, directly or in a function that the loop calls."""
    for loop in _epoch_loops(program):
        for call in program.calls(within=loop):
            body: ast.AST | None = call if called_name(call) == "compile" else _function(program, called_name(call))
            compiled = next(program.calls("compile", within=body), None) if body is not None else None
            if compiled is not None:
                cause = "the model is compiled anew in every epoch: its metrics and its traced step start afresh"
                yield Diagnosis("recompiled", WRONG, program.where(compiled), cause, "Compile once, before the loop.")


def printed_steps(program: Program) -> Iterator[Diagnosis]:
    """Step counts of the printed result that the data and the batch size of the code cannot give."""
    task, shown, batch_size = program.task, program.shown, program.batch_size
    if batch_size is None:
        return
    for printed, images, part in (
        (shown.steps_per_epoch, task.train_images, "training"),
        (shown.test_steps, task.test_images, "test"),
    ):
        steps = -(-images // batch_size)
        if printed is None or printed == steps:
            continue
        cause = (
            f"{printed:,} {part} steps are printed; {images:,} images in batches of {batch_size} make {steps:,} "
            f"({printed:,} steps of {batch_size} would be about {printed * batch_size:,} images)"
        )
        fix = "Print what the program itself counts; such a figure was not made by this program."
        yield Diagnosis("printed steps", WRONG, "printed result", cause, fix)


def same_data_again(program: Program) -> Iterator[Diagnosis]:
    """Fine-tuning data that are the first training data, loaded once more."""
    loads = [node for node in ast.walk(program.tree) if isinstance(node, ast.Assign) and _is_load(node)]
    first: dict[str, ast.Assign] = {}
    for node in sorted(loads, key=lambda item: item.lineno):
        loaded = ast.dump(node.value)
        if loaded in first:
            cause = f"the 'new' images are those of line {first[loaded].lineno} again: nothing new is learned from them"
            yield Diagnosis("old data as new", WRONG, program.where(node), cause, "Fine-tune on other images.")
        first.setdefault(loaded, node)


def noise_as_data(program: Program) -> Iterator[Diagnosis]:
    """fit() on names that hold random numbers."""
    made = {
        target.id: node
        for node in ast.walk(program.tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
        and isinstance(node.value, ast.Call)
        and called_name(node.value) in ("randn", "rand", "randint", "normal", "uniform")
    }
    used: set[str] = set()
    for call in program.calls("fit"):
        for given in call.args[:2]:
            used |= names_in(given)
    for name in sorted(used & made.keys()):
        cause = f"{name} is drawn at random: there is nothing in it that could be learned"
        yield Diagnosis("noise as data", WRONG, program.where(made[name]), cause, "Use labelled images.")


def never_frozen(program: Program) -> Iterator[Diagnosis]:
    """An optimiser over all parameters of a network that the text says is only trained at its top."""
    promised = next((promise for promise in program.promises if promise.feature == "frozen layers"), None)
    if promised is None or _freezes(program):
        return
    everything = next(program.calls("Adam", "SGD", "AdamW"), None)
    last_fit = list(program.calls("fit"))[-1:]
    at = last_fit[0] if last_fit else everything
    where = program.where(at) if at is not None else "the listing"
    cause = f"every weight is trained; {promised.said}"
    fix = "Freeze the rest (requires_grad = False, or trainable = False before compiling), or say that all is trained."
    yield Diagnosis("nothing frozen", GAP, where, cause, fix)


def repeated_softmax(program: Program) -> Iterator[Diagnosis]:
    """log_softmax before a loss that takes logits (torch's CrossEntropyLoss, cross_entropy)."""
    losses = list(program.calls("CrossEntropyLoss", "cross_entropy"))
    for call in program.calls("log_softmax", "softmax", "LogSoftmax", "Softmax"):
        if not losses or keyword(call, "name") is not None:
            continue
        doubled = called_name(call).lower() == "softmax"
        cause = (
            "softmax before a loss that applies it again: the loss cannot fall below a floor"
            if doubled
            else "log_softmax before a loss that applies it again: log_softmax of log_softmax is itself"
        )
        yield Diagnosis(
            "double softmax", WRONG if doubled else HARMLESS, program.where(call), cause, "Return the logits."
        )


def _freezes(program: Program) -> bool:
    """Whether a weight is taken out of training: trainable or requires_grad set, or requires_grad_ called, with False.

    A value that is worked out (trainable = isinstance(...)) may be False, and is believed; True is not.
    """
    for node in ast.walk(program.tree):
        value: ast.expr | None = None
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            value = node.value if node.targets[0].attr in ("trainable", "requires_grad") else None
        elif isinstance(node, ast.Call) and called_name(node) == "requires_grad_":
            value = argument(node, 0, "requires_grad")
        if value is not None and (not isinstance(value, ast.Constant) or value.value is False):
            return True
    return False


def _is_load(node: ast.Assign) -> bool:
    return isinstance(node.value, ast.Call) and called_name(node.value) == "load_data"


def _test_names(program: Program) -> set[str]:
    """Names that hold test images: called so, or unpacked from the second half of load_data()."""
    found = {name for name in _stored_names(program.tree) | names_in(program.tree) if "test" in name.split("_")}
    for node in ast.walk(program.tree):
        if isinstance(node, ast.Assign) and _is_load(node) and isinstance(node.targets[0], ast.Tuple):
            found |= names_in(node.targets[0].elts[1])
    assigned = [pair for node in ast.walk(program.tree) for pair in _assigned_pairs(node)]
    while True:  # names made from test images hold test images
        more = {name for target, value in assigned if names_in(value) & found for name in names_in(target)} - found
        if not more:
            break
        found |= more
    return found - {name.name for name in ast.walk(program.tree) if isinstance(name, ast.FunctionDef)}


def _assigned_pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Plain names and what is assigned to each; `a, b = c, d` gives two pairs. Not what a call returns of a network."""
    if not isinstance(node, ast.Assign) or _is_load(node):
        return
    left, right = node.targets[0], node.value
    both = isinstance(left, ast.Tuple) and isinstance(right, ast.Tuple) and len(left.elts) == len(right.elts)
    pairs = zip(left.elts, right.elts, strict=True) if both else [(left, right)]  # type: ignore[attr-defined]
    yield from (pair for pair in pairs if isinstance(pair[0], (ast.Name, ast.Tuple)))


def _stored_names(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _epoch_loops(program: Program) -> list[ast.For]:
    """Loops over epochs at the top of the program."""
    return [node for node in program.tree.body if isinstance(node, ast.For) and "epoch" in ast.dump(node.target)]


def _function(program: Program, name: str) -> ast.FunctionDef | None:
    return next((node for node in program.tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def _reads_test(program: Program, call: ast.Call) -> bool:
    """Whether a call is given test images, or is a function of the listing that opens them itself."""
    tests = _test_names(program)
    given = set().union(*(names_in(item) for item in [*call.args, *(item.value for item in call.keywords)]), set())
    function = _function(program, called_name(call))
    if function is None:
        return False
    own = {item.arg for item in function.args.args}
    return bool(given & tests) or bool((names_in(function) - own) & tests)
