"""``nvpn pubkey``: a private key on standard input, its public key on standard output."""

from __future__ import annotations

import argparse

from nvpn.cli.output import standard_stream, write_complaint, write_output
from nvpn.cli.paint import is_terminal
from nvpn.errors import PlatformError
from nvpn.model.keys import PrivateKey

_KEY_TEXT_LENGTH = 44
_SPACES = b" \t\n\v\f\r"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: a key on a command line would be there for all to see."""


def run(args: argparse.Namespace) -> int:
    """Print the public key, or say as `wg pubkey` does what is wrong with the input."""
    try:
        key = PrivateKey.from_base64(_read_key())
    except OSError as error:
        raise PlatformError("read the private key", errno=error.errno or 0) from None
    except ValueError as error:
        # UnicodeDecodeError is a ValueError too, and its text holds the input.
        known = type(error) is ValueError and str(error).startswith("Trailing")
        said = str(error) if known else "Key is not the correct length or format"
        write_complaint(f"nvpn: {said}\n")
        return 1
    write_output(f"{key.public().base64}\n")
    key.wipe()
    return 0


def _read_key() -> str:
    if is_terminal(standard_stream("stdin")):
        import getpass

        return getpass.getpass("private key (not shown): ").strip()
    with open(0, "rb", closefd=False) as stdin:
        text = stdin.read(_KEY_TEXT_LENGTH)
        if len(text) == _KEY_TEXT_LENGTH:
            while chunk := stdin.read(4096):
                if chunk.strip(_SPACES):
                    raise ValueError("Trailing characters found after key")
    return text.decode("ascii")
