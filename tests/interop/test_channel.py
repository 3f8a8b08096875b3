"""A stock peer is spoken to on the control channel, and does not notice."""

from __future__ import annotations

import os
import struct

import pytest

from nvpn.channel.frames import FrameKind, cut
from nvpn.channel.messages import Hello, encode
from nvpn.datapath.checksum import complement, word_sum
from nvpn.model.changes import AddAllowedIp, AddPeer, SetEndpoint, SetPrivateKey
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.netconf.linux_namespace import call_in, open_namespace
from nvpn.transport.udp import open_udp
from tests.support.cores import ipv4
from tests.support.memory_tunnel import MemoryTunnel, make_native, make_python
from tests.support.scenarios import apply, play, prefix
from tests.support.world import World, engine

pytestmark = [pytest.mark.root, pytest.mark.interop]

ICMP = 1
ECHO_REQUEST, ECHO_REPLY = 8, 0


def echo(kind: int, source: str, destination: str, number: int) -> bytes:
    unsummed = struct.pack(">BBHHH", kind, 0, 0, 7, number) + b"is there anybody"
    checksum = complement(word_sum(unsummed)).to_bytes(2, "big")
    return ipv4(source, destination, unsummed[:2] + checksum + unsummed[4:], protocol=ICMP)


@pytest.mark.parametrize("allowed", ["10.9.0.1/32", "0.0.0.0/0,::/0"])
def test_a_stock_peer_says_nothing_to_what_it_does_not_know(
    world: World, datapath: str, allowed: str
) -> None:
    a, b = world.host("a"), world.host("b")
    link = world.link(a, b)
    stock = b.tunnel(engine("wireguard-go"), ("10.9.0.2/24", "fd09::2/64"))
    key = PrivateKey(os.urandom(32))
    stock.wg_set("peer", key.public().base64, "allowed-ips", allowed)
    them = PublicKey.from_base64(stock.public_key)
    namespace = open_namespace(a.netns)

    async def scenario() -> None:
        heard: list[bytes] = []
        tunnel = MemoryTunnel(
            make=make_native if datapath == "native" else make_python,
            open_sockets=lambda port, mark: call_in(namespace, lambda: open_udp(port, mark)),
        )
        await apply(
            tunnel,
            SetPrivateKey(key),
            AddPeer(them),
            AddAllowedIp(them, prefix("10.9.0.2/32")),
            AddAllowedIp(them, prefix("::/0")),
            SetEndpoint(them, Endpoint.parse(f"10.77.{link}.2:{stock.port}")),
        )
        await tunnel.backend.bring_up()
        tunnel.backend.open_channel(lambda peer, payload: heard.append(payload))
        (hello,) = cut(FrameKind.REQUEST, bytes(8), encode(Hello("a", "0.1.0", ())))
        for number in range(5):
            tunnel.backend.send_channel(them, hello)
            await tunnel.send(echo(ECHO_REQUEST, "10.9.0.1", "10.9.0.2", number))
            # Nothing comes before it, and nothing between this one and the next.
            reply = await tunnel.receive()
            assert reply[9] == ICMP
            assert reply[20] == ECHO_REPLY
            assert int.from_bytes(reply[26:28], "big") == number
        assert heard == []
        assert tunnel.backend.drops() == {}
        received = tunnel.backend.snapshot().peers[0].rx_bytes
        assert received == 92 + 5 * (32 + 48)  # its response, and five replies
        await tunnel.close()

    try:
        play(scenario)
    finally:
        os.close(namespace)
    assert stock.dump()[key.public().base64]["allowed_ips"] == allowed
