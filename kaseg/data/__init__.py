"""Datasets, label spaces, joint transforms and batches."""

from kaseg.data.bad_samples import SkippedSample
from kaseg.data.class_weights import ClassCounts, count_classes, median_frequency_weights
from kaseg.data.collator import SegmentationCollator
from kaseg.data.dataset import SegmentationDataset, StreamingSegmentationDataset, WithUnlabelled
from kaseg.data.image_files import load_images, read_image, read_mask
from kaseg.data.label_spaces import LabelSpace, map_labels, palette_for, read_label_space
from kaseg.data.loading import get_label_space, load_segmentation_dataset
from kaseg.data.mixing import BatchMixer
from kaseg.data.sources import CAMVID, PASCAL_VOC, SCENES, SPECS, DatasetSpec
from kaseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, EvalTransform, TrainTransform

__all__ = [
    "CAMVID", "IMAGENET_MEAN", "IMAGENET_STD", "PASCAL_VOC", "SCENES", "SPECS", "BatchMixer", "ClassCounts",
    "DatasetSpec", "EvalTransform", "LabelSpace", "SegmentationCollator", "SegmentationDataset", "SkippedSample",
    "StreamingSegmentationDataset", "TrainTransform", "WithUnlabelled", "count_classes", "get_label_space",
    "load_images", "load_segmentation_dataset", "map_labels", "median_frequency_weights", "palette_for", "read_image",
    "read_label_space", "read_mask",
]  # fmt: skip
