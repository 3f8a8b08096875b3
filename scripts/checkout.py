"""Lets a script run with the Python of this checkout's environment, however it was started.

A script imports this before anything that is not Python's own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def use_environment() -> None:
    """Find nvpn and what it needs: here, or in .venv, with which the script begins anew."""
    sys.path.insert(0, str(ROOT))
    if all(map(importlib.util.find_spec, ("cryptography", "rich", "pytest"))):
        return
    environment = ROOT / ".venv"
    python = environment / "bin" / "python"
    if Path(sys.prefix).resolve() == environment.resolve() or not python.exists():
        script = Path(sys.argv[0]).name
        sys.exit(f"{script}: what it needs is not installed; run scripts/set-up first")
    os.execv(python, [str(python), *sys.argv])


use_environment()
