"""``nvpn pubkey``: a private key on standard input, its public key on standard output."""

from __future__ import annotations

import argparse
import sys

from nvpn.cli.paint import is_terminal
from nvpn.model.keys import PrivateKey

_KEY_TEXT_LENGTH = 44
_SPACES = b" \t\n\v\f\r"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: a key on a command line would be there for all to see."""


def run(args: argparse.Namespace) -> int:
    """Print the public key, or say as `wg pubkey` does what is wrong with the input."""
    try:
        key = PrivateKey.from_base64(_read_key())
    except ValueError as error:
        # UnicodeDecodeError is a ValueError too, and its text holds the input.
        known = type(error) is ValueError and str(error).startswith("Trailing")
        said = str(error) if known else "Key is not the correct length or format"
        print(f"nvpn: {said}", file=sys.stderr)
        return 1
    print(key.public().base64)
    key.wipe()
    return 0


def _read_key() -> str:
    if is_terminal(sys.stdin):
        import getpass

        return getpass.getpass("private key (not shown): ").strip()
    text = sys.stdin.buffer.read(_KEY_TEXT_LENGTH)
    if len(text) == _KEY_TEXT_LENGTH:
        while chunk := sys.stdin.buffer.read(4096):
            if chunk.strip(_SPACES):
                raise ValueError("Trailing characters found after key")
    return text.decode("ascii")
