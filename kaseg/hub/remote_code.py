"""The model files beside the weights, so that a checkpoint runs where kaseg is not installed."""

import json
from collections.abc import Mapping
from pathlib import Path

from kaseg.checkpoints import PACKAGE_DIR

# The flat files and nothing else; transformers follows their relative imports. timm must be installed beside it.
CODE_FILES = (
    "checkpoints.py",
    "close_names.py",
    "configuration_kaseg.py",
    "conversion.py",
    "encoders.py",
    "fusion.py",
    "heads.py",
    "image_processing_kaseg.py",
    "loading_errors.py",
    "masks.py",
    "modeling_kaseg.py",
    "pixels.py",
)
_AUTO_MAPS = {
    "config.json": {
        "AutoConfig": "configuration_kaseg.KASegConfig",
        "AutoModelForSemanticSegmentation": "modeling_kaseg.KASegModel",
    },
    "preprocessor_config.json": {"AutoImageProcessor": "image_processing_kaseg.KASegImageProcessor"},
}


def with_code(files: Mapping[str, Path | bytes]) -> dict[str, Path | bytes]:
    """The files of a checkpoint (path in the repository -> file or content) and our model files, named in its configs.

    `AutoModelForSemanticSegmentation.from_pretrained(repo, trust_remote_code=True)`, `AutoImageProcessor` and
    `pipeline` then work with transformers and timm alone. Where kaseg is installed, its own classes are used instead.
    """
    result: dict[str, Path | bytes] = dict(files)
    for name, auto_map in _AUTO_MAPS.items():
        if name in result:
            source = result[name]
            content = json.loads(source if isinstance(source, bytes) else source.read_bytes())
            result[name] = (json.dumps({**content, "auto_map": auto_map}, indent=2) + "\n").encode()
    return result | {name: PACKAGE_DIR / name for name in CODE_FILES}
