"""``nvpn syncconf``: as setconf, but peers that stay keep their sessions."""

from __future__ import annotations

import argparse
import os

from nvpn.cli import as_wg
from nvpn.control import client
from nvpn.control.wg_config import WgConfig
from nvpn.control.wg_words import WgError
from nvpn.errors import ControlError, PlatformError

_PUBLIC_KEY = "public_key="


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """INTERFACE, FILE."""
    as_wg.add_words(parser, "INTERFACE FILE")


def run(args: argparse.Namespace) -> int:
    """0 once it is done; otherwise 1, and wg's sentence says why."""
    return as_wg.change_by_file("syncconf", args.words, append=False, lines_of=_sync)


def _sync(name: str, config: WgConfig) -> list[str]:
    if not config.peers:
        return config.lines()
    try:
        answer = client.request(name, "get")
    except (PlatformError, ControlError) as error:
        why = os.strerror(error.errno) if error.errno else error
        raise WgError(f"Unable to retrieve current interface configuration: {why}") from None
    running = [line[len(_PUBLIC_KEY) :] for line in answer if line.startswith(_PUBLIC_KEY)]
    return config.sync_lines(running)
