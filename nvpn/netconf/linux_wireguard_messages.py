"""The messages of the kernel's WireGuard, packed by pyroute2 and read without it.

A message holds at most 64 KiB of peers, and a peer, too, may have more allowed IPs than
that: then it comes in several pieces, here as in the kernel's own lists.

Keys go through pyroute2 as base64: copies of them that we cannot wipe stay in memory until
it is used again. What is read does not: an object for each attribute would take 100 times
as long, and a daemon reads all of it every few seconds.

Source: include/uapi/linux/wireguard.h.
"""

from __future__ import annotations

import base64
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Any, Final

from pyroute2.netlink.generic.wireguard import (
    WG_CMD_GET_DEVICE,
    WG_CMD_SET_DEVICE,
    WG_GENL_VERSION,
    WGPEER_F_REMOVE_ME,
    WGPEER_F_REPLACE_ALLOWEDIPS,
    WGPEER_F_UPDATE_ONLY,
    wgmsg,
)

from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import KEY_LENGTH, PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix, format_address
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KEPT, KernelChanges, PeerChange
from nvpn.netconf.linux_generic import iter_attributes
from nvpn.wire.constants import REJECT_AFTER_TIME

Target = int | str
"""An interface by its index or its name."""

_MESSAGE_BYTES: Final = 16 * 1024
# The most that a peer's own attributes take, that a piece of it does, and one prefix.
_PEER_BYTES: Final = 128
_PIECE_BYTES: Final = 52
_PREFIX_BYTES: Final = 40

_NO_KEY: Final = bytes(KEY_LENGTH)
_SOCKADDR_IN: Final = struct.Struct("!H4s")  # behind the family: port, address
_SOCKADDR_IN6: Final = struct.Struct("!HI16s")  # port, flow label, address
_TIMESPEC: Final = struct.Struct("=qq")


def pack_get(target: Target) -> wgmsg:
    """The request that lists an interface and its peers."""
    return _message(WG_CMD_GET_DEVICE, [_name(target)])


def pack_changes(target: Target, changes: KernelChanges) -> list[wgmsg]:
    """The requests that make the changes, to be sent in order; none if nothing changes."""
    device = _device_attributes(changes)
    messages: list[wgmsg] = []
    peers: list[dict[str, Any]] = []
    room = _MESSAGE_BYTES

    def finish() -> None:
        nonlocal room
        attributes = [_name(target), *device]
        if peers:
            attributes.append(("WGDEVICE_A_PEERS", peers.copy()))
        messages.append(_message(WG_CMD_SET_DEVICE, attributes))
        device.clear()
        peers.clear()
        room = _MESSAGE_BYTES

    for peer in changes.peers:
        attributes, need = _peer_attributes(peer), _PEER_BYTES
        rest = peer.allowed_ips
        while True:
            fitting = (room - need) // _PREFIX_BYTES
            if fitting < 1:
                finish()
                continue
            part, rest = rest[:fitting], rest[fitting:]
            if part:
                attributes.append(("WGPEER_A_ALLOWEDIPS", list(map(_prefix_attributes, part))))
            peers.append({"attrs": attributes})
            room -= need + len(part) * _PREFIX_BYTES
            if not rest:
                break
            # What was said once is not said again: it would empty the list that it began.
            again = PeerChange(peer.public_key, update_only=True)
            attributes, need = _peer_attributes(again), _PIECE_BYTES
    if device or peers:
        finish()
    return messages


