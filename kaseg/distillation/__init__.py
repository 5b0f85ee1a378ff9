"""Knowledge adaptation's parts: teachers, the feature autoencoder, adapters and losses."""

from __future__ import annotations

from kaseg.distillation.adapters import AffinityAdapter, FeatureAdapter
from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, FeatureAutoencoderOutput
from kaseg.distillation.teachers import TeacherAdapter, TeacherOutput, list_taps

__all__ = [
    "AffinityAdapter",
    "FeatureAdapter",
    "FeatureAutoencoder",
    "FeatureAutoencoderConfig",
    "FeatureAutoencoderOutput",
    "TeacherAdapter",
    "TeacherOutput",
    "list_taps",
]
