"""Alice's datagrams, handed to Bob's core."""

from __future__ import annotations

from nvpn.datapath.commands import InsertPrefix, InstallKeypair, Role, SetAdmission
from nvpn.model.endpoint import Endpoint
from nvpn.model.prefixes import Prefix
from nvpn.wire.crypto import cookie_key, mac1_key
from tests.support.cores import THEM, Ends, endpoint
from tests.support.vectors import unhex, vectors

ELSEWHERE = endpoint("198.51.100.7:4242")


def receive(
    ends: Ends, datagram: bytes, at: Endpoint = Ends.alice_at, tos: int = 0
) -> list[bytes]:
    """Hand a datagram to Bob; returns what he writes to his TUN device."""
    ends.bob.receive(datagram, at, ends.now, tos=tos)
    return ends.bob.take_inner()


def sealed_raw(ends: Ends, plain: bytes, counter: int | None = None) -> bytes:
    """Alice's datagram around any plaintext, well-formed or not, under any counter."""
    current = ends.alice.peers[THEM].slots.current
    assert current is not None
    if counter is None:
        counter = current.reserve(1, ends.now)
    body = bytearray(len(plain) + 16)
    nonce = bytes(4) + counter.to_bytes(8, "little")
    current.seal(nonce, plain, None, body)
    return current.header + nonce[4:] + bytes(body)


def session_of_the_vectors() -> Ends:
    """Bob is the responder of the vectors, in session with their initiator."""
    ends = Ends(session=False)
    session = vectors()["handshakes"][1]
    theirs, ours, public = unhex(
        session,
        "transport_key_initiator_to_responder",
        "transport_key_responder_to_initiator",
        "responder_static_public",
    )
    ends.tell(
        ends.bob,
        SetAdmission(mac1_key(public), cookie_key(public), bytes(32)),
        InsertPrefix(THEM, Prefix.parse("10.9.0.1/32")),
        InstallKeypair(
            THEM,
            Role.RESPONDER,
            0xAABBCCDD,
            0x11223344,
            bytearray(ours),
            bytearray(theirs),
            ends.now,
        ),
    )
    return ends


def initiation() -> bytes:
    return bytes.fromhex(vectors()["handshakes"][1]["initiation"])
