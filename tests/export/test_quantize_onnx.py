from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kaseg.export.quantize_onnx import choose_method, computing_shapes, outside_convolutions, quantize_onnx
from kaseg.export.runtimes.onnx import open_session


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Scale -> 3x3 conv -> ReLU -> 1x1 conv -> resize: the outer two are pre- and postprocessing."""
    rng = np.random.default_rng(0)
    constants = {
        "factor": np.float32(0.5),
        "first_weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "last_weight": rng.normal(size=(3, 4, 1, 1)).astype(np.float32),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["image", "factor"], ["scaled"], "scale"),
        helper.make_node("Conv", ["scaled", "first_weight"], ["a"], "first", kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "last_weight"], ["c"], "last", kernel_shape=[1, 1]),
        helper.make_node("Resize", ["c", "", "scales"], ["logits"], "resize", mode="linear"),
    ]
    return save(nodes, constants, tmp_path / "float.onnx")


def save(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], file: Path) -> Path:
    """The graph from `image` (n, 3, h, w) to `logits`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def test_what_lies_outside_the_convolutions(network: Path) -> None:
    assert outside_convolutions(onnx.load(network).graph) == ["scale", "resize"]


def test_the_method_that_changes_least_is_kept(network: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images = [rng.normal(size=(1, 3, 256, 256)).astype(np.float32) for _ in range(2)]
    images[0][0, 0, 0, 0] = 1e3  # an outlier, which makes the step of minmax coarse
    best, agreement = choose_method(network, tmp_path / "int8.onnx", images, ("minmax", "percentile"))
    assert best == "percentile" and agreement["percentile"] > agreement["minmax"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    # Postprocessing stays as it is: resizing reads and gives floats.
    resize = next(node for node in nodes if node.op_type == "Resize")
    assert resize.output[0] == "logits"
    scale = next(node for node in nodes if node.op_type == "Mul")
    assert scale.input[0] == "image"


def test_sizes_are_not_rounded(tmp_path: Path) -> None:
    """A graph that halves its maps and rounds up, in floats, as TensorFlow's padding does."""
    rng = np.random.default_rng(0)
    constants = {
        "first_weight": rng.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "last_weight": rng.normal(size=(3, 4, 1, 1)).astype(np.float32),
        "factors": np.array([1, 1, 0.5, 0.5], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first_weight"], ["a"], "first", kernel_shape=[1, 1]),
        helper.make_node("Shape", ["a"], ["shape"], "shape"),
        helper.make_node("Cast", ["shape"], ["lengths"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["lengths", "factors"], ["halves"], "halve"),
        helper.make_node("Ceil", ["halves"], ["up"], "ceil"),
        helper.make_node("Cast", ["up"], ["sizes"], "cast_back", to=TensorProto.INT64),
        helper.make_node("Resize", ["a", "", "", "sizes"], ["b"], "resize", mode="linear"),
        helper.make_node("Conv", ["b", "last_weight"], ["logits"], "last", kernel_shape=[1, 1]),
    ]
    file, int8 = save(nodes, constants, tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    assert computing_shapes(onnx.load(file).graph) == ["shape", "cast", "halve", "ceil", "cast_back"]
    images = [rng.normal(size=(1, 3, *size)).astype(np.float32) for size in ((90, 120), (65, 97), (31, 250))]
    quantize_onnx(file, int8, images, "minmax")
    session = open_session(int8)
    for image in images:
        height, width = image.shape[2:]
        assert session.run(None, {"image": image})[0].shape == (1, 3, (height + 1) // 2, (width + 1) // 2)
