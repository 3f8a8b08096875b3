"""Puts the repository's root on the path, so that tests share ``tests.support``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
