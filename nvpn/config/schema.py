"""The keys that a configuration may have, those it may not have yet, and their sentences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nvpn.config.findings import did_you_mean, plain

INTERFACE_KEYS: Final = (
    "private_key",
    "private_key_file",
    "address",
    "listen_port",
    "mtu",
    "fwmark",
    "datapath",
    "workers",
    "queues",
)
PEER_KEYS: Final = (
    "name",
    "public_key",
    "preshared_key",
    "preshared_key_file",
    "endpoint",
    "allowed_ips",
    "persistent_keepalive",
)
SECTIONS: Final = ("interface", "peer")

ALIASES: Final = {
    "addresses": "address",
    "ip": "address",
    "ips": "address",
    "key": "private_key",
    "keyfile": "private_key_file",
    "port": "listen_port",
    "mark": "fwmark",
    "threads": "workers",
    "multiqueue": "queues",
    "psk": "preshared_key",
    "pskfile": "preshared_key_file",
    "pubkey": "public_key",
    "host": "endpoint",
    "keepalive": "persistent_keepalive",
    "persistentkeepaliveinterval": "persistent_keepalive",
    "allowedip": "allowed_ips",
}
"""What people write instead, plain and in lower case. Only those known in a table serve."""

EXAMPLE_KEY: Final = (
    "is the key of an example, which everybody knows",
    "make your own with nvpn genkey or nvpn genpsk",
)

_HOOK: Final = (
    "is not served yet: nvpn runs no commands",
    "remove it, and run the command yourself after nvpn up or before nvpn down",
)
_DNS: Final = (
    "is not served yet: nvpn does not set name servers",
    "remove it, and set them by other means, such as resolvectl",
)

LATER: Final = {
    "dns": _DNS,
    "dns_search": _DNS,
    "table": (
        "is not served yet: routes go to the main table",
        "remove it, or bring the interface up without routes: nvpn NAME, then wg setconf",
    ),
    "routes": (
        "is not served yet: routes follow allowed_ips",
        "remove it",
    ),
    "pre_up": _HOOK,
    "post_up": _HOOK,
    "pre_down": _HOOK,
    "post_down": _HOOK,
    "save_config": (
        "is not served yet: nvpn never writes to this file",
        "remove it, and keep the file as you want it",
    ),
}
"""Interface keys that wg-quick has: what is said about each, and the remedy."""


def unknown_key(
    word: str,
    known: Iterable[str],
    later: Iterable[str],
    other: tuple[str, Iterable[str]],
) -> tuple[str, str]:
    """What to say about a key that its section does not have, and the hint.

    Args:
        known: the keys of its section, as they are written in this kind of file.
        later: those that will be there one day.
        other: how the other section is written, and its keys.
    """
    here = {plain(name): name for name in (*known, *later)}
    header, there = other
    if plain(word) not in here and plain(word) in {plain(name) for name in there}:
        return "is unknown here", f"it belongs to {header}"
    aliases = {alias: here[plain(name)] for alias, name in ALIASES.items() if plain(name) in here}
    hint = did_you_mean(word, here.values(), aliases)
    return "is unknown", hint or f"known are {', '.join(known)}"
