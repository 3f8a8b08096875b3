"""``nvpn genpsk``: a preshared key, to standard output or into a file of its own."""

from __future__ import annotations

import argparse
import os

from nvpn.cli.secrets import add_output_argument, hand_over
from nvpn.model.keys import KEY_LENGTH, PresharedKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[-o FILE]``."""
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Make the key. Raises PlatformError when the file cannot be made."""
    key = PresharedKey(os.urandom(KEY_LENGTH))
    hand_over(key.reveal_base64(), args.output)
    key.wipe()
    return 0
