"""`kaseg submit`."""

from pathlib import Path
from typing import Annotated

import typer

from . import common


def submit(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder or shipped checkpoint.")],
    dataset: Annotated[str, typer.Option(help="Name, folder or Hub id of the dataset.")],
    output: Annotated[Path, typer.Option(help="Folder for the masks; made if missing.")],
    data_dir: common.DataDir = None,
    split: Annotated[str, typer.Option(help="Split to predict; labels are not needed.")] = "test",
    label_space: common.LabelSpaceFile = None,
    protocol: common.Protocol = common.Mode.WHOLE,
    crop_size: common.CropSize = None,
    overlap: common.Overlap = None,
    scales: common.Scales = "1",
    flip: common.Flip = False,
    batch_size: common.BatchSize = 1,
    num_workers: common.Workers = 0,
    device: common.Device = None,
    max_samples: common.MaxSamples = None,
) -> None:
    """Write the predictions for a test split in the form that the benchmark's server takes.

    PASCAL VOC: palette PNG in results/VOC2012/Segmentation/comp6_test_cls. Cityscapes: PNG of label ids. All others:
    PNG of the values that the dataset's own masks have, or of their colors (label space NAME:color, FILE:color).
    """
    from ..data import get_label_space
    from ..evaluation.processes import Processes
    from ..evaluation.submission import write_submission
    from ..progress import progress_bar
    from .models import load_model
    from .output import console

    how = common.protocol_from(protocol, crop_size, overlap, scales, flip)
    space = get_label_space(dataset, data_dir, label_space)
    data = common.load_split(dataset, split, data_dir, space, max_samples)
    network, processor = load_model(model, device)
    common.check_classes(network, space)
    processes = Processes.join(use_cpu=network.device.type == "cpu")
    share = len(processes.share(len(data)))
    with progress_bar("Predicting", share, "images", disable=not processes.is_main) as bar:
        count = write_submission(
            network,
            data,
            processor,
            output,
            space,
            batch_size,
            progress=bar.update,
            protocol=how,
            num_workers=num_workers,
        )
    if processes.is_main:
        console.print(f"{count} masks: {output}", soft_wrap=True)
