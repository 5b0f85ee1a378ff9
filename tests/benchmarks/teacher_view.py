"""What a teacher knows of the student's crops: shown the crop, the crop enlarged, or the whole image once (with
logits at the stride of its map, and at a finer one).

    python tests/benchmarks/teacher_view.py voc2012 --data-dir DIR --label-space hub_configs/voc-animals.classes.json \
        --teacher google/deeplabv3_mobilenet_v2_1.0_513 --crop-size 192 --scales 0.35 0.8 --images 100

prints the mean IoU of each on the same random crops of a split, against the labels, the IoU of the first class, and the
seconds per crop.
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from kaseg import KASegImageProcessor
from kaseg.data import TrainTransform, get_label_space, load_segmentation_dataset
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers.maps import TeacherMaps
from kaseg.evaluation import ConfusionMatrix, iou_scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data-dir")
    parser.add_argument("--label-space")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--crop-size", type=int, default=192)
    parser.add_argument("--scales", type=float, nargs=2, default=(0.5, 2.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--enlarged", type=float, nargs="*", default=(2.0,), help="teacher_scale values to try")
    parser.add_argument("--logits-stride", type=int, default=4)
    parser.add_argument("--images", type=int, default=100)
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    space = get_label_space(args.dataset, args.data_dir, args.label_space)
    data = load_segmentation_dataset(
        args.dataset, split=args.split, data_dir=args.data_dir, label_space=args.label_space
    )
    step = max(1, len(data) // args.images)
    samples = [data[index] for index in range(0, len(data), step)][: args.images]
    processor = KASegImageProcessor()
    size = (args.crop_size, args.crop_size)

    def teacher(scale: float = 1.0) -> TeacherAdapter:
        mean, std = processor.image_mean, processor.image_std
        return TeacherAdapter.from_pretrained(
            args.teacher, image_scale=scale, student_mean=mean, student_std=std, student_labels=space.id2label
        )

    transform = TrainTransform(size, tuple(args.scales))
    crops = []
    for index, sample in enumerate(samples):
        torch.manual_seed(index)
        crops.append(transform.with_view(sample["image"], sample["label"]))

    def report(name: str, logits_of: Callable[[int], torch.Tensor]) -> None:
        matrix, start = ConfusionMatrix(space.num_labels), time.perf_counter()
        for index, (inputs, _) in enumerate(crops):
            logits = F.interpolate(logits_of(index)[None], size, mode="bilinear", align_corners=False)
            matrix.update(logits.argmax(1), inputs["labels"][None])
        seconds = (time.perf_counter() - start) / len(crops)
        scores = iou_scores(matrix.matrix)
        first = f"{100 * scores['per_category_iou'][0]:5.1f} {space.id2label[0]}"
        print(f"{name:45} {100 * scores['mean_iou']:5.1f} mIoU {first} {seconds:7.3f} s per crop", flush=True)

    print(f"{len(crops)} crops of {size} at scales {args.scales[0]} to {args.scales[1]}")
    for scale in (1.0, *args.enlarged):
        shown = teacher(scale)
        report(f"the crop, teacher_scale {scale}", lambda i: shown(crops[i][0]["pixel_values"][None]).logits[0])  # noqa: B023
    with tempfile.TemporaryDirectory() as folder:
        whole = teacher()
        strides = {"logits": whole.maps()["logits"].stride}
        maps = TeacherMaps(folder, whole, strides, size, processor)
        start = time.perf_counter()
        for sample in samples:
            maps.add(sample["image"], whole)
        once = (time.perf_counter() - start) / len(samples)
        finer = TeacherMaps(folder, whole, strides, size, processor, args.logits_stride)
        for name, cut in (("", maps), (f", teacher_logits_stride {args.logits_stride}", finer)):
            report(
                f"the whole image, once{name}",
                lambda i: cut.crop(samples[i]["image"], crops[i][1])["teacher_logits"],  # noqa: B023
            )
        print(f"seeing an image once: {once:.3f} s")


if __name__ == "__main__":
    main()
