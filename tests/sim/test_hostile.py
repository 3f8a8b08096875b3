"""Whatever bytes arrive, nothing is raised, nobody is answered, and the session lives."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvpn.datapath.events import HandshakeReceived
from nvpn.model.endpoint import Endpoint
from nvpn.wire.crypto import mac, mac1_key
from nvpn.wire.messages import MessageType
from tests.support.sim import Flight, Pair

STRANGER = Endpoint.parse("203.0.113.66:666")
SIZES = {MessageType.INITIATION: 148, MessageType.RESPONSE: 92, MessageType.COOKIE_REPLY: 64}

datagrams = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, body: kind.to_bytes(4, "little") + body,
        st.integers(0, 6),
        st.binary(max_size=180),
    ),
    *(
        st.binary(min_size=size - 4, max_size=size - 4).map(
            lambda body, kind=kind: kind.to_bytes(4, "little") + body
        )
        for kind, size in SIZES.items()
    ),
)


@given(st.lists(datagrams, min_size=1, max_size=20))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_bytes_from_the_network_raise_or_are_answered(batch: list[bytes]) -> None:
    pair = Pair(1)
    pair.connect()
    for datagram in batch:
        pair.alice.receive(datagram, STRANGER)
        # Past admission, as if the macs had been right.
        event = HandshakeReceived(datagram, STRANGER, pair.world.time)
        pair.alice.device.handle_event(event, pair.alice.now)
        pair.alice.turn()
    assert pair.world.flights == []
    assert pair.alice.device.take_notices() == []


def test_mutated_messages_with_valid_macs_neither_raise_nor_break_anything() -> None:
    rng = random.Random(4)
    pair = Pair(4)
    seen: list[Flight] = []
    for _ in range(12):
        pair.alice_sends()
        pair.run(1)
        pair.bob_sends()
        pair.run(200)
        seen += [f for f in pair.world.flights if f.kind is not MessageType.TRANSPORT]
        for flight in seen[-6:]:
            for _ in range(25):
                target = pair.alice if rng.random() < 0.5 else pair.bob
                target.receive(mutated(flight.datagram, target.public, rng), STRANGER)
        pair.world.flights.clear()
    assert not [f for f in pair.world.flights if f.target.remote == STRANGER.remote]
    for host in (pair.alice, pair.bob):
        assert sum(host.drops.values()) > 500
        assert len(host.device._context.indices) <= 4
    before = len(pair.bob.delivered)
    pair.alice_sends(b"alive")
    pair.run(1)
    assert len(pair.bob.delivered) == before + 1


def mutated(datagram: bytes, receiver: object, rng: random.Random) -> bytes:
    from nvpn.model.keys import PublicKey

    assert isinstance(receiver, PublicKey)
    changed = bytearray(datagram)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(4, len(changed))] ^= 1 << rng.randrange(8)
    if len(changed) == SIZES[MessageType.COOKIE_REPLY]:
        return bytes(changed)
    body = bytes(changed[:-32])
    return body + mac(mac1_key(receiver), body) + bytes(changed[-16:])


def test_a_flood_of_replayed_initiations_grows_nothing() -> None:
    pair = Pair(4)
    pair.alice_sends()
    pair.run(1)
    (initiation,) = pair.world.sent(MessageType.INITIATION)
    pair.world.flights.clear()
    for _ in range(2_000):
        pair.bob.receive(initiation.datagram, initiation.source)
    assert pair.world.flights == []
    assert len(pair.bob.device._context.indices) == 1
    assert pair.bob.device.take_commands() == []
