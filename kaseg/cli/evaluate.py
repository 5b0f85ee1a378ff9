"""`kaseg evaluate`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from . import common


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id, folder, shipped checkpoint or an export.")],
    dataset: Annotated[str, typer.Option(help="Name (camvid, voc2012, scenes), folder or Hub id of the dataset.")],
    data_dir: common.DataDir = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "validation",
    label_space: common.LabelSpaceFile = None,
    image_column: Annotated[str | None, typer.Option(help="Column of a Hub dataset's images; guessed.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of a Hub dataset's masks; guessed.")] = None,
    config_name: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub dataset.")] = None,
    on_error: Annotated[common.OnError, typer.Option(help="What to do about bad samples.")] = common.OnError.RAISE,
    protocol: common.Protocol = common.Mode.WHOLE,
    crop_size: common.CropSize = None,
    overlap: common.Overlap = None,
    scales: common.Scales = "1",
    flip: common.Flip = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here.")] = None,
    per_image: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write a table of all images here, the worst first.")
    ] = None,
    confusion_matrix: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the confusion matrix here.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write a page with the scores and the worst images here.")
    ] = None,
    batch_size: common.BatchSize = 1,
    num_workers: common.Workers = 0,
    device: common.Device = None,
    as_teacher: Annotated[
        bool, typer.Option(help="Score what kaseg distill reads of it: the dataset's classes among its own.")
    ] = False,
    max_samples: common.MaxSamples = None,
) -> None:
    """Score a model on a dataset: IoU, boundary IoU and accuracy per class, mean IoU, pixel accuracy.

    By default whole images at a single scale. Always at the labels' own resolution, counted over the whole dataset;
    void is left out. Under torchrun the processes share the images.
    """
    from ..data import get_label_space
    from ..evaluation.evaluator import evaluate_model, protocol_of
    from ..evaluation.processes import Processes
    from ..progress import progress_bar
    from .models import load_model, on_device
    from .output import console, print_scores

    how = common.protocol_from(protocol, crop_size, overlap, scales, flip)
    space = get_label_space(dataset, data_dir, label_space)
    columns = {"image_column": image_column, "label_column": label_column}
    where = {"config_name": config_name, "revision": revision}
    data = common.load_split(dataset, split, data_dir, space, max_samples, **columns, **where, on_error=on_error.value)
    network: Any
    if as_teacher:
        from ..distillation.teachers.as_model import TeacherModel

        network = on_device(TeacherModel(model, space.id2label), device)
        processor, counted = network.processor, network.teacher.model
    else:
        network, processor = load_model(model, device)
        counted = network
    common.check_classes(network, space)
    processes = Processes.join(use_cpu=network.device.type == "cpu")
    share = len(processes.share(len(data)))
    with progress_bar("Scoring", share, "images", disable=not processes.is_main) as bar:
        scores = evaluate_model(
            network,
            data,
            processor,
            batch_size,
            progress=bar.update,
            protocol=how,
            num_workers=num_workers,
            on_error=on_error.value,
        )
    if not processes.is_main:
        return
    rows = scores.pop("per_image")
    results = {"model": model, "dataset": dataset, "split": split, "protocol": protocol_of(processor, how), **scores}
    results.update(_cost(counted))

    def write_page(path: Path) -> None:
        from ..experiments.evaluation_page import write_evaluation_page

        write_evaluation_page(path, network, data, processor, results, rows, space, how)

    # Before anything is shown: what took long must not be lost.
    written, failed = _write(results, rows, json_file, per_image, confusion_matrix, (page, "Page", write_page))
    print_scores(results)
    for path, what in written:
        console.print(f"{what}: {path}", soft_wrap=True)
    if failed:
        raise OSError("\n".join(["The model is scored, but not all of it could be written:", *failed]))


def _write(
    results: dict[str, Any],
    rows: list[dict[str, Any]],
    json_file: Path | None,
    table: Path | None,
    plot: Path | None,
    page: tuple[Path | None, str, Callable[[Path], None]],
) -> tuple[list[tuple[Path, str]], list[str]]:
    """Writes the files that were asked for; returns those with what they hold, and what is wrong with the others."""
    from ..evaluation.per_image import write_table
    from ..writing import write_json

    def draw(path: Path) -> None:
        from ..evaluation.plots import plot_confusion_matrix

        path.parent.mkdir(parents=True, exist_ok=True)
        figure = plot_confusion_matrix(results["confusion_matrix"], list(results["per_category_iou"]))
        figure.savefig(path, format="png", dpi=120)

    written, failed = [], []
    for path, what, write in (
        (json_file, "Scores", lambda path: write_json(path, results)),
        (table, "Images, the worst first", lambda path: write_table(path, rows)),
        (plot, "Confusion matrix", draw),
        page,
    ):
        if path is None:
            continue
        try:
            write(path)
            written.append((path, what))
        except Exception as error:
            failed.append(f"{what}: {path} ({type(error).__name__}: {error})")
    return written, failed


def _cost(network: Any) -> dict[str, Any]:
    from ..evaluation.cost import describe_cost
    from ..export.runtimes.base import ExportedModel
    from ..modeling_kaseg import KASegModel
    from ..version import __version__

    if isinstance(network, ExportedModel):  # an engine cannot be counted, but it is the same network
        network = KASegModel(network.config)
    return {**describe_cost(network), "kaseg_version": __version__}
