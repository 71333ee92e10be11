"""`convcraft verify BUNDLE`: is it what was exported, and does it answer here as its source did?

Without torch where its format allows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from convcraft.deploy.bundle import MANIFEST, Bundle, open_bundle
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.machine import package_version
from convcraft.deploy.predictor import EXPORTED_HERE, open_session
from convcraft.deploy.probe_check import try_probes
from convcraft.deploy.remembered import recall
from convcraft.errors import UserError
from convcraft.workflows.checks import FAILED, PASSED, SKIPPED, Check, Verification


def verify_bundle(path: Path, *, allow_native_code: bool = False) -> Verification:
    """Every check that loading makes, and every probe in any case.

    Raises:
        UserError: there is no such file or folder.
    """
    started = time.monotonic()
    return Verification(path, tuple(_checks(path, allow_native_code)), time.monotonic() - started, "bundle")


def _checks(path: Path, allow_native_code: bool) -> Iterator[Check]:
    if not path.exists():
        raise UserError(f"no bundle {path}", "a folder or zip that `convcraft export` made", "Check the path.")
    try:
        bundle = open_bundle(path)
    except UserError as error:
        yield Check("files", FAILED, f"{error.received}; expected {error.expected}")
        yield Check("probes", SKIPPED, "not sent through: the files are not as they should be")
        return
    manifest = bundle.manifest
    yield Check(
        "files", PASSED, f"all {len(manifest.files)} are as {MANIFEST} names them (SHA-256 {bundle.sha256[:16]}...)"
    )
    yield Check("model file", PASSED, f"{bundle.form.name} in {manifest.precision}; nothing in it reaches outside")
    yield Check(
        "contract", PASSED, f"preprocessing {manifest.preprocess_sha256[:16]}..., {len(bundle.classes)} classes"
    )
    if bundle.trust is None:
        yield Check("trust", SKIPPED, "the bundle has none: its probabilities are not calibrated")
    else:
        fitted_on = bundle.parity.get("trust", "this network")
        yield Check("trust", PASSED, f"calibration and reject rule, fitted on answers of {fitted_on}")
    yield from _probes(bundle, allow_native_code)


def _probes(bundle: Bundle, allow_native_code: bool) -> Iterator[Check]:
    try:
        allowed = allow_native_code or recall(bundle, EXPORTED_HERE) is True
        session = open_session(bundle, Runtime(), allow_native_code=allowed)
        results = try_probes(bundle, session)
    except UserError as error:
        yield Check("probes", FAILED, f"{error.received}; expected {error.expected}")
        return
    failed = [result for result in results if result.problem is not None]
    for result in failed:
        yield Check("probe", FAILED, f"{result.file}: {result.problem}", result.file)
    if not failed:
        largest = max(result.difference for result in results)
        most = f"{bundle.manifest.tolerance:.2g} of the logit range is allowed"
        where = f"{bundle.form.package} {package_version(bundle.form.package)}"
        yield Check("probes", PASSED, f"all {len(results)}; largest difference {largest:.2g}, {most} ({where})")
