"""The keys that a configuration may have, and what people write in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    "channel",
    "allowed_ports",
    "disallowed_ports",
    "on_connect",
    "on_disconnect",
)
CONNECTION_HOOKS: Final = ("on_connect", "on_disconnect")
HOOK_KEYS: Final = ("pre_up", "post_up", "pre_down", "post_down", *CONNECTION_HOOKS)
PORT_KEYS: Final = ("allowed_ports", "disallowed_ports")
PEER_KEYS: Final = (
    "name",
    "public_key",
    "preshared_key",
    "preshared_key_file",
    "endpoint",
    "endpoints",
    "allowed_ips",
    "persistent_keepalive",
    "server",
    "allowed_ports",
    "disallowed_ports",
)
ETCD_KEYS: Final = (
    "etcd",
    "etcd_prefix",
    "etcd_user",
    "etcd_password_file",
    "etcd_ca",
    "etcd_cert",
    "etcd_key",
)
"""Those of ``[server]`` that are about its etcd."""

SERVER_KEYS: Final = (
    "pool",
    "endpoint",
    "lease_time",
    "reserved",
    "routes",
    "dns",
    "dns_search",
    "mtu",
    "forward",
    "nat",
    "idle_timeout",
    "invitation_time",
    "store",
    *ETCD_KEYS,
    "reservation",
)
RESERVATION_KEYS: Final = ("public_key", "name", "address")
METRICS_KEYS: Final = ("listen",)
RESILIENCE_KEYS: Final = (
    "max_attempts",
    "initial_interval",
    "max_interval",
    "jitter",
    "failure_threshold",
    "reset_timeout",
    "success_threshold",
)
SECTIONS: Final = ("interface", "peer", "server", "metrics", "resilience")
HEADERS: Final = {
    "interface": "[interface]",
    "peer": "[[peer]]",
    "server": "[server]",
    "reservation": "[[server.reservation]]",
    "metrics": "[metrics]",
    "resilience": "[resilience]",
}
"""How each section is written, and the tables inside of one."""
KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "interface": INTERFACE_KEYS,
    "peer": PEER_KEYS,
    "server": SERVER_KEYS,
    "reservation": RESERVATION_KEYS,
    "metrics": METRICS_KEYS,
    "resilience": RESILIENCE_KEYS,
}

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
    "ports": "allowed_ports",
    "openports": "allowed_ports",
    "deniedports": "disallowed_ports",
    "blockedports": "disallowed_ports",
    "closedports": "disallowed_ports",
    "pools": "pool",
    "range": "pool",
    "endpoints": "endpoint",
    "leasetimeout": "lease_time",
    "leaselifetime": "lease_time",
    "ttl": "lease_time",
    "exclude": "reserved",
    "excluded": "reserved",
    "route": "routes",
    "pushroutes": "routes",
    "forwarding": "forward",
    "ipforward": "forward",
    "masquerade": "nat",
    "timeout": "idle_timeout",
    "expires": "invitation_time",
    "invitationexpires": "invitation_time",
    "reservations": "reservation",
    "static": "reservation",
    "etcdendpoints": "etcd",
    "etcdpassword": "etcd_password_file",
    "etcdcafile": "etcd_ca",
    "etcdcertfile": "etcd_cert",
    "etcdkeyfile": "etcd_key",
    "bind": "listen",
    "attempts": "max_attempts",
    "retries": "max_attempts",
    "initialdelay": "initial_interval",
    "maxdelay": "max_interval",
}
"""What people write instead, plain and in lower case. Only those known in a table serve."""

EXAMPLE_KEY: Final = (
    "is the key of an example, which everybody knows",
    "make your own with nvpn genkey or nvpn genpsk",
)


def unknown_key(
    word: str, known: Iterable[str], others: Sequence[tuple[str, Iterable[str]]]
) -> tuple[str, str]:
    """What to say about a key that its section does not have, and the hint.

    Args:
        known: the keys of its section, as they are written in this kind of file.
        others: how each other section is written, and its keys.
    """
    here = {plain(name): name for name in known}
    if plain(word) not in here:
        for header, there in others:
            if plain(word) in {plain(name) for name in there}:
                return "is unknown here", f"it belongs to {header}"
    aliases = {alias: here[plain(name)] for alias, name in ALIASES.items() if plain(name) in here}
    hint = did_you_mean(word, here.values(), aliases)
    return "is unknown", hint or f"known are {', '.join(known)}"
