"""``nvpn peer add --from-pool``: a phone with stock WireGuard becomes a server's client.

It cannot ask for a lease, so it gets addresses for good. They and its public key are kept
where the server keeps its clients, and nothing goes into the tunnel's file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Final

from nvpn.cli.client_config import format_wgquick
from nvpn.cli.endpoint_option import read_endpoint
from nvpn.cli.server_choice import ask_server, choose_server
from nvpn.cli.usage import USAGE_ERROR, print_usage_error
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.config.values import parse_endpoint
from nvpn.control import client
from nvpn.errors import ConfigError
from nvpn.model.keys import KEY_LENGTH, PrivateKey, PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Interface, Prefix, parse_address

_EVERYTHING: Final = (Prefix(4, 0, 0), Prefix(6, 0, 0))


def why_not(args: argparse.Namespace) -> int:
    """A usage error for an option that goes not with ``--from-pool``; else 0."""
    needless = [
        f"--{option.replace('_', '-')}"
        for option in ("public_key", "psk", "allowed_ips")
        if getattr(args, option)
    ]
    if not needless:
        return 0
    print_usage_error(
        f"{needless[0]} does not go with --from-pool",
        tip="the server chooses the addresses, and the key is made here",
        command="nvpn peer add",
    )
    return USAGE_ERROR


def lease(args: argparse.Namespace, key: PrivateKey) -> tuple[str, str]:
    """The server's interface, and the configuration for the other side. Raises NvpnError."""
    interface = choose_server(args.tunnel)
    told = ask_server(interface, "nvpn_lease_peer", name=args.name, public_key=key.public().base64)
    try:
        return interface, format_wgquick(_config(args, interface, told, key))
    except BaseException:
        give_back(interface, key)
        raise


def give_back(interface: str, key: PrivateKey) -> None:
    """Nobody got the configuration. Raises NvpnError."""
    ask_server(interface, "nvpn_client_revoke", client=key.public().base64)


def new_key() -> PrivateKey:
    """Of the other side. It is kept nowhere."""
    return PrivateKey(os.urandom(KEY_LENGTH))


def _config(
    args: argparse.Namespace, interface: str, told: dict[str, Any], key: PrivateKey
) -> TunnelConfig:
    addresses = tuple(
        Interface(address.address, len(address.address) * 8)
        for address in map(Interface.parse, told["addresses"])
    )
    server = PeerConfig(
        PublicKey.from_base64(told["server"]),
        endpoint=_endpoint(args.endpoint, told["endpoints"], interface),
        allowed_ips=_EVERYTHING if args.all else tuple(map(Prefix.parse, told["routes"])),
        persistent_keepalive=args.keepalive,
    )
    ours = InterfaceConfig(
        private_key=key,
        addresses=addresses,
        dns=args.dns or _name_servers(told),
        mtu=told["mtu"] or None,
    )
    return TunnelConfig(interface, Path(f"{interface}.conf"), ours, (server,))


def _name_servers(told: dict[str, Any]) -> NameServers | None:
    servers, search = tuple(map(parse_address, told["dns"])), tuple(told["search"])
    return NameServers(servers, search) if servers or search else None


def _endpoint(given: str | None, known: list[str], interface: str) -> HostPort:
    if given:
        return read_endpoint(given, lambda: client.get(interface).listen_port)
    if not known:
        raise ConfigError(
            "where the peer finds the server is not known",
            hint="say where: --endpoint HOST:PORT, or give [server] an endpoint",
        )
    return parse_endpoint(known[0])
