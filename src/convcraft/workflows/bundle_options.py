"""What commands that take runs and bundles alike may be asked of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

from convcraft.errors import UserError


def refuse_other_devices(device: str) -> None:
    """Raises UserError where a bundle is asked to run elsewhere than on the CPU."""
    if device not in ("auto", "cpu"):
        fix = "Leave out --device, or give the run that the bundle was made of."
        raise UserError(f"device {device!r} for a bundle", "auto or cpu: bundles run on the CPU", fix)


def refuse_options_of_runs(options: Mapping[str, bool], fix: str) -> None:
    """Raises UserError that names the options that are given: they need the run itself."""
    given = [option for option, is_given in options.items() if is_given]
    if given:
        raise UserError(f"a bundle with {', '.join(given)}", "options that a bundle can answer", fix)
