"""The language of the control socket: WireGuard's cross-platform UAPI, without the socket.

``set`` is read line by line into a :data:`~nvpn.model.changes.Plan`; nothing is applied
before its last line is known to be good. ``get`` is written in pieces, so that a tunnel
with a hundred thousand prefixes neither fills memory nor holds up the event loop.

``get`` also carries what ``nvpn show`` tells beyond `wg`, under keys that begin with
``nvpn_``; `wg` skips keys that it does not know.

Source: https://www.wireguard.com/xplatform/, and wireguard-go where that is silent.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final

from nvpn.errors import ControlError
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Plan,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import UDP_PATH, Endpoint
from nvpn.model.keys import KEY_LENGTH, PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

MAX_LINE: Final = 64 * 1024 - 1
"""Bytes of a request line; wireguard-go's limit too."""

_CHUNK_BYTES: Final = 16 * 1024
_SECOND: Final = 1_000_000_000
_NO_KEY: Final = "0" * 64


def parse_set(lines: Iterable[str]) -> Plan:
    """The plan that the lines of a ``set`` ask for, the blank line excluded.

    Raises:
        ControlError: EPROTO, a line without ``=``; EINVAL, an unknown key or a value that
            is none. Names the line, never a value.
    """
    parser = SetParser()
    for line in lines:
        parser.feed(line)
    return parser.plan()


class SetParser:
    """Reads a ``set`` one line at a time.

    A peer's block begins with its ``public_key``; the device's own keys come before the
    first of them.
    """

    __slots__ = ("_block", "_changes", "_line", "_peer", "_removed", "_update_only")

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._block: list[Change] = []
        self._peer: PublicKey | None = None
        self._update_only = False
        self._removed = False
        self._line = 0

    def feed(self, line: str) -> None:
        """Take one line, without its line end. Raises ControlError, see parse_set."""
        self._line += 1
        key, equals, value = line.partition("=")
        if not equals:
            raise ControlError(errno.EPROTO, f"line {self._line}: expected key=value")
        try:
            if key == "public_key":
                self._begin_peer(PublicKey.from_hex(value))
            elif self._peer is None:
                self._changes.append(_device_change(key, value))
            else:
                self._feed_peer(self._peer, key, value)
        except ValueError as error:
            # Only keys that we know are repeated: anything else may be a slipped secret.
            raise ControlError(errno.EINVAL, f"line {self._line}: {error}") from None

    def plan(self) -> Plan:
        """What the lines so far ask for."""
        self._end_peer()
        return tuple(self._changes)

    def _begin_peer(self, peer: PublicKey) -> None:
        self._end_peer()
        self._peer = peer

    def _end_peer(self) -> None:
        if self._peer is not None:
            if self._removed:
                self._changes.append(RemovePeer(self._peer))
            else:
                if not self._update_only:
                    self._changes.append(AddPeer(self._peer))
                self._changes += self._block
        self._peer = None
        self._block = []
        self._update_only = False
        self._removed = False

    def _feed_peer(self, peer: PublicKey, key: str, value: str) -> None:
        # After remove=true the rest of the block has to be well-formed and has no effect.
        if key == "remove":
            _expect_true(key, value)
            self._removed = True
        elif key == "update_only":
            _expect_true(key, value)
            self._update_only = True
        elif key == "protocol_version":
            if value != "1":
                raise ValueError("protocol_version: only 1 exists")
        else:
            self._block.append(_peer_change(peer, key, value))


def _device_change(key: str, value: str) -> Change:
    if key == "private_key":
        private_key = PrivateKey.from_hex(value) if value != _NO_KEY else None
        return SetPrivateKey(private_key)
    if key == "listen_port":
        return SetListenPort(_parse_number(key, value, 0xFFFF))
    if key == "fwmark":
        return SetFwmark(_parse_number(key, value, 0xFFFF_FFFF))
    if key == "replace_peers":
        _expect_true(key, value)
        return ReplacePeers()
    raise ValueError("a device key that does not exist, or that came after a peer")


def _peer_change(peer: PublicKey, key: str, value: str) -> Change:
    if key == "allowed_ip":
        if value.startswith("-"):
            return RemoveAllowedIp(peer, Prefix.parse(value[1:]))
        return AddAllowedIp(peer, Prefix.parse(value))
    if key == "endpoint":
        return SetEndpoint(peer, Endpoint.parse(value))
    if key == "preshared_key":
        preshared_key = PresharedKey.from_hex(value)
        return SetPresharedKey(peer, None if preshared_key.is_zero else preshared_key)
    if key == "persistent_keepalive_interval":
        return SetPersistentKeepalive(peer, _parse_number(key, value, 0xFFFF))
    if key == "replace_allowed_ips":
        _expect_true(key, value)
        return ReplaceAllowedIps(peer)
    if key == "nvpn_name":
        if not value.isprintable():
            raise ValueError("nvpn_name: a name has only printable characters")
        return SetName(peer, value)
    raise ValueError("a peer key that does not exist")


