"""Which addresses can be a host's at all."""

from __future__ import annotations

from typing import Final

from nvpn.model.prefixes import Prefix

_NOBODYS: Final = tuple(
    map(
        Prefix.parse,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/3",
            "::/127",
            "::ffff:0.0.0.0/96",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)
"""No address for a lease and no place behind a server: unspecified, loopback, link-local,
multicast, reserved (RFC 6890), mapped."""


def is_for_hosts(prefix: Prefix) -> bool:
    """Whether it may be reached through a tunnel, or be a host's own."""
    return not any(other.covers(prefix) for other in _NOBODYS)
