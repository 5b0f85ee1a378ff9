"""The table of docs/camvid.md, objective by objective, out of the results beside this file.

    python docs/results/camvid/gains.py

A distilled run is paired with the plain run of its seed on the same kind of machine, GPU or CPU.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from kaseg.experiments.summary import paired_interval

FILE = re.compile(r"os16-([a-z_]+)-seed-([234])(?:-cpu)?\.json")


def main() -> None:
    scores: dict[str, dict[tuple[str, str], float]] = {}
    for file in sorted(Path(__file__).parent.glob("os16-*.json")):
        if found := FILE.fullmatch(file.name):
            results = json.loads(file.read_text())
            machine = "CPU" if results["hardware"].startswith("CPU") else "GPU"
            scores.setdefault(found[1], {})[found[2], machine] = 100 * results["mean_iou"]
    plain = scores.pop("plain")
    for machine in ("GPU", "CPU"):
        scores[f"plain on the {machine}"] = {key: score for key, score in plain.items() if key[1] == machine}
    print("| objective | mIoU | gain over plain (95 % interval) | pair by pair |\n|---|---|---|---|")
    for objective, own in scores.items():
        pairs = {key: score - plain[key] for key, score in own.items() if not objective.startswith("plain")}
        listed = ", ".join(f"{seed} {machine} {gain:+.1f}" for (seed, machine), gain in pairs.items())
        print(f"| {objective} | {statistics.mean(own.values()):.1f} ± {statistics.stdev(own.values()):.1f} |", end="")
        interval = paired_interval(list(pairs.values()))
        if interval is None:
            print(" | |")
        else:
            gain = statistics.mean(pairs.values())
            print(f" {gain:+.1f} ({interval[0]:+.1f} to {interval[1]:+.1f}) | {listed} |")


if __name__ == "__main__":
    main()
