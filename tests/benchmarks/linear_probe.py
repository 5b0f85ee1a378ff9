"""What a linear classifier reads from a map at the student's stride: the teacher's, its code's and the student's own.

A student can learn from the code only what the code holds. If a linear classifier on the code scores below one on the
plain student's own map, the autoencoder has lost what the student should be taught (rare classes go first, since they
hardly matter to a mean squared error): train it longer, or widen it.

    python tests/benchmarks/linear_probe.py --teacher kaseg/mobilenetv2-os16-camvid-teacher \\
        --autoencoder runs/ka/autoencoder --student kaseg/mobilenetv2-os16-camvid-plain runs/ka --data-dir DIR

Of a student whose folder has its adapters still, the map after the adaptation loss's adapter is read, too, and its
cosine with the code of the first autoencoder is printed, on training and on validation images, class by class. So that
the adapter's part in it can be told from the student's, every student's own map is compared as well, through a linear
map that is fitted to the code.

Last, what a student gets for nothing: for each form of the adaptation loss (`adaptation_form`), its value on the first
autoencoder's code of the validation images for a map of zeros, for the best map that is the same vector at every
position, and for a code of other positions; and the share of the first that the second saves.

The classifier is ridge regression to one-hot labels, fitted on training images and scored on validation images, both
at the student's stride.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from kaseg import KASegImageProcessor, KASegModel
from kaseg.data import get_label_space, load_segmentation_dataset
from kaseg.distillation import FeatureAutoencoder, TeacherAdapter
from kaseg.distillation.adapters import FeatureAdapter, OrthogonalAdapter
from kaseg.distillation.losses import AdaptationLoss, PearsonLoss, WhitenedLoss
from kaseg.evaluation import ConfusionMatrix, iou_scores
from kaseg.trainer.adapter_trainer import ADAPTERS_NAME

_PREFIX = "terms.adaptation.adapter."

Maps = dict[str, torch.Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--teacher-scale", type=float, default=1.0, help="as in a run")
    parser.add_argument("--autoencoder", type=Path, nargs="+", required=True, help="one or more to compare")
    parser.add_argument("--student", required=True, nargs="+", help="one or more of one output stride")
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--every", type=int, default=4, help="use every n-th image")
    parser.add_argument("--ridge", type=float, default=10.0)
    options = parser.parse_args()
    processor = KASegImageProcessor()
    networks = {
        "teacher": TeacherAdapter.from_pretrained(
            options.teacher,
            student_mean=processor.image_mean,
            student_std=processor.image_std,
            image_scale=options.teacher_scale,
        ),
        **{f"student {name}": KASegModel.from_pretrained(name).eval() for name in options.student},
        **{f"code of {folder}": FeatureAutoencoder.from_pretrained(folder).freeze() for folder in options.autoencoder},
    }
    adapters = {f"student {name}": load_adapter(Path(name) / ADAPTERS_NAME) for name in options.student}
    splits = {}
    for split in ("train", "validation"):
        dataset = load_segmentation_dataset(options.dataset, split=split, data_dir=options.data_dir)
        splits[split] = collect(networks, adapters, processor, dataset, range(0, len(dataset), options.every))
    names = get_label_space(options.dataset).names
    print(f"| map | channels | mIoU | {' | '.join(names)} |\n|{'---|' * (3 + len(names))}")
    for name in splits["train"][0]:
        scores = probe(splits["train"], splits["validation"], name, len(names), options.ridge)
        cells = (f"{100 * value:.0f}" for value in scores["per_category_iou"])
        channels = splits["train"][0][name].shape[1]
        print(f"| {name} | {channels} | {100 * scores['mean_iou']:.1f} | {' | '.join(cells)} |", flush=True)
    code = f"code of {options.autoencoder[0]}"
    print_cosines(splits, [name for name in adapters if adapters[name]], code, names)
    print_linear_cosines(splits, list(adapters), code, options.ridge)
    print_constant_shares(splits["train"][0][code], splits["validation"][0][code])


def print_cosines(
    splits: dict[str, tuple[Maps, torch.Tensor]], adapted: list[str], code: str, names: Sequence[str]
) -> None:
    """How closely students follow a code, on average over the positions that have a label, and over those of a class.

    What is left of a code without its mean vector on the training images is compared as well: all codes are alike in
    that vector, so that even a constant has a high cosine.
    """
    for name in adapted:
        print(f"\nCosine of {name} after C_f with the {code}:")
        print(f"| | all | {' | '.join(names)} |\n|{'---|' * (2 + len(names))}")
        mean = splits["train"][0][code].mean(0)
        for split, (maps, labels) in splits.items():
            found, wanted = maps[f"{name} after C_f"], maps[code]
            for what, cosines in (
                (split, F.cosine_similarity(found, wanted)),
                (f"{split}, without the mean", F.cosine_similarity(found - mean, wanted - mean)),
            ):
                cells = (cosines[labels == index].mean() for index in range(len(names)))
                print(f"| {what} | {cosines.mean():.3f} | {' | '.join(f'{cell:.3f}' for cell in cells)} |")


def print_linear_cosines(
    splits: dict[str, tuple[Maps, torch.Tensor]], students: Sequence[str], code: str, ridge: float
) -> None:
    """How much of a code a linear map reads from the students' own maps, whether they were taught it or not."""
    print(f"\nCosine with the {code} of what a linear map, fitted on training images, makes of the map of:")
    for name in students:
        fitted = splits["train"][0]
        linear = fit_linear(fitted[name], F.normalize(fitted[code], dim=1), ridge)
        for split, (maps, _) in splits.items():
            cosine = F.cosine_similarity(linear(maps[name]).relu(), maps[code].double()).mean()
            print(f"{name}, {split}: {cosine:.3f}")


