"""Knowledge adaptation's parts: teachers, the feature autoencoder, adapters and losses."""

from __future__ import annotations

from .adapters import AffinityAdapter, FeatureAdapter
from .autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, FeatureAutoencoderOutput
from .teachers import TeacherAdapter, TeacherOutput


__all__ = [
    "AffinityAdapter",
    "FeatureAdapter",
    "FeatureAutoencoder",
    "FeatureAutoencoderConfig",
    "FeatureAutoencoderOutput",
    "TeacherAdapter",
    "TeacherOutput",
]
