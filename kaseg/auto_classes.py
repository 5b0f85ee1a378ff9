"""Registration with the Auto classes of transformers, which costs nothing until they are imported."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _register_config(auto: Any) -> None:
    from .configuration_kaseg import KASegConfig

    auto.AutoConfig.register(KASegConfig.model_type, KASegConfig, exist_ok=True)


def _register_model(auto: Any) -> None:
    from .configuration_kaseg import KASegConfig
    from .modeling_kaseg import KASegModel

    auto.AutoModelForSemanticSegmentation.register(KASegConfig, KASegModel, exist_ok=True)
    # pipeline("image-segmentation") asks this table, not the registrations, whether it knows a model.
    auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[KASegConfig.model_type] = KASegModel.__name__


def _register_image_processor(auto: Any) -> None:
    from .configuration_kaseg import KASegConfig
    from .image_processing_kaseg import KASegImageProcessor

    processors = {"torchvision": KASegImageProcessor}
    auto.AutoImageProcessor.register(KASegConfig, image_processor_classes=processors, exist_ok=True)


REGISTRATIONS: Mapping[str, Callable[[Any], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_model,
    "transformers.models.auto.image_processing_auto": _register_image_processor,
}


def register_auto_classes() -> None:
    """Makes `AutoConfig`, `AutoModelForSemanticSegmentation`, `AutoImageProcessor` and `pipeline` know kaseg's classes.

    Modules of transformers that are imported already are told at once, the others right after their import:
    transformers has no entry point for models of other packages, and importing it here would make `import kaseg` slow.
    """
    for name, register in REGISTRATIONS.items():
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _RegisterAfterImport())


class _RegisterAfterImport:
    """Leaves finding to the other finders, and adds a call to what the module's loader does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = REGISTRATIONS.get(fullname)
        if register is None:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            register(module)

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
