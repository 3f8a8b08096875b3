"""``nvpn peer``: add, list and remove the peers of a tunnel's file."""

from __future__ import annotations

import argparse

from nvpn.errors import NvpnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """add, list, rm, qr."""


def run(args: argparse.Namespace) -> int:
    """0 once it is done. Raises NvpnError."""
    raise NvpnError("not built yet")
