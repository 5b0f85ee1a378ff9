"""Knowledge adaptation's parts: teachers, the feature autoencoder, adapters and losses; imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.distillation.adapters import AffinityAdapter, FeatureAdapter
    from kaseg.distillation.autoencoder import FeatureAutoencoder, FeatureAutoencoderConfig, FeatureAutoencoderOutput
    from kaseg.distillation.teachers import TeacherAdapter, TeacherOutput, list_taps

__getattr__, __dir__ = import_on_use(
    __name__,
    {
        "AffinityAdapter": "adapters",
        "FeatureAdapter": "adapters",
        "FeatureAutoencoder": "autoencoder",
        "FeatureAutoencoderConfig": "autoencoder",
        "FeatureAutoencoderOutput": "autoencoder",
        "TeacherAdapter": "teachers",
        "TeacherOutput": "teachers",
        "list_taps": "teachers",
    },
)

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
