"""``nvpn genkey``: a private key, to standard output or into a file of its own."""

from __future__ import annotations

import argparse
import os

from nvpn.cli.output import write_output
from nvpn.cli.secrets import add_output_argument, hand_over
from nvpn.model.keys import KEY_LENGTH, PrivateKey


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """``[--pair] [-o FILE]``."""
    add_output_argument(parser)
    parser.add_argument(
        "--pair",
        action="store_true",
        help="Print the public key too: below the private key, or alone with -o",
    )


def run(args: argparse.Namespace) -> int:
    """Make the key. Raises PlatformError when the file cannot be made."""
    key = PrivateKey(os.urandom(KEY_LENGTH))
    if not args.pair:
        hand_over(key.reveal_base64(), args.output)
    elif args.output is not None:
        hand_over(key.reveal_base64(), args.output)
        write_output(f"{key.public().base64}\n")
    else:
        # As a configuration file wants them, so that they can be pasted.
        private = f'private_key = "{key.reveal_base64()}"'
        hand_over(f'{private}\npublic_key = "{key.public().base64}"', None)
    key.wipe()
    return 0
