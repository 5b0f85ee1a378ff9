"""Prediction on pictures and files. Drawing lies in `kaseg.inference.overlay`, tiles in `kaseg.inference.tiling`."""

from __future__ import annotations

from kaseg.inference.files import iter_images, read_image
from kaseg.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "iter_images", "read_image"]
