"""What `wg show` prints, byte for byte, for people's scripts.

Checked against wireguard-tools 1.0.20210914 to 1.0.20260223. Pure: a record in, text out;
``now`` is handed in.
"""

from __future__ import annotations

import socket

from nvpn.control.records import PeerRecord, TunnelRecord

FIELDS = (
    "public-key",
    "private-key",
    "listen-port",
    "fwmark",
    "peers",
    "preshared-keys",
    "endpoints",
    "allowed-ips",
    "latest-handshakes",
    "transfer",
    "persistent-keepalive",
    "dump",
)
"""What may follow an interface, in the order of wg's usage line."""

_NONE = "(none)"
_HIDDEN = "(hidden)"
_UNITS = (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB")


class Style:
    """The escapes of `wg show`, or none of them."""

    __slots__ = ("bold", "cyan", "green", "red", "reset", "yellow")

    def __init__(self, *, colour: bool) -> None:
        self.reset = "\x1b[0m" if colour else ""
        self.bold = "\x1b[1m" if colour else ""
        self.red = "\x1b[31m" if colour else ""
        self.green = "\x1b[32m" if colour else ""
        self.yellow = "\x1b[33m" if colour else ""
        self.cyan = "\x1b[36m" if colour else ""


def format_tunnel(tunnel: TunnelRecord, *, now: int, colour: bool, show_keys: bool) -> str:
    """The text for people: ``wg show IF``.

    Args:
        now: Unix time in whole seconds.
        show_keys: print secrets, as WG_HIDE_KEYS=never asks for.
    """
    style = Style(colour=colour)
    lines = [
        f"{style.reset}{style.green}{style.bold}interface{style.reset}: "
        f"{style.green}{tunnel.name}{style.reset}\n"
    ]

    def add(label: str, value: object) -> None:
        lines.append(f"  {style.bold}{label}{style.reset}: {value}\n")

    if tunnel.public_key:
        add("public key", tunnel.public_key)
    if tunnel.private_key:
        add("private key", tunnel.private_key if show_keys else _HIDDEN)
    if tunnel.listen_port:
        add("listening port", tunnel.listen_port)
    if tunnel.fwmark:
        add("fwmark", f"0x{tunnel.fwmark:x}")
    for peer in newest_first(tunnel.peers):
        lines.append(
            f"\n{style.yellow}{style.bold}peer{style.reset}: "
            f"{style.yellow}{peer.public_key}{style.reset}\n"
        )
        if peer.preshared_key:
            add("preshared key", peer.preshared_key if show_keys else _HIDDEN)
        if peer.endpoint:
            add("endpoint", format_endpoint(peer.endpoint))
        slash = f"{style.cyan}/{style.reset}"
        prefixes = (prefix.replace("/", slash) for prefix in map(_normal, peer.allowed_ips))
        add("allowed ips", ", ".join(prefixes) or _NONE)
        if peer.last_handshake[0]:
            add("latest handshake", format_ago(peer.last_handshake[0], now, style))
        if peer.rx_bytes or peer.tx_bytes:
            received, sent = (format_bytes(n, style) for n in (peer.rx_bytes, peer.tx_bytes))
            add("transfer", f"{received} received, {sent} sent")
        if peer.persistent_keepalive:
            spell = format_duration(peer.persistent_keepalive, style)
            add("persistent keepalive", f"every {spell}")
    return "".join(lines)


def format_field(tunnel: TunnelRecord, field: str, *, with_interface: bool) -> str:
    """One field for scripts: ``wg show IF FIELD``.

    Args:
        field: one of :data:`FIELDS`.
        with_interface: begin each line with the interface's name, as ``all`` does.
    """
    head = f"{tunnel.name}\t" if with_interface else ""
    if field == "dump":
        return _format_dump(tunnel, head)
    if field == "public-key":
        return f"{head}{tunnel.public_key or _NONE}\n"
    if field == "private-key":
        return f"{head}{tunnel.private_key or _NONE}\n"
    if field == "listen-port":
        return f"{head}{tunnel.listen_port}\n"
    if field == "fwmark":
        return f"{head}{_fwmark(tunnel)}\n"
    if field == "peers":
        return "".join(f"{head}{peer.public_key}\n" for peer in tunnel.peers)
    values = (f"{head}{peer.public_key}\t{_peer_field(peer, field)}\n" for peer in tunnel.peers)
    return "".join(values)


def newest_first(peers: list[PeerRecord]) -> list[PeerRecord]:
    """The latest handshake first, never last; ties stay as they are."""

    def age(peer: PeerRecord) -> tuple[bool, int, int]:
        seconds, nanoseconds = peer.last_handshake
        return not (seconds or nanoseconds), -seconds, -nanoseconds

    return sorted(peers, key=age)


def format_endpoint(endpoint: str) -> str:
    """As libc writes it: addresses in their shortest form, zones by name where it has one."""
    if not endpoint.startswith("["):
        return endpoint
    host, _, port = endpoint[1:].rpartition("]:")
    try:
        if "%" in host:
            flags = socket.AI_NUMERICHOST
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)
            numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            host, port = socket.getnameinfo(found[0][4], numeric)
        else:
            host = _normal_address(host)
    except OSError:
        return endpoint
    return f"[{host}]:{port}"


