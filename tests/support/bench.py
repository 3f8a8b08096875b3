"""A protocol's device on a bench: what it asks of a datapath is looked at."""

from __future__ import annotations

import random

from nvpn.datapath.commands import InstallKeypair, PeerId, SendHandshake
from nvpn.datapath.events import HandshakeReceived, HandshakeWanted, KeypairConfirmed, Why
from nvpn.model.clock import SECOND, Now
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.protocol.device import Device
from nvpn.protocol.tai64n import TimestampSource
from tests.support.recorder import Recorder

PREFIX = Prefix.parse("10.0.0.0/24")
THERE = Endpoint.parse("192.0.2.2:2")
T0 = Now(1_000 * SECOND, 1_700_000_000 * SECOND)


def at(seconds: float) -> Now:
    later = round(seconds * SECOND)
    return Now(T0.boot + later, T0.wall + later)


class Bench:
    """A device that is up, and what it says."""

    def __init__(self, seed: int, *, up: bool = True) -> None:
        rng = random.Random(seed)
        self.datapath = Recorder()
        self.key = PrivateKey(rng.randbytes(32))
        self.device = Device(
            datapath=self.datapath,
            random=rng.randbytes,
            timestamps=TimestampSource(),
        )
        self.device.set_private_key(self.key, T0)
        if up:
            self.device.bring_up(T0)
        self.take()

    @property
    def public(self) -> PublicKey:
        return self.key.public()

    def take(self) -> list[object]:
        return list(self.device.take_commands())

    def know(self, other: Bench, endpoint: Endpoint | None = THERE) -> PeerId:
        self.device.add_peer(other.public)
        if endpoint is not None:
            self.device.set_endpoint(other.public, endpoint, T0)
        self.take()
        return self.device.peer_state(other.public).peer_id

    def hand(self, datagram: bytes, now: Now, endpoint: Endpoint = THERE) -> list[object]:
        self.device.handle_event(HandshakeReceived(datagram, endpoint, now.boot), now)
        return self.take()


def two() -> tuple[Bench, Bench, PeerId, PeerId]:
    alice, bob = Bench(1), Bench(2)
    return alice, bob, alice.know(bob), bob.know(alice)


def only(commands: list[object], kind: type) -> object:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def initiation(bench: Bench, peer: PeerId, now: Now) -> bytes:
    bench.device.handle_event(HandshakeWanted(peer, Why.NO_KEY), now)
    sent = only(bench.take(), SendHandshake)
    assert isinstance(sent, SendHandshake)
    return sent.datagram


def session(alice: Bench, bob: Bench, to_bob: PeerId, to_alice: PeerId, now: Now) -> int:
    """A completed handshake; returns bob's index."""
    answered = bob.hand(initiation(alice, to_bob, now), now)
    response = only(answered, SendHandshake)
    install = only(answered, InstallKeypair)
    assert isinstance(response, SendHandshake) and isinstance(install, InstallKeypair)
    alice.hand(response.datagram, now)
    bob.device.handle_event(KeypairConfirmed(to_alice, install.our_index, now.boot), now)
    return install.our_index
