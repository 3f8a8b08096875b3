"""What a starting tunnel does with what it remembers."""

from __future__ import annotations

import pytest

from nvpn.daemon.memory import PeerMemory, TunnelMemory
from nvpn.daemon.recall import recall
from nvpn.model.clock import SECOND
from nvpn.model.endpoint import Endpoint, Source
from nvpn.model.keys import PublicKey

PEER = PublicKey(bytes(range(32)))
WALL = 1_700_000_000 * SECOND
BOOT = 1000 * SECOND
CONFIGURED = Endpoint.parse("192.0.2.1:1")
REMEMBERED = Endpoint.parse("198.51.100.7:2")


@pytest.mark.parametrize(
    ("is_resolved", "age", "expected", "initiates"),
    [
        (True, None, CONFIGURED, False),
        (True, 500, CONFIGURED, False),
        (True, 179, REMEMBERED, True),
        (False, None, None, False),
        (False, 500, REMEMBERED, False),
        (False, 86_400, REMEMBERED, False),
        (False, 20, REMEMBERED, True),
        (False, -3600, REMEMBERED, True),
    ],
)
def test_where_a_peer_is_looked_for(
    is_resolved: bool,
    age: int | None,
    expected: Endpoint | None,
    initiates: bool,
) -> None:
    peers = {} if age is None else {PEER: PeerMemory(REMEMBERED, WALL - age * SECOND)}

    found = recall(
        [PEER],
        {PEER: CONFIGURED} if is_resolved else {},
        TunnelMemory(peers=peers),
        wall=WALL,
        boot=BOOT,
    )

    endpoint = found.endpoints.get(PEER)
    assert (endpoint and endpoint.remote) == (expected and expected.remote)
    assert found.in_session == ((PEER,) if initiates else ())


def test_an_endpoint_counts_as_learned_now_and_keeps_no_source() -> None:
    remembered = REMEMBERED._replace(source=Source(b"\x7f\0\0\1"), learned_at=5)
    memory = TunnelMemory(peers={PEER: PeerMemory(remembered, WALL)})

    found = recall([PEER], {}, memory, wall=WALL, boot=BOOT)

    assert found.endpoints[PEER] == REMEMBERED._replace(learned_at=BOOT)


def test_a_peer_that_is_not_configured_any_more_is_not_recalled() -> None:
    stranger = PublicKey(bytes(32))
    memory = TunnelMemory(peers={stranger: PeerMemory(REMEMBERED, WALL)})

    found = recall([PEER], {}, memory, wall=WALL, boot=BOOT)

    assert not found.endpoints
    assert not found.in_session


def test_a_peer_in_session_without_a_place_to_reach_it_is_not_called() -> None:
    memory = TunnelMemory(peers={PEER: PeerMemory(None, WALL)})

    assert recall([PEER], {}, memory, wall=WALL, boot=BOOT).in_session == ()