def format_ago(then: int, now: int, style: Style) -> str:
    """How long ago a handshake was, with both in Unix seconds."""
    if now == then:
        return "Now"
    if now < then:
        warning = "System clock wound backward; connection problems may ensue."
        return f"({style.red}{warning}{style.reset})"
    return f"{format_duration(now - then, style)} ago"


def format_duration(seconds: int, style: Style) -> str:
    """``1 hour, 2 seconds``: units of zero are left out, a year has 365 days."""
    parts = []
    for unit, length in _UNITS:
        count, seconds = divmod(seconds, length)
        if count:
            name = unit if count == 1 else f"{unit}s"
            parts.append(f"{count} {style.cyan}{name}{style.reset}")
    return ", ".join(parts)


def format_bytes(count: int, style: Style) -> str:
    """``999 B`` or two decimals of a binary unit, TiB being the largest."""
    if count < 1024:
        return f"{count} {style.cyan}B{style.reset}"
    # The largest unit that the number fills; there is none above TiB.
    exponent = min((count.bit_length() - 1) // 10, len(_BYTE_UNITS))
    amount = count / 1024**exponent
    return f"{amount:.2f} {style.cyan}{_BYTE_UNITS[exponent - 1]}{style.reset}"


def format_showconf(tunnel: TunnelRecord) -> str:
    """The file that setconf takes: ``wg showconf IF``. Its keys are in it."""
    lines = ["[Interface]"]
    if tunnel.listen_port:
        lines.append(f"ListenPort = {tunnel.listen_port}")
    if tunnel.fwmark:
        lines.append(f"FwMark = 0x{tunnel.fwmark:x}")
    if tunnel.private_key:
        lines.append(f"PrivateKey = {tunnel.private_key}")
    for peer in tunnel.peers:
        lines += ("", "[Peer]", f"PublicKey = {peer.public_key}")
        if peer.preshared_key:
            lines.append(f"PresharedKey = {peer.preshared_key}")
        if peer.allowed_ips:
            lines.append(f"AllowedIPs = {', '.join(map(_normal, peer.allowed_ips))}")
        if peer.endpoint:
            lines.append(f"Endpoint = {format_endpoint(peer.endpoint)}")
        if peer.persistent_keepalive:
            lines.append(f"PersistentKeepalive = {peer.persistent_keepalive}")
    if not tunnel.peers:
        lines.append("")
    return "".join(f"{line}\n" for line in lines)


def _format_dump(tunnel: TunnelRecord, head: str) -> str:
    device = (
        tunnel.private_key or _NONE,
        tunnel.public_key or _NONE,
        str(tunnel.listen_port),
        _fwmark(tunnel),
    )
    lines = [f"{head}{chr(9).join(device)}\n"]
    for peer in tunnel.peers:
        values = (
            peer.public_key,
            peer.preshared_key or _NONE,
            format_endpoint(peer.endpoint) or _NONE,
            ",".join(map(_normal, peer.allowed_ips)) or _NONE,
            str(peer.last_handshake[0]),
            str(peer.rx_bytes),
            str(peer.tx_bytes),
            str(peer.persistent_keepalive or "off"),
        )
        lines.append(f"{head}{chr(9).join(values)}\n")
    return "".join(lines)


def _peer_field(peer: PeerRecord, field: str) -> str:
    if field == "preshared-keys":
        return peer.preshared_key or _NONE
    if field == "endpoints":
        return format_endpoint(peer.endpoint) or _NONE
    if field == "allowed-ips":
        return " ".join(map(_normal, peer.allowed_ips)) or _NONE
    if field == "latest-handshakes":
        return str(peer.last_handshake[0])
    if field == "transfer":
        return f"{peer.rx_bytes}\t{peer.tx_bytes}"
    return str(peer.persistent_keepalive or "off")


def _fwmark(tunnel: TunnelRecord) -> str:
    return f"0x{tunnel.fwmark:x}" if tunnel.fwmark else "off"


def _normal(prefix: str) -> str:
    """A prefix as libc writes it. IPv4 has one way only, IPv6 has several."""
    if ":" not in prefix:
        return prefix
    address, _, bits = prefix.partition("/")
    try:
        return f"{_normal_address(address)}/{bits}"
    except OSError:
        return prefix


def _normal_address(address: str) -> str:
    return socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
