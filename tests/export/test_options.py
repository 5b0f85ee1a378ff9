import pytest

from kaseg.export import ExportOptions


@pytest.mark.parametrize(
    "options, message",
    [
        ({"format": "tflite"}, "format must be one of onnx, openvino, .*executorch.*, got 'tflite'"),
        (
            {"dtype": "bf16"},
            "bf16 cannot be exported as onnx .*; onnx takes float32 and int8, and bf16 is exported with",
        ),
        ({"dtype": "int8", "format": "torch-export"}, "int8 is exported with --format onnx, openvino"),
        ({"size": (0, 32)}, r"size must be \(height, width\) in pixels"),
        ({"format": "executorch"}, "ExecuTorch have a fixed input"),
        ({"format": "litert"}, "LiteRT have a fixed input"),
        *(({"format": "transformers", **o}, "transformers") for o in ({"output": "mask"}, {"dtype": "int8"})),
        ({"format": "transformers", "dtype": "bf16"}, "transformers"),
        *(({"format": "transformers-js", **o}, "transformers.js") for o in ({"output": "mask"}, {"dtype": "bf16"})),
        ({"format": "transformers-js", "size": (64, 96)}, "transformers.js"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExportOptions(**options)
