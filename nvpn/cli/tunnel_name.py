"""A running tunnel as people name it: by its interface, or by the file that it came from."""

from __future__ import annotations

import argparse
import os

_SUFFIXES = (".toml", ".conf")


def add_name(parser: argparse.ArgumentParser) -> None:
    """NAME|FILE."""
    parser.add_argument(
        "name", metavar="NAME|FILE", help="The interface, or the file that it was started from"
    )


def interface_of(name_or_file: str) -> str:
    """The interface's name. The file need not exist any more.

    Raises:
        ConfigError: it cannot name an interface.
    """
    from nvpn.errors import ConfigError
    from nvpn.model.interface_name import is_interface_name

    stem, suffix = os.path.splitext(os.path.basename(name_or_file))
    is_file = suffix in _SUFFIXES and not name_or_file.startswith("-")
    name = stem if is_file or "/" in name_or_file else name_or_file
    if not is_interface_name(name):
        raise ConfigError(
            "expected the name of an interface, or the file it was started from",
            hint="see: nvpn show interfaces",
        )
    return name
