"""Peak memory of an evaluation at 50 and at 500 images, each in a process of its own.

    python tests/benchmarks/evaluation_memory.py --output evaluation_memory.json

Prints a Markdown table of peak resident memory (`ru_maxrss`) per number of images. The images are synthetic street
scenes of 128x96, drawn on access; the network is an untrained student of 171 classes at stride 16, so that kept logits
would show: one image's full-size logits take 8 MiB. Fails if the largest peak is more than 5 % above the
smallest.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

LIMIT = 1.05
PROTOCOLS: dict[str, dict] = {
    "whole image": {},
    "sliding window, flips": {"mode": "slide", "crop_size": 97, "flip": True},
}


def evaluate(protocol: str, images: int, threads: int) -> float:
    """Scores `images` scenes in this process and returns its peak memory in MiB."""
    import torch

    from kaseg import KASegConfig, KASegImageProcessor, KASegModel
    from kaseg.data import load_segmentation_dataset
    from kaseg.evaluation import InferenceProtocol, evaluate_model

    torch.set_num_threads(threads)
    model = KASegModel(KASegConfig(backbone="mobilenetv2_050", output_stride=16, num_labels=171))
    scenes = load_segmentation_dataset("scenes", split="validation", num_scenes=images, height=96, width=128)
    scores = evaluate_model(model, scenes, KASegImageProcessor(), protocol=InferenceProtocol(**PROTOCOLS[protocol]))
    if scores["num_images"] != images:
        raise RuntimeError(f"{scores['num_images']} images were scored, not {images}")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_a_process_of_its_own(protocol: str, images: int, threads: int) -> float:
    arguments = ["--child", protocol, "--images", str(images), "--threads", str(threads)]
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Peak memory of an evaluation by number of images.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--images", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(evaluate(args.child, args.images[0], args.threads))
        return

    print("| protocol | " + " | ".join(f"MiB at {images} images" for images in args.images) + " | largest / smallest |")
    print("|---" * (len(args.images) + 2) + "|")
    peaks = {}
    for protocol in PROTOCOLS:
        peaks[protocol] = [in_a_process_of_its_own(protocol, images, args.threads) for images in args.images]
        ratio = max(peaks[protocol]) / min(peaks[protocol])
        print(
            f"| {protocol} | " + " | ".join(f"{peak:.0f}" for peak in peaks[protocol]) + f" | {ratio:.3f} |", flush=True
        )
    if args.output:
        args.output.write_text(
            json.dumps({"images": args.images, "threads": args.threads, "MiB": peaks}, indent=2) + "\n"
        )
    if any(max(values) > LIMIT * min(values) for values in peaks.values()):
        sys.exit(f"peak memory grows by more than {LIMIT - 1:.0%} with the number of images")


if __name__ == "__main__":
    main()
