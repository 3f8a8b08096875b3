"""The keys that a configuration may have, and what people write in their place."""

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
    "dns",
    "dns_search",
    "table",
    "kill_switch",
    "pre_up",
    "post_up",
    "pre_down",
    "post_down",
    "save_config",
    "netns",
    "birth_netns",
    "backend",
)
HOOK_KEYS: Final = ("pre_up", "post_up", "pre_down", "post_down")
PEER_KEYS: Final = (
    "name",
    "public_key",
    "preshared_key",
    "preshared_key_file",
    "endpoint",
    "endpoints",
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
    "nameserver": "dns",
    "nameservers": "dns",
    "search": "dns_search",
    "namespace": "netns",
    "routingtable": "table",
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


def unknown_key(
    word: str,
    known: Iterable[str],
    other: tuple[str, Iterable[str]],
) -> tuple[str, str]:
    """What to say about a key that its section does not have, and the hint.

    Args:
        known: the keys of its section, as they are written in this kind of file.
        other: how the other section is written, and its keys.
    """
    here = {plain(name): name for name in known}
    header, there = other
    if plain(word) not in here and plain(word) in {plain(name) for name in there}:
        return "is unknown here", f"it belongs to {header}"
    aliases = {alias: here[plain(name)] for alias, name in ALIASES.items() if plain(name) in here}
    hint = did_you_mean(word, here.values(), aliases)
    return "is unknown", hint or f"known are {', '.join(known)}"
