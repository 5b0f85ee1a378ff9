"""The models of the paper: which there are, as one table. What it says of a model is in `hub_configs/<name>/`."""

from __future__ import annotations

from dataclasses import dataclass, field

STUDENT_BACKBONE = "mobilenetv2_100"
STUDENT_STRIDES = (4, 8, 16, 32)
TEACHER_BACKBONES = ("resnet50", "xception41")
TEACHER_STRIDE = 16
# The paper does not say which of its two teachers taught the students that it shows.
TEACHING_BACKBONE = "resnet50"
_TRUNKS = {"mobilenetv2_100": "mobilenetv2"}


@dataclass(frozen=True)
class Benchmark:
    """A data set as the paper trains on it (He et al. 2019, implementation details; the crops are DeepLab's).

    Args:
        short: What it is called in a model's name.
        dataset: Its name in [`kaseg.data.SPECS`].
        train_split: The split to train on.
        crop: Height and width of the training crop in pixels.
        steps: Training steps.
        note: What is different about it in the paper.
        scores: What the paper's Figure 1 shows, in mean IoU %: output stride -> plain and adapted student.
    """

    short: str
    dataset: str
    train_split: str
    crop: int
    steps: int
    note: str
    scores: dict[int, tuple[float, float]] = field(default_factory=dict)


BENCHMARKS = (
    Benchmark(
        short="voc",
        dataset="voc2012",
        train_split="trainaug",
        crop=513,
        steps=30_000,
        note="The paper's teacher saw COCO for 300k iterations first (HIGH); this recipe leaves that out. To start "
        "from a checkpoint trained on COCO, name it with model.",
        scores={32: (68.9, 70.7), 16: (70.5, 72.5), 8: (71.9, 72.9), 4: (72.3, 73.0)},
    ),
    Benchmark(
        short="cityscapes",
        dataset="cityscapes",
        train_split="train",
        crop=769,
        steps=90_000,
        note="For the test server the paper fine-tunes on trainval and the coarse labels (HIGH; how is UNKNOWN); this "
        "recipe does not.",
    ),
    Benchmark(
        short="context",
        dataset="pascal_context",
        train_split="train",
        crop=513,
        steps=30_000,
        note="Whether the paper counts 59 or 60 classes is UNKNOWN; 59 is our choice.",
    ),
)


@dataclass(frozen=True)
class Member:
    """One model of the family.

    Args:
        kind: "teacher", "plain" (a student that learns from the labels alone) or "ka" (an adapted one).
        backbone: timm encoder.
        output_stride: Of the encoder.
        benchmark: What it is trained on.
    """

    kind: str
    backbone: str
    output_stride: int
    benchmark: Benchmark

    @property
    def name(self) -> str:
        """Name of its repository: trunk, stride, data, and how it is trained."""
        trunk = _TRUNKS.get(self.backbone, self.backbone)
        return f"{trunk}-os{self.output_stride}-{self.benchmark.short}-{self.kind}"

    @property
    def head(self) -> str:
        """Its head, as in [`KASegConfig`]."""
        return "deeplabv3plus" if self.kind == "teacher" else "student"

    @property
    def teacher(self) -> Member:
        """Who teaches it."""
        return Member("teacher", TEACHING_BACKBONE, TEACHER_STRIDE, self.benchmark)


def members() -> list[Member]:
    """Every teacher, and every student plain and adapted, on every benchmark."""
    family = []
    for benchmark in BENCHMARKS:
        family += [Member("teacher", backbone, TEACHER_STRIDE, benchmark) for backbone in TEACHER_BACKBONES]
        family += [
            Member(kind, STUDENT_BACKBONE, stride, benchmark) for stride in STUDENT_STRIDES for kind in ("plain", "ka")
        ]
    return family
