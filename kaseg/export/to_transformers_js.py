"""Folders that transformers.js loads, in browsers and on Node."""

import json
from pathlib import Path
from typing import Any

from kaseg.configuration_kaseg import KASegConfig
from kaseg.export.packages import require
from kaseg.export.to_transformers import plain_processor

# transformers.js looks for these names by its `dtype`: fp32, fp16 and q8.
JS_FILES = {"float32": "onnx/model.onnx", "float16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
# A type that it knows, since it refuses others; it runs the ONNX file whatever the type.
_MODEL_TYPE, _MODEL_CLASS = "segformer", "SegformerForSemanticSegmentation"


def write_js_configs(config: KASegConfig, image_processor: Any, folder: Path, has_int8: bool) -> None:
    """Write `config.json` and `preprocessor_config.json` for transformers.js; a ValueError for an image processor that
    pads or crops.

    Without int8 weights, which it takes by default in browsers, the config says that those in float32 are to be taken.
    Resizing is left to the graph: browsers resize with other filters.
    """
    described = {
        "model_type": _MODEL_TYPE,
        "architectures": [_MODEL_CLASS],
        "id2label": {str(index): label for index, label in config.id2label.items()},
        "label2id": config.label2id,
        "transformers.js_config": {"dtype": "q8" if has_int8 else "fp32"},
    }
    if config.palette is not None:
        described["palette"] = config.palette
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    processor = plain_processor(image_processor)
    processor.do_resize = False
    processor.save_pretrained(folder)


def write_float16(float_file: Path, file: Path) -> None:
    """Write an ONNX model with its weights and its arithmetic in float16; inputs and outputs stay float32."""
    onnx = require("onnx", "to write ONNX models")
    convert = require("onnxruntime.transformers.float16", "to write float16 models").convert_float_to_float16
    onnx.save(convert(onnx.load(str(float_file)), keep_io_types=True), str(file))
