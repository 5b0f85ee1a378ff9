"""One tiny model and its exports, each made once."""

from collections.abc import Callable
from pathlib import Path

import pytest
from javascript_tools import varied_model

from kaseg import KASegImageProcessor, KASegModel
from kaseg.export import ExportOptions, export_model

SIZES = ((64, 96), (65, 97))


@pytest.fixture(scope="session")
def model() -> KASegModel:
    return varied_model(output_stride=32, statistics=True)


@pytest.fixture(scope="session")
def processor() -> KASegImageProcessor:
    return KASegImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25])


@pytest.fixture(scope="session")
def exported(
    model: KASegModel, processor: KASegImageProcessor, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of an export with the options given."""
    made: dict[ExportOptions, Path] = {}

    def export(**options) -> Path:
        chosen = ExportOptions(**options)
        if chosen not in made:
            folder = tmp_path_factory.mktemp("exported") / "export"
            export_model(model, processor, folder, chosen, parity_sizes=SIZES)
            made[chosen] = folder
        return made[chosen]

    return export
