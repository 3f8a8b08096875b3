"""Which of the running tunnels is the server that is meant, and what it answers."""

from __future__ import annotations

import argparse
import errno
import json
from typing import Any
from urllib.parse import quote

from nvpn.control import client
from nvpn.errors import ConfigError, ControlError, PlatformError

_LOOK = "nvpn_invitations"
"""An operation without effect that only servers know."""


def add_interface_argument(parser: argparse.ArgumentParser) -> None:
    """``-i IF``, the same for every verb about a server's clients."""
    parser.add_argument(
        "-i",
        "--interface",
        metavar="IF",
        help="The server's interface; needless with only one server on this host",
    )


def choose_server(interface: str | None) -> str:
    """The interface of the server.

    Raises:
        ConfigError: none runs here, or several do.
        PlatformError: we may not look.
    """
    if interface is not None:
        return interface
    servers = [name for name in client.list_interfaces() if _is_server(name)]
    if len(servers) == 1:
        return servers[0]
    if servers:
        raise ConfigError(
            f"several servers run here: {', '.join(servers)}", hint=f"say which: -i {servers[0]}"
        )
    raise ConfigError(
        "no server runs here",
        hint="a server is a tunnel whose file has a [server] section, brought up with nvpn up",
    )


def ask_server(interface: str, operation: str, **values: str | int | list[str]) -> dict[str, Any]:
    """What the server's daemon answers.

    Raises:
        ControlError: it refuses, in its own words.
        PlatformError: it does not run, or is not for us.
    """
    lines = [
        f"{key}={_quote(value)}"
        for key, given in values.items()
        for value in (given if isinstance(given, list) else [given])
    ]
    try:
        answer = client.messages(client.request(interface, operation, lines))
    except ControlError as error:
        if error.errno == errno.EPROTO:
            raise _no_server(interface) from None
        raise
    try:
        told = json.loads(answer[0])
    except (IndexError, ValueError):
        raise ControlError(errno.EPROTO, f"the daemon of {interface} answered nonsense") from None
    if not isinstance(told, dict):
        raise ControlError(errno.EPROTO, f"the daemon of {interface} answered nonsense")
    return told


def _quote(value: str | int) -> str:
    try:
        return quote(str(value), safe="")
    except UnicodeEncodeError:
        raise ConfigError("expected text in UTF-8", hint="write it in other letters") from None


def _is_server(name: str) -> bool:
    try:
        client.request(name, _LOOK)
    except ControlError as error:
        # Any other refusal is one of a server, whose store is away, for instance.
        return error.errno not in (errno.EPROTO, errno.EOPNOTSUPP)
    except PlatformError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT):
            return False  # the kernel's own, or gone meanwhile
        raise
    return True


def _no_server(interface: str) -> ConfigError:
    return ConfigError(
        f"{interface} is no server", hint="its file would need a [server] section, and a restart"
    )
