from __future__ import annotations

import atexit
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

# Helpers of several rooms (forked.py, hub_server.py) lie beside this file; importlib mode leaves it off the path.
sys.path.insert(0, str(Path(__file__).parent))

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
