"""Knowledge adaptation's parts: teachers, the feature autoencoder, adapters and losses; imported on first use."""

from typing import TYPE_CHECKING

from kaseg.lazy import import_on_use

if TYPE_CHECKING:
    from kaseg.distillation.adapters import AffinityAdapter as AffinityAdapter
    from kaseg.distillation.adapters import FeatureAdapter as FeatureAdapter
    from kaseg.distillation.autoencoder import FeatureAutoencoder as FeatureAutoencoder
    from kaseg.distillation.autoencoder import FeatureAutoencoderConfig as FeatureAutoencoderConfig
    from kaseg.distillation.autoencoder import FeatureAutoencoderOutput as FeatureAutoencoderOutput
    from kaseg.distillation.teachers import TeacherAdapter as TeacherAdapter
    from kaseg.distillation.teachers import TeacherOutput as TeacherOutput
    from kaseg.distillation.teachers import list_taps as list_taps

__getattr__, __dir__, __all__ = import_on_use(
    __name__,
    {
        "adapters": ["AffinityAdapter", "FeatureAdapter"],
        "autoencoder": ["FeatureAutoencoder", "FeatureAutoencoderConfig", "FeatureAutoencoderOutput"],
        "teachers": ["TeacherAdapter", "TeacherOutput", "list_taps"],
    },
)
