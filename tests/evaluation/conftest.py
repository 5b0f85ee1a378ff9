from __future__ import annotations

import sys
from pathlib import Path

# The writers of official layouts lie with the tests of the loaders that read them.
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
