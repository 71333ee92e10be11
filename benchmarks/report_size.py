"""Claim: a page is light: of 1,000 classes x 10 images at most 8 MB, and open in Chromium within 2 s.

    python benchmarks/report_size.py [--run RUN] [--loads 5]

RUN is an evaluated run, such as ants and bees:

    convcraft finetune $CONVCRAFT_DATA/hymenoptera --test-split val --model mobilenetv2_100 \
        --weights $CONVCRAFT_DATA/weights/mobilenetv2_100_imagenet.safetensors --method probe --out runs/ants
    convcraft evaluate runs/ants

The time is from the call to navigate until the load event of a fresh browser. Also kept: whether the page said
anything on the console, asked for anything else, or is wider than a phone of 375 px.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from many_classes_page import draw_many_classes
from measured_on import hardware, spread, stolen_seconds, versions, write_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from chromium import Chromium, find_chromium

MOST_MEGABYTES, MOST_SECONDS = 8.0, 2.0
CLASSES, IMAGES_PER_CLASS = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="an evaluated run; its report.html is measured too")
    parser.add_argument("--loads", type=int, default=5)
    asked = parser.parse_args()
    if find_chromium() is None:
        raise SystemExit("Chromium was not found: apt-get install chromium, or set CHROMIUM.")
    stolen_before = stolen_seconds()
    pages: dict[str, Any] = {}
    if asked.run is not None:
        pages[asked.run.name] = measure(asked.run / "report.html", asked.loads)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        page, _ = draw_many_classes(Path(folder), CLASSES, IMAGES_PER_CLASS)
        seconds = time.monotonic() - started
        pages["1,000 classes"] = {"made_in_seconds": round(seconds, 1), **measure(page, asked.loads)}
    heavy = pages["1,000 classes"]
    write_result(
        "report_size",
        {
            "claim": f"1,000 classes x 10 images: at most {MOST_MEGABYTES:g} MB, open within {MOST_SECONDS:g} s",
            "met": heavy["megabytes"] <= MOST_MEGABYTES and heavy["load_seconds"]["max"] <= MOST_SECONDS,
            "pages": pages,
            "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
            "hardware": hardware(),
            "versions": {**versions("convcraft", "numpy", "pillow", "matplotlib"), "chromium": chromium_version()},
        },
    )


def measure(page: Path, loads: int) -> dict[str, Any]:
    """Size in megabytes (10^6 bytes), load times, and what else a browser has to say."""
    seconds, messages, requests = [], [], []
    for _ in range(loads):
        with Chromium() as browser:
            seconds.append(browser.open(page))
            messages += browser.messages
            requests += [address for address in browser.requests if address != page.resolve().as_uri()]
    with Chromium(375, 800, phone=True) as browser:
        browser.open(page)
        width = browser.evaluate("document.documentElement.scrollWidth")
    return {
        "megabytes": round(page.stat().st_size / 1e6, 3),
        "load_seconds": spread([round(value, 3) for value in seconds]),
        "console_messages": len(messages),
        "other_requests": len(requests),
        "width_on_a_phone_of_375": width,
    }


def chromium_version() -> str:
    with Chromium() as browser:
        return str(browser.send("Browser.getVersion")["product"])


if __name__ == "__main__":
    main()
