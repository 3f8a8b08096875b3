"""The other side's configuration: which address it gets, and its file's text.

The text is what every WireGuard app reads: wg-quick's format, without comments, hooks or
anything else that a phone would refuse.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from nvpn.config.model import InterfaceConfig, TunnelConfig
from nvpn.model.prefixes import Interface, Prefix, format_address

_SOMEWHERE = ("192.0.2.1", "2001:db8::1")
"""Addresses of nobody (RFC 5737, RFC 3849), to ask for the way out; nothing is sent there."""


def free_address(network: Interface, taken: Iterable[Prefix]) -> Prefix | None:
    """The lowest address that nobody has in the network of our own address; None: all are.

    The network's own address, an IPv4 broadcast address and ours are nobody's. A prefix as
    wide as the network takes all of it, a wider one (a default route) none.
    """
    prefix = network.prefix
    first, last = prefix.network, prefix.network + (1 << (prefix.bits - prefix.length)) - 1
    is_small = prefix.bits - prefix.length == 1  # RFC 3021, RFC 6164: both are hosts
    if not is_small:
        first += 1
        last -= prefix.version == 4
    ours = int.from_bytes(network.address, "big")
    ranges = [(ours, ours)]
    for other in taken:
        if prefix.covers(other):
            ranges.append((other.network, other.network + (1 << (other.bits - other.length)) - 1))
    candidate = first
    for low, high in sorted(ranges):
        if low > candidate:
            break
        candidate = max(candidate, high + 1)
    if candidate > last:
        return None
    return Prefix(prefix.version, candidate, prefix.bits)


def guess_own_address() -> str:
    """The address that the whole world reaches this host by, if it has one itself.

    A host behind a NAT does not know; then it is empty.
    """
    for place in _SOMEWHERE:
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((place, 9))
                address = str(probe.getsockname()[0])
            except OSError:
                continue
        if ipaddress.ip_address(address).is_global:
            return address
    return ""


def format_wgquick(config: TunnelConfig) -> str:
    """The configuration as an app reads it. It holds secret keys."""
    interface = config.interface
    lines = ["[Interface]"]
    if interface.private_key is not None:
        lines.append(f"PrivateKey = {interface.private_key.reveal_base64()}")
    if interface.addresses:
        lines.append(f"Address = {', '.join(map(str, interface.addresses))}")
    if interface.listen_port:
        lines.append(f"ListenPort = {interface.listen_port}")
    if interface.dns is not None:
        servers = [format_address(server) for server in interface.dns.servers]
        lines.append(f"DNS = {', '.join([*servers, *interface.dns.search])}")
    if interface.mtu is not None:
        lines.append(f"MTU = {interface.mtu}")
    for peer in config.peers:
        lines += ["", "[Peer]", f"PublicKey = {peer.public_key.base64}"]
        if peer.preshared_key is not None and not peer.preshared_key.is_zero:
            lines.append(f"PresharedKey = {peer.preshared_key.reveal_base64()}")
        if peer.allowed_ips:
            lines.append(f"AllowedIPs = {', '.join(map(str, peer.allowed_ips))}")
        if peer.endpoint is not None:
            lines.append(f"Endpoint = {peer.endpoint}")
        if peer.persistent_keepalive:
            lines.append(f"PersistentKeepalive = {peer.persistent_keepalive}")
    return "\n".join(lines)


def left_out(config: TunnelConfig) -> list[str]:
    """What the text does not say and an app could not do."""
    ours = config.interface
    default = InterfaceConfig()
    given = {
        "hooks": ours.hooks != default.hooks,
        "table": ours.table is not None,
        "fwmark": ours.fwmark != 0,
        "kill_switch": ours.kill_switch,
        "netns": bool(ours.netns or ours.birth_netns),
        "further endpoints": any(peer.other_endpoints for peer in config.peers),
    }
    return [key for key, is_given in given.items() if is_given]
