"""Commands and events as the tuples that cross into and out of the native module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nvpn.datapath.commands import (
    AddPath,
    Command,
    CreatePeer,
    DeletePrefix,
    DestroyPeer,
    Divert,
    DropStaged,
    EraseKeys,
    InsertPrefix,
    InstallKeypair,
    RemovePath,
    ReplaceSockets,
    Role,
    Rule,
    SendHandshake,
    SendInner,
    SendKeepalive,
    SetAdmission,
    SetFilter,
    SetMtu,
    SetPeerEndpoint,
    StopSending,
    Touch,
)
from nvpn.datapath.events import (
    DataReceived,
    DataSent,
    DeviceGone,
    EndpointRoamed,
    Event,
    HandshakeReceived,
    HandshakeWanted,
    InnerReceived,
    KeypairConfirmed,
    KeypairGone,
    Why,
)
from nvpn.model.endpoint import Endpoint, Source

Fields = tuple[object, ...]


def pack_command(command: Command) -> Fields:
    """The tuple that the module takes; the keys of a keypair are zeroed by it."""
    return _PACK[type(command)](command)


def unpack_event(fields: tuple[Any, ...]) -> Event:
    """The event that a tuple of the module's stands for.

    Raises:
        RuntimeError: the engine has died of a mistake of ours.
    """
    return _UNPACK[fields[0]](*fields[1:])


def _pack_keypair(one: InstallKeypair) -> Fields:
    return (
        "install",
        one.peer,
        one.role is Role.INITIATOR,
        one.our_index,
        one.their_index,
        one.send_key,
        one.receive_key,
        one.born_at,
    )


def _pack_handshake(one: SendHandshake) -> Fields:
    fields = ("handshake", one.peer, bytes(one.datagram), one.forget_source)
    return (*fields, one.also) if one.also else fields


def _pack_filter(one: SetFilter) -> Fields:
    rules = None if one.rules is None else [_pack_rule(rule) for rule in one.rules]
    return ("filter", rules, one.otherwise, one.remember)


def _pack_rule(one: Rule) -> Fields:
    return (
        one.accept,
        one.peer,
        one.source,
        one.destination,
        one.protocol,
        one.source_ports,
        one.destination_ports,
    )


_PACK: Final[dict[type, Callable[[Any], Fields]]] = {
    CreatePeer: lambda one: ("create", one.peer),
    DestroyPeer: lambda one: ("destroy", one.peer),
    InsertPrefix: lambda one: ("insert", one.peer, one.prefix, one.diverted),
    DeletePrefix: lambda one: ("delete", one.peer, one.prefix, one.diverted),
    SetPeerEndpoint: lambda one: ("endpoint", one.peer, one.endpoint),
    InstallKeypair: _pack_keypair,
    StopSending: lambda one: ("stop", one.peer),
    EraseKeys: lambda one: ("erase", one.peer),
    DropStaged: lambda one: ("drop", one.peer),
    SendKeepalive: lambda one: ("keepalive", one.peer),
    SendHandshake: _pack_handshake,
    Touch: lambda one: ("touch", one.peer, one.received_bytes, one.at),
    SetAdmission: lambda one: ("admission", one.mac1_key, one.cookie_key, one.secret),
    SetMtu: lambda one: ("mtu", one.mtu),
    SetFilter: _pack_filter,
    Divert: lambda one: ("divert", [(place.prefix, place.port) for place in one.diversions]),
    SendInner: lambda one: ("inner", bytes(one.packet)),
    ReplaceSockets: lambda one: ("sockets", one.ipv4, one.ipv6),
    AddPath: lambda one: ("add path", one.path, one.descriptor),
    RemovePath: lambda one: ("remove path", one.path),
}


def _endpoint(fields: tuple[Any, ...]) -> Endpoint:
    address, port, scope, source, path, learned_at = fields
    return Endpoint(
        address, port, scope, None if source is None else Source(*source), path, learned_at
    )


def _failed(message: str) -> Event:
    raise RuntimeError(f"the native datapath died: {message}")


_UNPACK: Final[dict[str, Callable[..., Event]]] = {
    "HandshakeReceived": lambda datagram, endpoint, at: HandshakeReceived(
        datagram, _endpoint(endpoint), at
    ),
    "HandshakeWanted": lambda peer, why: HandshakeWanted(peer, Why[why]),
    "KeypairConfirmed": KeypairConfirmed,
    "KeypairGone": KeypairGone,
    "EndpointRoamed": lambda peer, endpoint: EndpointRoamed(peer, _endpoint(endpoint)),
    "DataSent": DataSent,
    "DataReceived": DataReceived,
    "InnerReceived": InnerReceived,
    "DeviceGone": DeviceGone,
    "Failed": _failed,
}
