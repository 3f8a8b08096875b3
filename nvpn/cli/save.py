"""``nvpn save``: write the running state into the tunnel's file."""

from __future__ import annotations

import argparse

from nvpn.errors import NvpnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""


def run(args: argparse.Namespace) -> int:
    """0 once it is done. Raises NvpnError."""
    raise NvpnError("not built yet")
