"""Gains of a family's distilled runs over the plain ones, student by student and objective by objective, as tables.

    python docs/results/gains.py docs/results/camvid

They are computed from the family's `runs.csv`, which `collect.py` writes. A distilled run is paired with the plain run
of its seed on the same kind of machine, GPU or CPU.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from pathlib import Path

from kaseg.experiments.summary import paired_interval

# Seed 1 was used for trials.
RUN = re.compile(r"([\w-]+)/(\w+)/seed-(?!1\b)(\d+)(?:-cpu)?")
Scores = dict[str, dict[tuple[str, str], float]]  # objective -> (seed, machine) -> mIoU in %


def main(folder: str | Path) -> None:
    students: dict[str, Scores] = {}
    padded: dict[str, Scores] = {}
    with open(Path(folder) / "runs.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if not (found := RUN.fullmatch(row["run"])):
                continue
            student, objective, seed = found.groups()
            key = (seed, "CPU" if row["hardware"].startswith("CPU") else "GPU")
            students.setdefault(student, {}).setdefault(objective, {})[key] = 100 * float(row["mean_iou"])
            if row.get("mean_iou_padded"):
                name = f"{student} with pad_to_stride"
                score = 100 * float(row["mean_iou_padded"])
                padded.setdefault(name, {}).setdefault(objective, {})[key] = score
    for student, scores in (students | padded).items():
        if "plain" in scores:
            print(f"\n{student}\n")
            print_table(scores)


def print_table(scores: Scores) -> None:
    plain = scores.pop("plain")
    for machine in ("GPU", "CPU"):
        if own := {key: score for key, score in plain.items() if key[1] == machine}:
            scores[f"plain on the {machine}"] = own
    print("| objective | mIoU | gain over plain (95 % interval) | pair by pair |\n|---|---|---|---|")
    for objective, own in scores.items():
        spread = f" ± {statistics.stdev(own.values()):.1f}" if len(own) > 1 else ""
        print(f"| {objective} | {statistics.mean(own.values()):.1f}{spread} |", end="")
        others = {} if objective.startswith("plain") else own
        pairs = {key: score - plain[key] for key, score in others.items() if key in plain}
        if not pairs:
            print(" | |")
            continue
        gain, interval = statistics.mean(pairs.values()), paired_interval(list(pairs.values()))
        within = f" ({interval[0]:+.1f} to {interval[1]:+.1f})" if interval else ""
        listed = ", ".join(f"{seed} {machine} {gain:+.1f}" for (seed, machine), gain in pairs.items())
        print(f" {gain:+.1f}{within} | {listed} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", help="folder of the family's results")
    main(parser.parse_args().family)