def print_constant_shares(fitted: torch.Tensor, codes: torch.Tensor) -> None:
    """What a student gets of each form of the adaptation loss for a map that says nothing of where anything is.

    Args:
        fitted: Code vectors (n, c) of training images, of which the whitening is measured.
        codes: Code vectors (m, c) of validation images, on which the losses are taken.
    """
    print("\n| adaptation_form | zeros | best constant | saved | other positions |\n|---|---|---|---|---|")
    for form, loss in {
        "position": AdaptationLoss(),
        "channel": PearsonLoss(),
        "whitened": WhitenedLoss(codes.shape[1], measured_batches=1),
    }.items():
        if isinstance(loss, WhitenedLoss):
            loss(as_map(fitted), as_map(fitted))
        zeros, constant, shuffled = constant_values(loss.eval(), codes)
        print(f"| {form} | {zeros:.4f} | {constant:.4f} | {100 * (1 - constant / zeros):.0f} % | {shuffled:.4f} |")


def as_map(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors (n, c) as a map (1, c, n, 1)."""
    return vectors.T[None, :, :, None]


def constant_values(loss: torch.nn.Module, codes: torch.Tensor, steps: int = 300) -> tuple[float, float, float]:
    """The loss of codes (n, c) and a map of zeros, the best constant map, and the codes in another order.

    The constant is searched by Adam from the codes' mean, which needs not be the best where the loss is no square.
    """
    teacher = as_map(codes.float())
    with torch.no_grad():
        zeros = loss(torch.zeros_like(teacher), teacher).item()
        order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
        shuffled = loss(teacher[:, :, order], teacher).item()
    vector = F.normalize(teacher.mean((0, 2, 3)), dim=0).requires_grad_()
    optimizer = torch.optim.Adam([vector], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best = zeros
    for _ in range(steps):
        value = loss(vector[None, :, None, None].expand_as(teacher), teacher)
        best = min(best, value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return zeros, best, shuffled


def fit_linear(inputs: torch.Tensor, targets: torch.Tensor, ridge: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Ridge regression, with a bias, from vectors (n, c) to targets (n, k), in float64."""
    scale = inputs.std(0).clamp(min=1e-6).double()

    def with_bias(vectors: torch.Tensor) -> torch.Tensor:
        return torch.cat([vectors.double() / scale, scale.new_ones(len(vectors), 1)], dim=1)

    known = with_bias(inputs)
    gram = known.T @ known + ridge * torch.eye(known.shape[1], dtype=known.dtype)
    weights = torch.linalg.solve(gram, known.T @ targets.double())
    return lambda vectors: with_bias(vectors) @ weights


def load_adapter(file: Path) -> FeatureAdapter | OrthogonalAdapter | None:
    """The adaptation loss's adapter of a run, if it has one."""
    if not file.is_file():
        return None
    tensors = {name.removeprefix(_PREFIX): value for name, value in load_file(file).items() if name.startswith(_PREFIX)}
    if not tensors:
        return None
    adapter: FeatureAdapter | OrthogonalAdapter
    if "0.weight" in tensors:
        channels, in_channels = tensors["0.weight"].shape[:2]
        adapter = FeatureAdapter(in_channels, channels)
    else:
        channels, in_channels = tensors["projection.parametrizations.weight.original"].shape
        adapter = OrthogonalAdapter(in_channels, channels)
    adapter.load_state_dict(tensors)
    return adapter.eval()


@torch.no_grad()
def collect(
    networks: dict,
    adapters: dict[str, FeatureAdapter | OrthogonalAdapter | None],
    processor: KASegImageProcessor,
    dataset: object,
    indices: range,
) -> tuple[Maps, torch.Tensor]:
    """Vectors (n, c) of every map at the students' positions and their labels (n,)."""
    vectors: dict[str, list[torch.Tensor]] = defaultdict(list)
    labels = []
    for index in indices:
        sample = dataset[index]
        pixels = processor(sample["image"], return_tensors="pt")["pixel_values"]
        teacher = networks["teacher"](pixels).features
        students = {name: networks[name](pixels, output_hidden_states=True).hidden_states[-1] for name in adapters}
        grid = next(iter(students.values())).shape[-2:]
        label = torch.from_numpy(np.array(sample["label"]))[None, None].float()
        label = F.interpolate(label, size=grid, mode="nearest-exact").flatten().long()
        known = label != 255
        maps = {"teacher": F.interpolate(teacher, size=grid, mode="area"), **students}
        maps |= {f"{name} after C_f": adapter(students[name]) for name, adapter in adapters.items() if adapter}
        for name, network in networks.items():
            if isinstance(network, FeatureAutoencoder):
                maps[name] = F.interpolate(network.encode(teacher), size=grid, mode="bilinear")
        for name, features in maps.items():
            vectors[name].append(features[0].flatten(1).T[known])
        labels.append(label[known])
    return {name: torch.cat(parts) for name, parts in vectors.items()}, torch.cat(labels)


def probe(
    train: tuple[Maps, torch.Tensor], validation: tuple[Maps, torch.Tensor], name: str, num_labels: int, ridge: float
) -> dict:
    """Scores of the linear classifier that is fitted to `name` on one split, on the other."""
    (fitted, labels), (held_out, references) = train, validation
    linear = fit_linear(fitted[name], F.one_hot(labels, num_labels), ridge)
    matrix = ConfusionMatrix(num_labels)
    matrix.update(linear(held_out[name]).argmax(1)[None], references[None])
    return iou_scores(matrix.matrix)


if __name__ == "__main__":
    main()
