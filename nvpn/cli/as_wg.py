"""How the verbs that wg(8) has too take their words, and say what is wrong: as it does.

Sentences go to standard error as they are, without ``error:``, and the status is 1.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from nvpn.cli.output import write_complaint
from nvpn.control import client
from nvpn.control.wg_config import NO_KEY, WgConfig, parse_config, parse_key_text
from nvpn.control.wg_endpoint import resolve_endpoint, retries_from
from nvpn.control.wg_words import WgError
from nvpn.errors import ControlError, PlatformError

_KEY_TEXT_LENGTH = 44
_SPACES = b" \t\n\v\f\r"


def add_words(parser: argparse.ArgumentParser, usage: str) -> None:
    """Take all that follows, whatever it is: what it means is not for argparse to say."""
    parser.usage = f"%(prog)s {usage}"
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def complain_about_usage(verb: str, usage: str) -> int:
    """wg's line for a command that has too few or too many words."""
    write_complaint(f"Usage: nvpn {verb} {usage}\n")
    return 1


def complain(sentence: str) -> int:
    """A sentence of wg's, or several by line."""
    write_complaint(f"{sentence}\n")
    return 1


def complain_about(sentence: str, error: PlatformError | ControlError) -> int:
    """What could not be done, and the system's word for why."""
    return complain(f"{sentence}: {os.strerror(error.errno) if error.errno else error}")


def warn(sentence: str) -> None:
    """Tell something and go on."""
    write_complaint(f"{sentence}\n")


def resolve(text: str) -> str:
    """An endpoint's address, waiting as the environment says. Raises WgError."""
    retries = retries_from(os.environ)
    return resolve_endpoint(text, retries=retries, sleep=time.sleep, tell=warn)


def read_key(path: str) -> str:
    """The key in a file, as 64 hexadecimal digits; zeros for an empty file.

    Raises:
        WgError: there is no such file, or no key in it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(_KEY_TEXT_LENGTH)
            # A pipe that is empty is more likely a command that failed than a wish for no key.
            if not text and file.seekable():
                return NO_KEY
            if len(text) < _KEY_TEXT_LENGTH:
                raise WgError("Invalid length key in key file")
            while chunk := file.read(4096):
                if chunk.strip(_SPACES):
                    raise WgError("Found trailing character in key file")
    except OSError as error:
        raise WgError(f"fopen: {error.strerror}") from None
    digits = parse_key_text(text.decode("ascii", "replace"))
    if digits is None:
        raise WgError("Key is not the correct length or format (in key file)")
    return digits


def read_config(path: str, *, append: bool) -> WgConfig:
    """A file for setconf, syncconf, or with ``append`` addconf.

    Raises:
        WgError: it cannot be read, or does not make sense.
    """
    try:
        # What is no text is told as it is: the bytes come out as they went in.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise WgError(f"fopen: {error.strerror}") from None
    return parse_config(text, append=append, resolve=resolve, warn=warn)


def change_by_file(
    verb: str,
    words: list[str],
    *,
    append: bool,
    lines_of: Callable[[str, WgConfig], list[str]],
) -> int:
    """Do what setconf, addconf and syncconf have in common.

    Args:
        words: that were typed behind the verb.
        append: whether what the file does not say stays.
        lines_of: what to send to an interface for a file; may raise WgError.
    """
    if len(words) != 2:
        return complain_about_usage(verb, "<interface> <configuration filename>")
    name, path = words
    try:
        lines = lines_of(name, read_config(path, append=append))
    except WgError as error:
        return complain(str(error))
    return change(name, lines)


def change(name: str, lines: list[str]) -> int:
    """Send a ``set`` to an interface; 0 when it is done."""
    try:
        client.request(name, "set", lines)
    except (PlatformError, ControlError) as error:
        return complain_about("Unable to modify interface", error)
    return 0
