from __future__ import annotations

import sys
from pathlib import Path

# tiny_teachers.py is shared by these tests alone; importlib mode leaves it off the path.
sys.path.insert(0, str(Path(__file__).parent))
