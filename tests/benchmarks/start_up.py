"""Processor time of commands that only say something, and of `import kaseg`, as ratios to imports of others.

    python tests/benchmarks/start_up.py --repeats 5 --output start_up.json

Every command is a process of its own, on one thread. Its time is that of the processor (user and system), which is the
same on a machine that has other things to do. Commands and yardsticks take turns, after one turn that is not counted;
a ratio is the median over the turns of the two times of one turn. The bounds are those that the project sets itself;
exits with 1 if one is missed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

TORCH = "import torch"
TRAINER = "from transformers import Trainer"
TIMM = "import timm, transformers"
MAIN = "import sys; sys.argv[0] = 'kaseg'; from kaseg.cli import main; main()"
COMPLETION = {"_KASEG_COMPLETE": "complete_bash", "COMP_WORDS": "kaseg ev", "COMP_CWORD": "1"}
# Name: statement, arguments, environment, yardstick, bound of the ratio.
CASES: dict[str, tuple[str, list[str], dict[str, str], str, float]] = {
    "kaseg --help": (MAIN, ["--help"], {}, TORCH, 0.15),
    "kaseg --version": (MAIN, ["--version"], {}, TORCH, 0.15),
    "kaseg evaluate --help": (MAIN, ["evaluate", "--help"], {}, TORCH, 0.15),
    "kaseg list": (MAIN, ["list"], {}, TORCH, 0.15),
    "shell completion": (MAIN, [], COMPLETION, TORCH, 0.15),
    "kaseg train --help": (MAIN, ["train", "--help"], {}, TRAINER, 1.0),
    "kaseg distill --help": (MAIN, ["distill", "--help"], {}, TRAINER, 1.0),
    "import kaseg": ("import kaseg", [], {}, TIMM, 1.0),
}


def seconds(statement: str, arguments: list[str], environment: dict[str, str]) -> float:
    command = [sys.executable, "-c", statement, *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one_thread = {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | one_thread | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(repeats: int) -> list[dict[str, Any]]:
    turns = []
    for _ in range(repeats + 1):
        turn = {yardstick: seconds(yardstick, [], {}) for yardstick in (TORCH, TRAINER, TIMM)}
        turns.append(turn | {name: seconds(*case[:3]) for name, case in CASES.items()})
    rows = []
    for name, (*_, yardstick, bound) in CASES.items():
        rows.append(
            {
                "command": name,
                "seconds": statistics.median(turn[name] for turn in turns[1:]),
                "yardstick": yardstick,
                "yardstick_seconds": statistics.median(turn[yardstick] for turn in turns[1:]),
                "ratio": statistics.median(turn[name] / turn[yardstick] for turn in turns[1:]),
                "bound": bound,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = measure(args.repeats)
    print("| command | s | held against | s | ratio | bound |\n|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| `{row['command']}` | {row['seconds']:.2f} | `{row['yardstick']}` | {row['yardstick_seconds']:.2f} "
            f"| {row['ratio']:.3f} | {row['bound']} |"
        )
    if args.output is not None:
        args.output.write_text(json.dumps({"repeats": args.repeats, "rows": rows}, indent=2) + "\n")
    sys.exit(any(row["ratio"] > row["bound"] for row in rows))


if __name__ == "__main__":
    main()
