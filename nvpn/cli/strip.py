"""``nvpn strip``: print a configuration as wg understands it."""

from __future__ import annotations

import argparse

from nvpn.cli.output import write_output
from nvpn.config.load import find
from nvpn.config.strip import strip_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE|NAME."""
    parser.add_argument(
        "file",
        metavar="FILE|NAME",
        help="A .toml or wg-quick .conf file, or the name of one in /etc/nvpn or /etc/wireguard",
    )


def run(args: argparse.Namespace) -> int:
    """0 once it is printed. Raises ConfigError, ConfigErrors."""
    write_output(strip_file(find(args.file)))
    return 0
