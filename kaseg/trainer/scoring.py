"""Evaluation: a confusion matrix of every image at the size of its labels."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from kaseg.data import StreamingSegmentationDataset
from kaseg.data.collator import EvalCollator, unpadded_batches
from kaseg.evaluation import ConfusionMatrix, iou_scores
from kaseg.evaluation.caution import caution
from kaseg.evaluation.samples import check_channels
from kaseg.finite import require_finite
from kaseg.masks import MAX_ELEMENTS, argmax_resized, resized_strips
from kaseg.pixels import VOID
from kaseg.trainer.base import TermTrainer, share_buffers

logger = logging.getLogger(__name__)


class ScoringTrainer(TermTrainer):
    """Scores `segmentation_model` in place of what `transformers.Trainer` computes; keeps no logits."""

    data_collator: Any
    _own_collator: bool  # whether it is the user's
    confusion_matrix: ConfusionMatrix  # of the last evaluation, of this process

    @property
    def segmentation_model(self) -> Any:
        """The network that is saved and evaluated."""
        return self.model

    def _prepare_dataset(self, dataset: Any, args: Any, training: bool) -> Any:
        """The dataset with its transform."""
        raise NotImplementedError

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            eval_dataset = self._prepare_dataset(eval_dataset, self.args, False)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if (share := self._share_of_stream(self.eval_dataset[data] if isinstance(data, str) else data)) is not None:
            return share
        with self._every_image():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        test_dataset = self._prepare_dataset(test_dataset, self.args, False)
        if (share := self._share_of_stream(test_dataset)) is not None:
            return share
        with self._every_image():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _every_image(self) -> Iterator[None]:
        """Inside, no image is left out of a score (transformers drops a last batch here, too) or padded for another."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        collator, self.data_collator = self.data_collator, self._eval_collator
        try:
            yield
        finally:
            self.args.dataloader_drop_last, self.data_collator = drop_last, collator

    @property
    def _eval_collator(self) -> Any:
        return self.data_collator if self._own_collator else EvalCollator()

    def _share_of_stream(self, dataset: Any) -> DataLoader | None:
        """This process's samples of a stream; `None` for other data and where there is one process.

        accelerate fills up the last batches of a stream with copies, without saying how many there are.
        """
        args = self.args
        if args.world_size == 1 or not isinstance(dataset, StreamingSegmentationDataset):
            return None
        return DataLoader(
            dataset.share(args.process_index, args.world_size),
            batch_size=args.eval_batch_size,
            collate_fn=self._eval_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        config = self.segmentation_model.config
        require_finite(self.segmentation_model, "The model")
        share_buffers(self.segmentation_model)  # the score is of the network that is saved
        self.confusion_matrix = ConfusionMatrix(config.num_labels, device=self.args.device)
        self._eval_loss = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        self._holds_copies = self.accelerator.num_processes > 1 and type(dataloader) is not DataLoader
        output = super().evaluation_loop(dataloader, description, True, ignore_keys, metric_key_prefix)
        matrix = self.accelerator.reduce(self.confusion_matrix.matrix, reduction="sum")
        loss, pixels = self.accelerator.reduce(self._eval_loss, reduction="sum").tolist()
        if not matrix.any():
            raise ValueError(
                f"{description}: not one labelled pixel in the data (all is void, 255), so there is nothing to score."
            )
        scores = iou_scores(matrix)
        if words := caution(scores):
            logger.warning(f"{metric_key_prefix}_mean_iou {scores['mean_iou']:.4f}: {words}")
        metrics = {f"{metric_key_prefix}_{k}": v for k, v in scores.items() if not isinstance(v, list)}
        for index, value in enumerate(scores["per_category_iou"]):
            if value == value:  # an absent class is nan
                metrics[f"{metric_key_prefix}_iou_{config.id2label[index]}"] = value
        metrics[f"{metric_key_prefix}_loss"] = loss / max(pixels, 1.0)
        output.metrics.update(metrics)
        return output

    @torch.no_grad()
    def prediction_step(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, None, None]:
        inputs = self._prepare_inputs(inputs)
        check_channels(self.segmentation_model.config, inputs["pixel_values"], "Evaluation")
        # The score is of the weights that are saved, so none of training's autocast, which accelerate has wrapped
        # around the forward pass of some of the models.
        network = self.segmentation_model
        forward = vars(network).get("_original_forward", network)
        dtype = next(network.parameters()).dtype
        for pixel_values, labels in unpadded_batches(inputs, self._real_samples(len(inputs["labels"]))):
            with torch.autocast(pixel_values.device.type, enabled=False):
                logits = forward(pixel_values=pixel_values.to(dtype)).logits
            for scores, reference in zip(logits.split(1), labels, strict=True):
                self._score(scores, reference)
        return None, None, None

    def _score(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Counts one image; its full-size logits, the largest tensor of an evaluation, exist in strips only."""
        size = (labels.shape[0], labels.shape[1])
        self.confusion_matrix.update(argmax_resized(logits, size)[0], labels)
        for rows, scores in resized_strips(logits, size, MAX_ELEMENTS):
            self._eval_loss[0] += F.cross_entropy(scores, labels[None, rows], ignore_index=VOID, reduction="sum")
        self._eval_loss[1] += labels.ne(VOID).sum()

    def _real_samples(self, batch_size: int) -> int:
        """How many samples of this process's batch are its own; the last batch is filled up with copies."""
        state = self.accelerator.gradient_state
        if not self._holds_copies or not state.end_of_dataloader or state.remainder == 0:
            return batch_size
        if state.remainder < 0:
            raise ValueError(
                "accelerate has filled up the last batches of this stream with copies, which cannot be told from its "
                "samples. Give eval_dataset as a datasets.IterableDataset, or leave dispatch_batches out of "
                "accelerator_config."
            )
        return min(batch_size, max(0, state.remainder - self.accelerator.process_index * batch_size))
