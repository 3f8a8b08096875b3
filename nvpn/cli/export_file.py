"""``nvpn export``: turn nvpn's file into one for wg-quick."""

from __future__ import annotations

import argparse

from nvpn.errors import NvpnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE|-, -o."""


def run(args: argparse.Namespace) -> int:
    """0 once it is done. Raises NvpnError."""
    raise NvpnError("not built yet")
