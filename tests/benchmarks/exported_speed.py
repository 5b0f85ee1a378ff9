"""Size and speed of a student's exports, engine by engine, beside eager PyTorch.

    OMP_NUM_THREADS=1 python tests/benchmarks/exported_speed.py

Exports a stride-16 MobileNetV2 student with 21 classes and random weights by `export_model`, with its checks, and runs
every export on one image of a fixed size, in turns. Clocked is the processor time of one thread, so that a busy machine
does not count. int8 is calibrated on drawn scenes: good for speed alone. A format whose packages are missing is left
out, with the reason.
"""

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.data import load_segmentation_dataset
from kaseg.evaluation.cost import milliseconds
from kaseg.export import ExportOptions, Int8Data, MissingPackageError, export_model
from kaseg.export.formats import load_export
from kaseg.export.runtimes import RUNTIMES
from kaseg.markdown import table

CASES = ("onnx", "onnx int8", "openvino", "openvino int8", "torch-export", "executorch", "litert", "litert int8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--exports", nargs="+", choices=CASES, default=list(CASES), help="format, or format int8")
    parser.add_argument("--size", type=int, default=512, help="side of the image")
    parser.add_argument("--repeats", type=int, default=10, help="timed passes, after three to warm up")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, processor = KASegModel(KASegConfig(num_labels=21)).eval(), KASegImageProcessor()
    size = (args.size, args.size)
    image = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
    with TemporaryDirectory() as scratch, torch.inference_mode():
        runs = {"eager": partial(model, torch.from_numpy(image))}
        sizes = {"eager": 4 * model.num_parameters()}
        for case in args.exports:
            format, _, dtype = case.partition(" ")
            options = ExportOptions(format, dtype or "float32", size=size)
            scenes = load_segmentation_dataset("scenes", split="train", num_scenes=2, height=args.size, width=args.size)
            int8 = Int8Data(scenes, scenes, samples=2, methods=("minmax",), max_loss=100) if dtype else None
            folder = Path(scratch) / case
            try:
                facts = export_model(model, processor, folder, options, int8)
            except MissingPackageError as error:
                print(f"{case}: {error}")
                continue
            if format in RUNTIMES:
                exported = RUNTIMES[format].from_pretrained(folder, threads=1)
            else:
                (exported,) = load_export(folder, options, model.config, facts).values()
            runs[case] = partial(exported.run, image)
            sizes[case] = sum(file.stat().st_size for file in folder.glob("*model*"))
        times = milliseconds(runs, args.repeats, time.process_time)
    medians = {name: statistics.median(values) for name, values in times.items()}
    cells = [
        (name, f"{sizes[name] / 1e6:.1f}", f"{median:.0f}", f"{median / medians['eager']:.2f}")
        for name, median in medians.items()
    ]
    print(table(("export", "MB", "ms", "ratio to eager"), cells))


if __name__ == "__main__":
    main()
