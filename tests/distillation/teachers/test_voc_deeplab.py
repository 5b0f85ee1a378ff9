"""A real teacher: the VOC-trained DeepLab on real VOC pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toy import arguments
from transformers import AutoImageProcessor, MobileNetV2ForSemanticSegmentation

from kaseg import KASegConfig, KASegImageProcessor, KASegModel, KnowledgeAdaptationConfig, KnowledgeAdaptationTrainer
from kaseg.data import get_label_space, load_segmentation_dataset
from kaseg.distillation import TeacherAdapter
from kaseg.distillation.teachers import InputSize
from kaseg.evaluation import MeanIoU

pytestmark = pytest.mark.slow


def test_its_masks_through_the_adapter_agree_with_the_labels(voc_deeplab: Path, voc: Path) -> None:
    """From the student's ImageNet-normalized pixels; the teacher's own mean and std are 0.5. Left where transformers'
    pipeline takes them to lie, they are the network's own; where they lie, they are nearer to the labels."""
    processor = KASegImageProcessor()
    space = get_label_space("voc2012", voc)
    teacher = TeacherAdapter.from_pretrained(
        str(voc_deeplab),
        student_mean=processor.image_mean,
        student_std=processor.image_std,
        student_labels=space.id2label,
    )
    assert teacher.require_logits().tolist() == list(range(21))
    own = MobileNetV2ForSemanticSegmentation.from_pretrained(voc_deeplab).eval()
    own_processor = AutoImageProcessor.from_pretrained(voc_deeplab)
    metric, blank, left = MeanIoU(num_labels=21), MeanIoU(num_labels=21), MeanIoU(num_labels=21)
    known = teacher.input_size
    assert known == InputSize(multiple=16, shift=7.5)
    same = pixels = 0
    for sample in load_segmentation_dataset("voc2012", split="validation", data_dir=voc).select(range(8)):
        label = np.array(sample["label"])
        pixel_values, masks = processor(sample["image"], return_tensors="pt")["pixel_values"], []
        for teacher.input_size in (known, InputSize()):
            logits = teacher(pixel_values).logits
            masks.append(F.interpolate(logits, size=label.shape, mode="bilinear").argmax(1)[0])
        mask, unmoved = masks
        with torch.no_grad():
            expected = own(**own_processor(sample["image"], return_tensors="pt")).logits
        same += int((F.interpolate(expected, size=label.shape, mode="bilinear").argmax(1)[0] == unmoved).sum())
        pixels += unmoved.numel()
        left.add_batch(predictions=[unmoved.numpy()], references=[label])
        metric.add_batch(predictions=[mask.numpy()], references=[label])
        blank.add_batch(predictions=[np.zeros_like(label)], references=[label])
    scores, chance = metric.compute(), blank.compute()
    assert same >= 0.999 * pixels
    assert scores["mean_iou"] > left.compute()["mean_iou"] + 0.02
    # Against a mask of nothing but background.
    assert scores["mean_iou"] > 3 * chance["mean_iou"], (scores["mean_iou"], chance["mean_iou"])
    assert scores["overall_accuracy"] > chance["overall_accuracy"] + 0.05


def test_distillation_on_real_pairs(voc_deeplab: Path, voc: Path, tmp_path) -> None:
    space = get_label_space("voc2012", voc)
    torch.manual_seed(0)
    student = KASegModel(KASegConfig(backbone="test_resnet", id2label=space.id2label, label2id=space.label2id))
    trainer = KnowledgeAdaptationTrainer(
        model=student,
        teacher=voc_deeplab,
        args=KnowledgeAdaptationConfig(
            **arguments(tmp_path, max_steps=12, crop_size=[97, 97], learning_rate=0.007),
            autoencoder_epochs=0, autoencoder_max_steps=6, latent_channels=32,
        ),
        train_dataset=load_segmentation_dataset("voc2012", split="train", data_dir=voc),
        processing_class=KASegImageProcessor(),
    )  # fmt: skip
    assert (trainer.teacher_channels, trainer.teacher_stride) == (256, 16)
    before = {name: tensor.clone() for name, tensor in trainer.teacher.state_dict().items()}
    trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.teacher.state_dict().items())
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 12 and np.mean(losses[-4:]) < np.mean(losses[:4])
    adaptation = [e["distillation/adaptation"] for e in trainer.state.log_history if "distillation/adaptation" in e]
    assert np.mean(adaptation[-4:]) < np.mean(adaptation[:4])
