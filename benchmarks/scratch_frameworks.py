"""Claim: the engine's convolution is that of TensorFlow (Keras), JAX and torch, in float64, within 1e-6.

    python benchmarks/scratch_frameworks.py

Needs convcraft and those frameworks that are to be compared with (pip install tensorflow jax torch); what is not
installed is left out and named. Settings: plain, stride, padding, dilation, groups, and all of them at once, with
several images, channels and kernels; both the loop of seed 002 and what the engine trains with.
"""

from __future__ import annotations

from importlib.metadata import version

from measured_on import hardware, versions, write_result

from convcraft.workflows.seeds.frameworks import FRAMEWORKS, SETTINGS, compare, installed, words

BAR = 1e-6


def main() -> None:
    here = installed()
    found = {
        name: {words(settings): compare(convolution, settings) for settings in SETTINGS}
        for name, convolution in here.items()
    }
    largest = max(gap for gaps in found.values() for gap in gaps.values() if gap is not None)
    print(f"{', '.join(here)}: largest difference {largest:.1e} (bar {BAR:g})")
    write_result(
        "scratch_frameworks",
        {
            "claim": "the same numbers as the frameworks over stride, padding, dilation, channels and groups",
            "bar": BAR,
            "largest": largest,
            "met": largest <= BAR,
            "differences": found,
            "cannot_compute": [
                f"{name}: {setting}" for name, gaps in found.items() for setting, gap in gaps.items() if gap is None
            ],
            "not_installed": [name for name in FRAMEWORKS if name not in here],
            "hardware": hardware(),
            "versions": {
                **versions("numpy"),
                **{FRAMEWORKS[name][0]: version(FRAMEWORKS[name][0]) for name in here},
            },
        },
    )


if __name__ == "__main__":
    main()
