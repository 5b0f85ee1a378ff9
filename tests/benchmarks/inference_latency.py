"""Latency of our students beside other light segmentation models, engine by engine, all in one run.

    OMP_NUM_THREADS=2 python tests/benchmarks/inference_latency.py --output inference_latency.json

Prints a Markdown table per size and the ratios to the latency of transformers' MobileNetV2-DeepLab (the network that
our stride-16 student is, too) in eager float32, beside their targets. All models have random weights and 21 classes;
nothing is downloaded. Engines and models take turns, so that a machine that slows down slows all of them. Needs
`kaseg[export]`, nncf and segmentation-models-pytorch; an engine that is missing is left out, with the reason.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from kaseg.benchmark import ENGINES, benchmark, to_markdown

OURS = "kaseg:backbone=mobilenetv2_100,output_stride=16"
PEER = "transformers:mobilenet_v2:output_stride=16"
MODELS = (
    OURS,
    "kaseg:backbone=mobilenetv2_100,output_stride=32",
    PEER,
    "transformers:segformer",
    "smp:DeepLabV3Plus:mobilenet_v2",
    "smp:Unet:mobilenet_v2",
    "torchvision:lraspp_mobilenet_v3_large",
    "torchvision:deeplabv3_mobilenet_v3_large",
)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FLOAT32 = ("eager", "fused", "channels_last", "compile", "onnxruntime", "openvino")
# What is compared -> (engines, of which the fastest counts; engine of the peer; largest ratio wanted)
TARGETS = {
    "eager": (("eager",), "eager", 0.8),
    "eager, channels-last (ours fused)": (("channels_last",), "channels_last", 0.8),
    "best float32 engine": (FLOAT32, "eager", 0.3),
    "int8": (("int8",), "eager", 0.13),
}


def ratios(report: dict[str, Any], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Our stride-16 student's latency over the peer's, for every target that could be measured."""
    times = {
        (row["model"], row["engine"]): row["median_ms"]
        for row in report["rows"]
        if (row["height"], row["width"]) == size and "median_ms" in row
    }
    found = []
    for name, (engines, of_peer, target) in TARGETS.items():
        ours = {engine: times[OURS, engine] for engine in engines if (OURS, engine) in times}
        if ours and (PEER, of_peer) in times:
            fastest = min(ours, key=lambda engine: ours[engine])
            found.append(
                {"what": name, "engine": fastest, "ratio": ours[fastest] / times[PEER, of_peer], "target": target}
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Latency beside other models.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--sizes", nargs="+", default=["512x512", "1024x2048"], help="HEIGHTxWIDTH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20, help="timed passes, after three to warm up")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--memory", action="store_true", help="also the peak memory, in a process per row")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    report: dict[str, Any] = {}
    for text in args.sizes:
        height, _, width = text.partition("x")
        size = (int(height), int(width))
        part = benchmark(
            args.models, args.engines, [size], args.repeats, args.memory, progress=print, clock=CLOCKS[args.clock]
        )
        print(f"\n{to_markdown(part)}")
        part["ratios"] = ratios(part, size)
        if part["ratios"]:
            print(f"Our stride-16 student / transformers' MobileNetV2-DeepLab at {text}:\n")
            print("| ours | engine | ratio | target at 512x512 |\n|---|---|---|---|")
            for row in part["ratios"]:
                print(f"| {row['what']} | {row['engine']} | {row['ratio']:.3f} | {row['target']} |")
            print()
        report[text] = part
        if args.output:  # after every size, so that an interrupted run keeps what it has
            args.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
