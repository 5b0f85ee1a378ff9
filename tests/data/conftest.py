from __future__ import annotations

import sys
from pathlib import Path

# The tests of this folder share the writers in official_layouts.py.
sys.path.insert(0, str(Path(__file__).parent))
