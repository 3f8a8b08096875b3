"""One session from its first packet to its end, as anybody on the path sees it."""

from __future__ import annotations

from nvpn.model.clock import MILLISECOND
from tests.support.sim import Pair, Weather, describe

TRANSCRIPT = """\
    0.000 alice -> 192.0.2.2 initiation 148
    0.020 bob   -> 192.0.2.1 response 92
    0.040 alice -> 192.0.2.2 transport 64
    1.000 bob   -> 192.0.2.1 transport 64
   11.020 alice -> 192.0.2.2 keepalive 32
  100.000 alice -> 192.0.2.2 transport 64
  110.020 bob   -> 192.0.2.1 keepalive 32
  130.000 alice -> 192.0.2.2 transport 64
  130.000 alice -> 192.0.2.2 initiation 148
  130.020 bob   -> 192.0.2.1 response 92
  130.040 alice -> 192.0.2.2 keepalive 32
  300.000 bob   -> 192.0.2.1 transport 64
  300.020 alice -> 192.0.2.2 initiation 148
  300.040 bob   -> 192.0.2.1 response 92
  300.060 alice -> 192.0.2.2 keepalive 32
"""


def test_the_transcript_of_a_session() -> None:
    pair = Pair(1, weather=Weather(latency=20 * MILLISECOND))
    start = pair.world.time
    for second, send in (
        (0, pair.alice_sends),
        (1, pair.bob_sends),
        (100, pair.alice_sends),
        (130, pair.alice_sends),
        (300, pair.bob_sends),
    ):
        pair.world.at(start + second * 1_000 * MILLISECOND, lambda send=send: send() and None)
    pair.run(2_000)
    assert "".join(f"{describe(flight)}\n" for flight in pair.world.flights) == TRANSCRIPT
    assert not pair.alice.core.receivers and not pair.bob.core.receivers