def _parse_number(key: str, value: str, maximum: int) -> int:
    # The length is looked at first: int() refuses thousands of digits in its own words.
    if value.isascii() and value.isdigit() and len(value) <= 20 and int(value) <= maximum:
        return int(value)
    raise ValueError(f"{key}: expected a decimal number from 0 to {maximum}")


def _expect_true(key: str, value: str) -> None:
    if value != "true":
        raise ValueError(f"{key}: can only be true")


def iter_get(snapshot: TunnelSnapshot) -> Iterator[memoryview]:
    """The lines that answer ``get``, without the final ``errno``, in pieces of 16 KiB.

    Each piece is a buffer of its own which the caller zeroes after use: keys are in it,
    written straight there, so that no copy of them is left anywhere else.
    """
    piece, used = bytearray(_CHUNK_BYTES), 0
    for part in _get_parts(snapshot):
        if not isinstance(part, str):
            if used + 2 * KEY_LENGTH > _CHUNK_BYTES:
                yield memoryview(piece)[:used]
                piece, used = bytearray(_CHUNK_BYTES), 0
            part.write_hex(piece, used)
            used += 2 * KEY_LENGTH
            continue
        rest = part.encode()
        while rest:
            fits = rest[: _CHUNK_BYTES - used]
            piece[used : used + len(fits)] = fits
            used += len(fits)
            rest = rest[len(fits) :]
            if used == _CHUNK_BYTES:
                yield memoryview(piece)
                piece, used = bytearray(_CHUNK_BYTES), 0
    if used:
        yield memoryview(piece)[:used]


def _get_parts(snapshot: TunnelSnapshot) -> Iterator[str | PrivateKey | PresharedKey]:
    # `wg` wants everything about the device before the first peer.
    if snapshot.private_key is not None:
        yield "private_key="
        yield snapshot.private_key
        yield "\n"
    if snapshot.listen_port:
        yield f"listen_port={snapshot.listen_port}\n"
    if snapshot.fwmark:
        yield f"fwmark={snapshot.fwmark}\n"
    if snapshot.private_key is not None:
        yield f"nvpn_public_key={snapshot.private_key.public().hex}\n"
    yield f"nvpn_mtu={snapshot.mtu}\n"
    yield f"nvpn_datapath={_one_line(snapshot.datapath)}\n"
    if snapshot.datapath_reason:
        yield f"nvpn_datapath_reason={_one_line(snapshot.datapath_reason)}\n"
    for reason, count in snapshot.drops.items():
        yield f"nvpn_drop={reason.value} {count}\n"
    for peer in snapshot.peers:
        yield f"public_key={peer.public_key.hex}\npreshared_key="
        yield _NO_KEY if peer.preshared_key is None else peer.preshared_key
        yield _peer_lines(peer)
        for prefix in peer.allowed_ips:
            yield f"allowed_ip={prefix}\n"


def _peer_lines(peer: PeerSnapshot) -> str:
    """What follows the preshared key: its line end, then whole lines."""
    seconds, nanoseconds = divmod(peer.last_handshake, _SECOND)
    lines = ["", "protocol_version=1"]
    # `wg` understands addresses only; what is reached otherwise has none for it.
    if peer.endpoint is not None and peer.endpoint.path == UDP_PATH:
        lines.append(f"endpoint={peer.endpoint}")
    lines += (
        f"last_handshake_time_sec={seconds}",
        f"last_handshake_time_nsec={nanoseconds}",
        f"tx_bytes={peer.tx_bytes}",
        f"rx_bytes={peer.rx_bytes}",
        f"persistent_keepalive_interval={peer.persistent_keepalive}",
    )
    if peer.name:
        lines.append(f"nvpn_name={_one_line(peer.name)}")
    lines.append(f"nvpn_owner={peer.owner.value}")
    if peer.session_age is not None:
        lines.append(f"nvpn_session_age={peer.session_age}")
    if peer.handshake_attempts:
        lines.append(f"nvpn_handshake_attempts={peer.handshake_attempts}")
    if peer.filtered:
        lines.append(f"nvpn_filtered={peer.filtered}")
    lines.append("")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