def read_device(
    answers: Iterable[bytes | bytearray], *, wall: int, brief: bool = False
) -> TunnelSnapshot:
    """The interface that the messages of one dump speak of.

    Args:
        answers: the attributes of each message.
        wall: Unix time in nanoseconds; a session is as old as its handshake.
        brief: leave out secret keys and allowed IPs.
    """
    name, private_key, listen_port, fwmark = "", None, 0, 0
    peers: list[_PeerPieces] = []
    for answer in answers:
        for kind, value in iter_attributes(memoryview(answer)):
            if kind == _DEVICE_IFNAME:
                name = bytes(value).rstrip(b"\0").decode(errors="surrogateescape")
            elif kind == _DEVICE_PRIVATE_KEY and not brief:
                if value != _NO_KEY:
                    private_key = PrivateKey(bytes(value))
            elif kind == _DEVICE_LISTEN_PORT:
                listen_port = _number(value)
            elif kind == _DEVICE_FWMARK:
                fwmark = _number(value)
            elif kind == _DEVICE_PEERS:
                for _, peer in iter_attributes(value):
                    _read_peer(peer, peers, brief=brief)
    return TunnelSnapshot(
        name=name,
        private_key=private_key,
        listen_port=listen_port,
        fwmark=fwmark,
        peers=tuple(peer.finish(wall) for peer in peers),
        datapath="kernel",
    )


# --- packing ----------------------------------------------------------------------------

_Attribute = tuple[str, Any]


def _message(command: int, attributes: list[_Attribute]) -> wgmsg:
    message = wgmsg()
    message["cmd"] = command
    message["version"] = WG_GENL_VERSION
    message["attrs"] = attributes
    return message


def _name(target: Target) -> _Attribute:
    return (
        ("WGDEVICE_A_IFNAME", target)
        if isinstance(target, str)
        else ("WGDEVICE_A_IFINDEX", target)
    )


def _device_attributes(changes: KernelChanges) -> list[_Attribute]:
    attributes: list[_Attribute] = []
    if changes.private_key is not KEPT:
        attributes.append(("WGDEVICE_A_PRIVATE_KEY", _base64(changes.private_key)))
    if changes.listen_port is not None:
        attributes.append(("WGDEVICE_A_LISTEN_PORT", changes.listen_port))
    if changes.fwmark is not None:
        attributes.append(("WGDEVICE_A_FWMARK", changes.fwmark))
    return attributes


