"""Speed of loading one training sample, where the time goes, and a plain torchvision pipeline beside it.

    python tests/benchmarks/data_loading.py --output data_loading.json

Prints two Markdown tables: images per second of one worker (one process, one thread) with the ratio to the reference
in the same run, and the time of every stage. The files are drawn from kaseg's synthetic scenes into a temporary
folder: "voc" has JPEG pictures of 500x375 and palette PNG masks, "cityscapes" PNG pictures and masks of 2048x1024.

The reference is what one would write with torchvision: decode, resize the whole image and mask by the random scale,
pad, crop, flip, `to_dtype(scale=True)`, `normalize`. Both draw the scales 0.5..2. The two take turns, sample by sample,
on the processor time of this process. The script fails if a stage runs more than once for a sample.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from kaseg.data import SCENES, SegmentationDataset, TrainTransform, load_segmentation_dataset, samples, transforms
from kaseg.data.scenes import render_scene

LAYOUTS = {"voc": (375, 500, "jpg"), "cityscapes": (1024, 2048, "png")}
STAGES: dict[str, tuple[Any, str]] = {
    "decode image": (samples, "read_image"),
    "decode mask": (samples, "read_mask"),
    "map labels": (samples, "map_labels"),
    "resize + crop": (Image.Image, "resize"),
    "normalize": (transforms._Normalize, "__call__"),
    "place labels": (transforms, "_place_labels"),
}
EXPECTED_CALLS = {"resize + crop": 2}  # the picture and the mask; every other stage runs once


def write_files(root: Path, layout: str, count: int) -> list[tuple[Path, Path]]:
    """Draws the scenes. Returns the pairs of picture and mask."""
    height, width, suffix = LAYOUTS[layout]
    palette = np.zeros((256, 3), np.uint8)
    palette[: SCENES.num_labels] = SCENES.palette
    pairs = []
    for index in range(count):
        pixels, labels = render_scene(0, index, height, width)
        pair = root / f"images/{index}.{suffix}", root / f"masks/{index}.png"
        for path in pair:
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(pair[0], **({"quality": 90} if suffix == "jpg" else {}))
        mask = Image.fromarray(labels)
        mask.putpalette(palette.tobytes())
        mask.save(pair[1])
        pairs.append(pair)
    return pairs


def reference_sample(pair: tuple[Path, Path], crop: int) -> dict[str, torch.Tensor]:
    """The whole image decoded, resized, padded, cropped and normalized with torchvision."""
    image, label = Image.open(pair[0]).convert("RGB"), Image.open(pair[1])
    scale = float(torch.empty(()).uniform_(0.5, 2.0))
    size = [round(image.height * scale), round(image.width * scale)]
    image = TF.resize(image, size, v2.InterpolationMode.BILINEAR)
    label = TF.resize(label, size, v2.InterpolationMode.NEAREST)
    right, bottom = max(0, crop - size[1]), max(0, crop - size[0])
    if right or bottom:
        image = TF.pad(image, [0, 0, right, bottom], fill=[124, 116, 104])
        label = TF.pad(label, [0, 0, right, bottom], fill=255)
    left, top = (int(torch.randint(length - crop + 1, ())) for length in image.size)
    image, label = TF.crop(image, top, left, crop, crop), TF.crop(label, top, left, crop, crop)
    if torch.rand(()) < 0.5:
        image, label = TF.horizontal_flip(image), TF.horizontal_flip(label)
    pixels = TF.to_dtype(TF.to_image(image), torch.float32, scale=True)
    pixels = TF.normalize(pixels, list(transforms.IMAGENET_MEAN), list(transforms.IMAGENET_STD))
    return {"pixel_values": pixels, "labels": torch.from_numpy(np.array(label, dtype=np.int64))}


@contextmanager
def timed_stages(seconds: dict[str, float], calls: Counter[str], clock: Callable[[], float]) -> Iterator[None]:
    """Adds up the time and the number of calls of every stage while it is active."""

    def timed(name: str, function: Callable) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[name] += clock() - start
                calls[name] += 1

        return call

    patches = [
        mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute)))
        for name, (owner, attribute) in STAGES.items()
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def measure(root: Path, pairs: list[tuple[Path, Path]], crop: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of a sample, ours and the reference's, and of every stage of ours.

    Raises:
        RuntimeError: If shapes or types differ, or a stage runs more than once for a sample.
    """
    clock = time.process_time
    data = load_segmentation_dataset(str(root), split="train", label_space="scenes")
    dataset = SegmentationDataset(data, TrainTransform(crop_size=crop))
    ours: list[float] = []
    reference: list[float] = []
    for epoch in range(repeats + 1):
        dataset.set_epoch(epoch)
        for index, pair in enumerate(pairs):
            start = clock()
            sample = dataset[index]
            middle = clock()
            other = reference_sample(pair, crop)
            end = clock()
            if epoch:  # the first warms up
                ours.append(middle - start)
                reference.append(end - middle)
            if any(
                sample[name].shape != other[name].shape or sample[name].dtype != other[name].dtype for name in sample
            ):
                raise RuntimeError("the two pipelines give different shapes or types")
    seconds: dict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    start = clock()
    with timed_stages(seconds, calls, clock):
        for epoch in range(1, repeats + 1):
            dataset.set_epoch(epoch)
            for index in range(len(pairs)):
                dataset[index]
    total, count = clock() - start, repeats * len(pairs)
    wrong = {name: calls[name] / count for name in STAGES if calls[name] != count * EXPECTED_CALLS.get(name, 1)}
    if wrong:
        raise RuntimeError(f"calls per sample are not as expected: {wrong}")
    stages = {name: 1e3 * seconds[name] / count for name in STAGES}
    stages["rest"] = 1e3 * total / count - sum(stages.values())
    means = 1e3 * statistics.mean(ours), 1e3 * statistics.mean(reference)
    return {"crop": crop, "ms": means[0], "reference_ms": means[1], "ratio": means[1] / means[0], "stages_ms": stages}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Speed of loading training samples.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--layouts", choices=LAYOUTS, nargs="+", default=list(LAYOUTS))
    parser.add_argument("--crops", type=int, nargs="+", default=[513, 769])
    parser.add_argument("--files", type=int, default=4, help="pictures to draw for each layout")
    parser.add_argument("--repeats", type=int, default=10, help="timed rounds over the files, after one to warm up")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rows = []
    with tempfile.TemporaryDirectory() as folder, mock.patch("datasets.config.HF_DATASETS_CACHE", folder):
        for layout in args.layouts:
            root = Path(folder) / layout
            pairs = write_files(root, layout, args.files)
            rows += [{"layout": layout, **measure(root, pairs, crop, args.repeats)} for crop in args.crops]

    print("| files | crop | images per second | ms | reference ms | ratio |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = f"{1e3 / row['ms']:.1f} | {row['ms']:.1f} | {row['reference_ms']:.1f} | {row['ratio']:.2f}x"
        print(f"| {row['layout']} | {row['crop']} | {cells} |")
    names = list(rows[0]["stages_ms"])
    print(f"\nms of one sample by stage\n\n| files | crop | {' | '.join(names)} |\n{'|---' * (2 + len(names))}|")
    for row in rows:
        cells = " | ".join(f"{row['stages_ms'][name]:.2f}" for name in names)
        print(f"| {row['layout']} | {row['crop']} | {cells} |")
    if args.output:
        settings = {name: value for name, value in vars(args).items() if name != "output"}
        args.output.write_text(json.dumps({"torch": torch.__version__, **settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
