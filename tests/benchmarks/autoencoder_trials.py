"""Autoencoders fitted quickly, to compare their settings: on crops of the teacher's maps, which are computed once.

    python tests/benchmarks/autoencoder_trials.py runs/codes/kl10 --teacher kaseg/mobilenetv2-os16-camvid-teacher \\
        --data-dir DIR --steps 800 --classifier-weight 10

The images are those of the training split as they are: neither scaled nor recolored as the trainer's are, so that a
code is better here than after as many steps of the trainer. AdamW in bfloat16, poly schedule, 50 steps to warm up,
batches of 8 random quarters of maps, half of them mirrored. `linear_probe.py` scores what is written, and the share of
the maps' variance that the reconstruction explains is printed.

`--sgd` takes the trainer's default optimizer instead (0.1, momentum 0.9, float32, no warming up), `--scale` multiplies
the maps, and `--no-statistics` leaves them as they are, as before autoencoders normalized them.
"""

import argparse
from pathlib import Path

import torch
from torch.nn import functional as F

from kaseg import KASegImageProcessor
from kaseg.data import load_segmentation_dataset
from kaseg.distillation import FeatureAutoencoder, FeatureAutoencoderConfig, TeacherAdapter

_BATCH = 8
_WARM_UP = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--every", type=int, default=1, help="use every n-th image")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--classifier-weight", type=float, default=0.0)
    parser.add_argument("--latent-channels", type=int, default=128)
    parser.add_argument("--sgd", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--no-statistics", action="store_true")
    options = parser.parse_args()
    processor = KASegImageProcessor()
    teacher = TeacherAdapter.from_pretrained(
        options.teacher, student_mean=processor.image_mean, student_std=processor.image_std
    )
    dataset = load_segmentation_dataset(options.dataset, split="train", data_dir=options.data_dir)
    images = (dataset[index]["image"] for index in range(0, len(dataset), options.every))
    with torch.autocast("cpu", torch.bfloat16):
        maps = [teacher(processor(image, return_tensors="pt")["pixel_values"]).features.bfloat16() for image in images]
    maps = torch.cat(maps) * options.scale
    autoencoder = fit(maps, teacher, options)
    print(f"{100 * explained(autoencoder, maps):.2f} % of the variance explained (std {maps.float().std():.3g})")
    autoencoder.save_pretrained(options.output)


def fit(maps: torch.Tensor, teacher: TeacherAdapter, options: argparse.Namespace) -> FeatureAutoencoder:
    """An autoencoder over maps (N, c_t, h, w), with the trainer's loss."""
    torch.manual_seed(0)
    config = FeatureAutoencoderConfig(in_channels=maps.shape[1], latent_channels=options.latent_channels)
    autoencoder = FeatureAutoencoder(config).train().to(memory_format=torch.channels_last)
    if not options.no_statistics:
        autoencoder.normalization.measure(maps.split(1))
    warm_up = 1 if options.sgd else _WARM_UP
    if options.sgd:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            autoencoder.parameters(), lr=0.1, momentum=0.9, weight_decay=options.weight_decay
        )
    else:
        optimizer = torch.optim.AdamW(
            autoencoder.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (1 - step / options.steps) ** 0.9 * min(1, (step + 1) / warm_up)
    )
    height, width = maps.shape[2] // 2, maps.shape[3] // 2
    for _ in range(options.steps):
        top, left = int(torch.randint(height, ())), int(torch.randint(width, ()))
        crops = maps[torch.randint(len(maps), (_BATCH,)), :, top : top + height, left : left + width]
        crops = crops.flip(-1) if torch.rand(()) < 0.5 else crops
        with torch.autocast("cpu", torch.bfloat16, enabled=not options.sgd):
            output = autoencoder(crops.float().contiguous(memory_format=torch.channels_last))
        loss = output.loss
        if options.classifier_weight:
            found, expected = (teacher.classify(x.float()).log_softmax(1) for x in (output.reconstruction, crops))
            loss = (
                loss
                + options.classifier_weight * F.kl_div(found, expected, log_target=True, reduction="none").sum(1).mean()
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return autoencoder.eval()


@torch.no_grad()
def explained(autoencoder: FeatureAutoencoder, maps: torch.Tensor) -> float:
    """1 - (squared error / variance over positions), over all maps and channels; below 0, the mean would be better."""
    maps = maps.float()
    error = sum(float((autoencoder(m[None]).reconstruction[0] - m).double().square().sum()) for m in maps)
    variance = float((maps - maps.mean((0, 2, 3), keepdim=True)).double().square().sum())
    return 1 - error / variance


if __name__ == "__main__":
    main()
