import atexit
import os
import random
import shutil
import tempfile
from pathlib import Path

# huggingface_hub, datasets and matplotlib read these once, when they are first imported: they come before every other
# import. No test may reach the network, and none may read or fill the cache of whoever runs it.
_HF_HOME = tempfile.mkdtemp(prefix="kaseg-tests-")
atexit.register(shutil.rmtree, _HF_HOME, ignore_errors=True)
os.environ["HF_HOME"] = _HF_HOME
for _name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE"):
    os.environ.pop(_name, None)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# The models under test are tiny; more threads only wait for each other, in the processes that tests start, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from typer.testing import CliRunner, Result  # noqa: E402

from kaseg.cli import app  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with the real data and weights (never part of the repository): `KASEG_SHARED`, default `../shared`."""
    folder = Path(os.environ.get("KASEG_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set KASEG_SHARED to the one with data/ and weights/")
    return folder


def _present(path: Path) -> Path:
    return path if path.exists() else pytest.skip(f"{path} is absent")


@pytest.fixture(scope="session")
def camvid(shared_dir: Path) -> Path:
    return _present(shared_dir / "data/camvid")


@pytest.fixture(scope="session")
def voc(shared_dir: Path) -> Path:
    """64 real pairs of PASCAL VOC 2012 in the official layout, in VOC2012/."""
    return _present(shared_dir / "data/voc2012_mini")


@pytest.fixture(scope="session")
def imagenet_weights(shared_dir: Path) -> Path:
    return _present(shared_dir / "weights/mobilenetv2_100-imagenet/model.safetensors")


@pytest.fixture(scope="session")
def voc_deeplab(shared_dir: Path) -> Path:
    """Folder of a real DeepLab of transformers, trained on VOC."""
    return _present(shared_dir / "weights/deeplabv3_mobilenet_v2_1.0_513-voc")


class Kaseg:
    """Calls the command line in this process."""

    def __call__(self, *args: object) -> Result:
        # Wide, so that messages are not wrapped.
        return CliRunner(env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"}).invoke(app, [str(arg) for arg in args])

    def succeed(self, *args: object) -> Result:
        result = self(*args)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    def fail(self, *args: object, code: int = 1) -> str:
        """What a call that must fail, with this code, prints."""
        result = self(*args)
        assert result.exit_code == code, result.output
        return result.output


@pytest.fixture(scope="session")
def kaseg() -> Kaseg:
    return Kaseg()
