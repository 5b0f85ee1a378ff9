"""Predictions for a test split, in the form that a benchmark's server takes."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from kaseg.data.label_spaces import LabelSpace, palette_for
from kaseg.data.samples import source_files
from kaseg.evaluation.processes import Processes
from kaseg.evaluation.protocols import WHOLE_IMAGE, InferenceProtocol
from kaseg.evaluation.samples import predicted_samples, prepared_batches
from kaseg.writing import whole_file

_VOC_FOLDER = PurePosixPath("results/VOC2012/Segmentation/comp6_test_cls")
_CITYSCAPES_FRAME = re.compile(r"[a-z-]+_\d{6}_\d{6}")


def write_submission(
    model: Any,
    dataset: Iterable[dict[str, Any]],
    image_processor: Any,
    output_dir: str | Path,
    label_space: LabelSpace,
    batch_size: int = 1,
    progress: Callable[[int], None] | None = None,
    protocol: InferenceProtocol = WHOLE_IMAGE,
    num_workers: int = 0,
) -> int:
    """Predicts every image and writes its mask as the benchmark of `label_space` wants it.

    - voc2012: `results/VOC2012/Segmentation/comp6_test_cls/{id}.png`, palette PNG of class ids (the VOC development
      kit's layout for competition 6, which allows other training data).
    - cityscapes: `{city}_{sequence}_{frame}_pred.png`, label ids and not train ids (cityscapesScripts,
      `evalPixelLevelSemanticLabeling.py`, takes `<city>_123456_123456*.png`).
    - all others: `{id}.png`, gray PNG of the raw values that the dataset's own masks have, for ade20k that is what its
      server takes; RGB PNG of the palette's colors, where the masks are of colors (encoding "color").

    For voc2012 and cityscapes the server decides, and not how the masks at hand are encoded.

    Masks have the images' own size. Labels are not looked at and may be missing. In a distributed run the processes
    share the images.

    Args:
        model: One with the classes of `label_space`.
        dataset: Samples with `image` (PIL) and `id`.
        output_dir: Where the files go; made if missing. Files of the same names are overwritten, but for those of the
            dataset itself.
        label_space: The dataset's classes; its label map leads back from train ids to raw values, or its palette to
            colors.
        image_processor, batch_size, progress, protocol, num_workers: As for [`~kaseg.evaluation.evaluate_model`].

    Returns:
        The number of files, over all processes.

    Raises:
        ValueError: as [`raw_values`] and [`submission_name`] do; a file would replace one of the dataset or of another
            sample.
        OSError: a file cannot be written; the message names it.
    """
    to_raw, taken = raw_values(label_space), source_files(dataset)
    written: set[Path] = set()
    processes = Processes.join(use_cpu=next(model.parameters()).device.type == "cpu")
    batches = prepared_batches(dataset, image_processor, batch_size, num_workers, processes, with_labels=False)
    for sample, mask in predicted_samples(model, batches, protocol, progress):
        image = Image.fromarray(to_raw[mask.cpu().numpy()])
        if label_space.name == "voc2012":
            image.putpalette([channel for color in palette_for(256) for channel in color])
        file = Path(output_dir) / submission_name(label_space.name, sample.name)
        if os.path.realpath(file) in taken:
            raise ValueError(
                f"{file} is a file of the dataset, which its prediction would replace: choose another folder."
            )
        if file in written:
            raise ValueError(
                f"Sample {sample.name!r}: {file} is another sample's file already. Give each an id of its own."
            )
        with whole_file(file) as temporary:
            image.save(temporary, format="PNG")
        written.add(file)
    return sum(processes.gather(len(written)))


def submission_name(benchmark: str, sample_id: str) -> PurePosixPath:
    """The file of a sample's prediction, below the output folder, for the benchmark of a label space of this name.

    Raises:
        ValueError: the `id` does not make a name that the benchmark takes, or leads out of the folder.
    """
    if benchmark == "voc2012":
        return _VOC_FOLDER / f"{PurePosixPath(sample_id).name}.png"
    if benchmark.startswith("cityscapes"):
        frame = _CITYSCAPES_FRAME.match(PurePosixPath(sample_id).name)
        if frame is None:
            raise ValueError(
                f"Sample {sample_id!r}: the Cityscapes server takes files named <city>_<6 digits>_<6 digits>*.png, and "
                "this id has no such name. Load the dataset by its name, or give the samples ids of that form."
            )
        return PurePosixPath(f"{frame.group()}_pred.png")
    name = PurePosixPath(f"{sample_id}.png")
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"Sample {sample_id!r}: such an id would be written outside the output folder; rename it.")
    return name


def raw_values(label_space: LabelSpace) -> np.ndarray:
    """What a submission holds for every train id: uint8 (C,), the raw mask values, or (C, 3), the colors, where the
    masks are of colors.

    Raises:
        ValueError: a class has several raw values, none, or one above 255; or Cityscapes comes without its label map,
            whose raw values the server wants.
    """
    # The servers of these two take class ids, whatever the masks at hand look like.
    takes_ids = label_space.name == "voc2012" or label_space.name.startswith("cityscapes")
    if label_space.encoding == "color" and not takes_ids:
        return np.array(label_space.palette, dtype=np.uint8)
    if label_space.label_map is None:
        if label_space.name.startswith("cityscapes"):
            raise ValueError(
                f"The label space {label_space.name!r} has no label map, but the Cityscapes server wants label ids in "
                "place of train ids. Use the dataset's own label space."
            )
        return np.arange(label_space.num_labels, dtype=np.uint8)
    raw: dict[int, list[int]] = {train: [] for train in range(label_space.num_labels)}
    for value, train in label_space.label_map.items():
        if train != label_space.ignore_index:
            raw[train].append(value)
    for train, values in raw.items():
        if len(values) != 1 or values[0] > 255:
            raise ValueError(
                f"Class {label_space.names[train]!r} of {label_space.name!r} stands for the raw values {values}; a "
                "submission needs exactly one in 0..255 for each class. Pass a label space whose label_map has that."
            )
    return np.array([values[0] for values in raw.values()], dtype=np.uint8)
