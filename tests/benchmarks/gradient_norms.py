"""How strongly each term of the distillation loss pulls at the student: norms of its gradient on one training batch.

An adaptive optimizer (AdamW) divides by the size of the whole gradient, so a term whose gradient is many times larger
than that of the cross-entropy takes the labels' share of every step. Run it on what `kaseg distill` wrote to choose the
weights:

    python tests/benchmarks/gradient_norms.py runs/ka --teacher kaseg/mobilenetv2-os16-camvid-teacher --data-dir DIR
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from kaseg import KASegImageProcessor, KASegModel, KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.data import load_segmentation_dataset
from kaseg.trainer.adapter_trainer import ADAPTERS_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="output_dir of a kaseg distill run with its autoencoder")
    parser.add_argument("--checkpoint", type=Path, help="checkpoint-N of the run; its last state by default")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--distillation-losses", type=json.loads, default={}, help="baselines to add, as JSON")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop-size", type=int, nargs=2, default=[336, 448], metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args()
    folder = options.checkpoint or options.run
    with tempfile.TemporaryDirectory() as scratch:
        trainer = KnowledgeAdaptationTrainer(
            model=KASegModel.from_pretrained(folder),
            teacher=options.teacher,
            args=KnowledgeAdaptationConfig(
                output_dir=scratch,
                use_cpu=True,
                per_device_train_batch_size=options.batch_size,
                crop_size=options.crop_size,
                distillation_losses=options.distillation_losses,
                report_to="none",
            ),
            autoencoder=options.run / "autoencoder",
            train_dataset=load_segmentation_dataset(options.dataset, split="train", data_dir=options.data_dir),
            processing_class=KASegImageProcessor(),
        )
        trainer.model.load_state_dict(load_file(folder / ADAPTERS_NAME), strict=False)
        report(trainer)


def report(trainer: KnowledgeAdaptationTrainer) -> None:
    """Print value and gradient norms (encoder, head) of the cross-entropy and of every term with its weight."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    _, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    terms = {"cross-entropy": trainer.label_loss(outputs.logits, batch["labels"], None)}
    for name, term in trainer.model.terms.items():
        weight = 1.0 if isinstance(term.weight, str) else term.weight  # auto is not set yet
        terms[f"{weight:g} x {name}"] = weight * outputs.terms[name]
    parts = {"encoder": trainer.segmentation_model.encoder, "head": trainer.segmentation_model.head}
    print(f"{'term':28} {'value':>8} " + " ".join(f"{'|grad| ' + part:>16}" for part in parts))
    for name, loss in terms.items():
        norms = []
        for part in parts.values():
            gradients = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
            norms.append(torch.stack([g.norm() for g in gradients if g is not None]).norm().item())
        print(f"{name:28} {loss.item():8.3f} " + " ".join(f"{norm:16.3f}" for norm in norms))


if __name__ == "__main__":
    main()
