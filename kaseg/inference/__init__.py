"""Prediction on images, files and videos.

Drawing lies in `kaseg.inference.overlay`, tiles in `kaseg.inference.tiling`, videos in `kaseg.inference.video`.
"""

from kaseg.inference.deployment import deployed
from kaseg.inference.files import iter_images, read_image
from kaseg.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "deployed", "iter_images", "read_image"]
