"""Lets the tests of this folder import `privacy_cases` (pytest's importlib mode puts no folder on the path)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
