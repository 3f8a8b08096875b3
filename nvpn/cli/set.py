"""``nvpn set``: change a running interface, as `wg set` does."""

from __future__ import annotations

import argparse

from nvpn.errors import NvpnError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE and wg's words."""


def run(args: argparse.Namespace) -> int:
    """0 once it is done. Raises NvpnError."""
    raise NvpnError("not built yet")
