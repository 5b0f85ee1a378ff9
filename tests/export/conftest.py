"""One tiny model and its exports, each made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from javascript_tools import varied_model

from kaseg import KASegImageProcessor, KASegModel
from kaseg.export import ExportOptions, Int8Data, export_model, exporter, formats

SIZES = ((64, 96), (65, 97))


@pytest.fixture(scope="session")
def model() -> KASegModel:
    return varied_model(output_stride=16, statistics=True)


@pytest.fixture(scope="session")
def padded_model() -> KASegModel:
    """One that pads as those for CamVid do, for fixed sizes: to trace it with free sizes takes long."""
    return varied_model("test_efficientnet.r160_in1k", output_stride=16, tf_padding=True, pad_to_stride=True)


@pytest.fixture(scope="session")
def processor() -> KASegImageProcessor:
    return KASegImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])


@pytest.fixture(scope="session")
def exported(
    model: KASegModel, processor: KASegImageProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of an export with the options given. Formats share the traced graph, and OpenVINO the ONNX file."""
    folders: dict[tuple, Path] = {}
    programs: dict[tuple, Any] = {}
    files: dict[Any, bytes] = {}
    trace, write = exporter.export_program, formats.write_onnx

    def export(
        network: KASegModel = model, by: Any = processor, int8: Int8Data | None = None, sizes: Any = SIZES, **options
    ) -> Path:
        chosen = ExportOptions(**options)
        graph_of = (network, by, chosen.output, chosen.image_dtype, chosen.size)

        def traced(graph: torch.nn.Module, *arguments: Any) -> Any:
            key = (*graph_of, next(graph.parameters()).dtype)
            if key not in programs:
                programs[key] = trace(graph, *arguments)
            return programs[key]

        def written(program: Any, file: Path, how: ExportOptions) -> None:
            if program not in files:
                write(program, file, how)
                files[program] = file.read_bytes()
            file.write_bytes(files[program])

        if (network, by, chosen) not in folders:
            folder = tmp_path_factory.mktemp("exported") / "export"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(exporter, "export_program", traced)
                patch.setattr(formats, "write_onnx", written)
                export_model(network, by, folder, chosen, int8, parity_sizes=sizes)
            folders[network, by, chosen] = folder
        return folders[network, by, chosen]

    return export