def _peer_attributes(peer: PeerChange) -> list[_Attribute]:
    """All but its allowed IPs."""
    attributes: list[_Attribute] = [("WGPEER_A_PUBLIC_KEY", peer.public_key.base64)]
    flags = (
        (WGPEER_F_REMOVE_ME if peer.remove else 0)
        | (WGPEER_F_REPLACE_ALLOWEDIPS if peer.replace_allowed_ips else 0)
        | (WGPEER_F_UPDATE_ONLY if peer.update_only else 0)
    )
    if flags:
        attributes.append(("WGPEER_A_FLAGS", flags))
    if peer.preshared_key is not KEPT:
        attributes.append(("WGPEER_A_PRESHARED_KEY", _base64(peer.preshared_key)))
    if peer.endpoint is not None:
        attributes.append(("WGPEER_A_ENDPOINT", _endpoint_fields(peer.endpoint)))
    if peer.persistent_keepalive is not None:
        attributes.append(("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.persistent_keepalive))
    return attributes


def _prefix_attributes(prefix: Prefix) -> dict[str, list[_Attribute]]:
    family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
    return {
        "attrs": [
            ("WGALLOWEDIP_A_FAMILY", int(family)),
            ("WGALLOWEDIP_A_IPADDR", prefix.packed),
            ("WGALLOWEDIP_A_CIDR_MASK", prefix.length),
        ]
    }


def _endpoint_fields(endpoint: Endpoint) -> dict[str, Any]:
    fields = {"addr": format_address(endpoint.address), "port": endpoint.port}
    if endpoint.version == 6:
        # pyroute2 packs it in network order; to the kernel it is a number of this host.
        scope = int.from_bytes(endpoint.scope.to_bytes(4, sys.byteorder), "big")
        fields.update(flowinfo=0, scope_id=scope)
    return fields


def _base64(key: PrivateKey | PresharedKey | None) -> str:
    return base64.b64encode(_NO_KEY).decode() if key is None else key.reveal_base64()


# --- reading ----------------------------------------------------------------------------

_DEVICE_IFNAME: Final = 2
_DEVICE_PRIVATE_KEY: Final = 3
_DEVICE_LISTEN_PORT: Final = 6
_DEVICE_FWMARK: Final = 7
_DEVICE_PEERS: Final = 8

_PEER_PUBLIC_KEY: Final = 1
_PEER_PRESHARED_KEY: Final = 2
_PEER_ENDPOINT: Final = 4
_PEER_KEEPALIVE: Final = 5
_PEER_LAST_HANDSHAKE: Final = 6
_PEER_RX_BYTES: Final = 7
_PEER_TX_BYTES: Final = 8
_PEER_ALLOWED_IPS: Final = 9

_PREFIX_ADDRESS: Final = 2
_PREFIX_LENGTH: Final = 3


class _PeerPieces:
    """A peer while it is read."""

    __slots__ = (
        "allowed_ips",
        "endpoint",
        "keepalive",
        "last_handshake",
        "preshared_key",
        "public_key",
        "rx_bytes",
        "tx_bytes",
    )

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key
        self.preshared_key: PresharedKey | None = None
        self.endpoint: Endpoint | None = None
        self.keepalive = 0
        self.last_handshake = 0
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.allowed_ips: list[Prefix] = []

    def finish(self, wall: int) -> PeerSnapshot:
        age = max(wall - self.last_handshake, 0)
        return PeerSnapshot(
            public_key=PublicKey(self.public_key),
            preshared_key=self.preshared_key,
            endpoint=self.endpoint,
            last_handshake=self.last_handshake,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
            persistent_keepalive=self.keepalive,
            allowed_ips=tuple(self.allowed_ips),
            session_age=age if self.last_handshake and age < REJECT_AFTER_TIME else None,
        )


def _read_peer(data: memoryview, peers: list[_PeerPieces], *, brief: bool) -> None:
    """Read one piece of a peer: its first, or more of the last one in ``peers``."""
    peer = None
    for kind, value in iter_attributes(data):
        if kind == _PEER_PUBLIC_KEY:
            # It comes first, and what a list was cut at goes on with the same one.
            if not peers or peers[-1].public_key != value:
                peers.append(_PeerPieces(bytes(value)))
            peer = peers[-1]
        elif peer is None:
            return
        elif kind == _PEER_PRESHARED_KEY and not brief:
            if value != _NO_KEY:
                peer.preshared_key = PresharedKey(bytes(value))
        elif kind == _PEER_ENDPOINT:
            peer.endpoint = _read_endpoint(value)
        elif kind == _PEER_KEEPALIVE:
            peer.keepalive = _number(value)
        elif kind == _PEER_LAST_HANDSHAKE:
            seconds, nanoseconds = _TIMESPEC.unpack_from(value)
            peer.last_handshake = seconds * SECOND + nanoseconds
        elif kind == _PEER_RX_BYTES:
            peer.rx_bytes = _number(value)
        elif kind == _PEER_TX_BYTES:
            peer.tx_bytes = _number(value)
        elif kind == _PEER_ALLOWED_IPS and not brief:
            for _, prefix in iter_attributes(value):
                fields = dict(iter_attributes(prefix))
                peer.allowed_ips.append(
                    Prefix.of(bytes(fields[_PREFIX_ADDRESS]), fields[_PREFIX_LENGTH][0])
                )


def _read_endpoint(value: memoryview) -> Endpoint | None:
    family = _number(value[:2])
    if family == socket.AF_INET:
        port, address = _SOCKADDR_IN.unpack_from(value, 2)
        return Endpoint(address, port)
    if family == socket.AF_INET6:
        port, _, address = _SOCKADDR_IN6.unpack_from(value, 2)
        return Endpoint(address, port, _number(value[24:28]))
    return None


def _number(value: memoryview) -> int:
    return int.from_bytes(value, sys.byteorder)
