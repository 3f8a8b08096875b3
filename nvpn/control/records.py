"""What a tunnel's daemon answers to ``get``: plain strings and numbers.

Imports next to nothing, as all that ``nvpn show`` needs.
"""

from __future__ import annotations

import binascii
import errno

from nvpn.errors import ControlError

_NO_KEY = "0" * 64


class PeerRecord:
    """A peer as ``get`` told it. Keys are base64, ``""`` for none.

    ``last_handshake`` is Unix time as (seconds, nanoseconds), (0, 0) for never;
    ``persistent_keepalive`` is seconds, 0 for off. From ``name`` on the fields are
    nvpn's own, empty with another daemon; ``session_age`` is nanoseconds, None without
    a session; ``filtered`` counts packets.
    """

    __slots__ = (
        "allowed_ips",
        "endpoint",
        "filtered",
        "handshake_attempts",
        "last_handshake",
        "name",
        "owner",
        "persistent_keepalive",
        "preshared_key",
        "public_key",
        "rx_bytes",
        "session_age",
        "tx_bytes",
    )

    def __init__(self, public_key: str) -> None:
        self.public_key = public_key
        self.preshared_key = ""
        self.endpoint = ""
        self.last_handshake = (0, 0)
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.persistent_keepalive = 0
        self.allowed_ips: list[str] = []
        self.name = ""
        self.owner = ""
        self.session_age: int | None = None
        self.handshake_attempts = 0
        self.filtered = 0


class LeaseRecord:
    """What a client has of its servers, as ``nvpn_status`` tells it.

    ``state`` is ``leased``, ``asking`` or ``waiting``, and ``trouble`` why there is no lease,
    as far as it is known. ``expires_in`` and ``asks_in`` are seconds; None for good.
    """

    __slots__ = ("asks_in", "expires_in", "state", "trouble")

    def __init__(
        self, state: str, *, trouble: str = "", expires_in: int | None = None, asks_in: int = 0
    ) -> None:
        self.state = state
        self.trouble = trouble
        self.expires_in = expires_in
        self.asks_in = asks_in


class ServerRecord:
    """A server, as ``nvpn_status`` tells it: where it keeps its clients, and whether it can."""

    __slots__ = ("is_reachable", "store")

    def __init__(self, store: str, *, is_reachable: bool) -> None:
        self.store = store
        self.is_reachable = is_reachable


class TunnelRecord:
    """An interface as ``get`` told it. Keys are base64, ``""`` for none.

    ``peers`` are in the daemon's order. ``mtu``, ``datapath`` and why it is that one, and
    ``drops`` (by the names of :class:`nvpn.errors.DropReason`) are nvpn's own: 0 and empty
    with another daemon. So are ``lease`` and ``server``, which ``get`` does not tell: they are
    None until somebody has asked for them, and for those who are no clients, or no servers.
    """

    __slots__ = (
        "_public_key",
        "datapath",
        "datapath_reason",
        "drops",
        "fwmark",
        "lease",
        "listen_port",
        "mtu",
        "name",
        "peers",
        "private_key",
        "server",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.private_key = ""
        self._public_key = ""
        self.listen_port = 0
        self.fwmark = 0
        self.mtu = 0
        self.datapath = ""
        self.datapath_reason = ""
        self.drops: dict[str, int] = {}
        self.lease: LeaseRecord | None = None
        self.server: ServerRecord | None = None
        self.peers: list[PeerRecord] = []

    @property
    def public_key(self) -> str:
        """The interface's own; computed here when the daemon does not tell it."""
        if not self._public_key and self.private_key:
            from nacl.bindings import crypto_scalarmult_base

            scalar = binascii.a2b_base64(self.private_key)
            self._public_key = _base64(crypto_scalarmult_base(scalar).hex())
        return self._public_key


def parse_get(name: str, lines: list[str]) -> TunnelRecord:
    """Read the lines of an answer to ``get``. Unknown keys are ignored.

    Raises:
        ControlError: EPROTO, a line that no WireGuard daemon writes.
    """
    tunnel = TunnelRecord(name)
    peer: PeerRecord | None = None
    try:
        for line in lines:
            key, equals, value = line.partition("=")
            if not equals:
                raise ValueError
            if key == "public_key":
                peer = PeerRecord(_base64(value))
                tunnel.peers.append(peer)
            elif peer is None:
                _read_tunnel_line(tunnel, key, value)
            elif key == "allowed_ip":
                peer.allowed_ips.append(value)
            else:
                _read_peer_line(peer, key, value)
    except ValueError:
        # The line is not repeated: it may hold a key.
        raise ControlError(errno.EPROTO, f"the daemon of {name} answered nonsense") from None
    return tunnel


def _read_tunnel_line(tunnel: TunnelRecord, key: str, value: str) -> None:
    if key == "private_key":
        tunnel.private_key = _secret(value)
    elif key == "listen_port":
        tunnel.listen_port = int(value)
    elif key == "fwmark":
        tunnel.fwmark = int(value)
    elif key == "nvpn_public_key":
        tunnel._public_key = _base64(value)
    elif key == "nvpn_mtu":
        tunnel.mtu = int(value)
    elif key == "nvpn_datapath":
        tunnel.datapath = value
    elif key == "nvpn_datapath_reason":
        tunnel.datapath_reason = value
    elif key == "nvpn_drop":
        reason, _, count = value.partition(" ")
        tunnel.drops[reason] = int(count)


def _read_peer_line(peer: PeerRecord, key: str, value: str) -> None:
    if key == "preshared_key":
        peer.preshared_key = _secret(value)
    elif key == "endpoint":
        peer.endpoint = value
    elif key == "last_handshake_time_sec":
        peer.last_handshake = (int(value), peer.last_handshake[1])
    elif key == "last_handshake_time_nsec":
        peer.last_handshake = (peer.last_handshake[0], int(value))
    elif key == "rx_bytes":
        peer.rx_bytes = int(value)
    elif key == "tx_bytes":
        peer.tx_bytes = int(value)
    elif key == "persistent_keepalive_interval":
        peer.persistent_keepalive = int(value)
    elif key == "nvpn_name":
        peer.name = value
    elif key == "nvpn_owner":
        peer.owner = value
    elif key == "nvpn_session_age":
        peer.session_age = int(value)
    elif key == "nvpn_handshake_attempts":
        peer.handshake_attempts = int(value)
    elif key == "nvpn_filtered":
        peer.filtered = int(value)


def _base64(digits: str) -> str:
    raw = bytes.fromhex(digits)
    if len(raw) != 32:
        raise ValueError("a key is 64 hexadecimal digits")
    return binascii.b2a_base64(raw, newline=False).decode()


def _secret(digits: str) -> str:
    return "" if digits == _NO_KEY else _base64(digits)
