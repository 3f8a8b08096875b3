"""What people say about ports becomes rules, and rules follow the peers."""

from __future__ import annotations

import asyncio

import pytest

from nvpn.backend.port_filter import PortPolicies, compile_filter
from nvpn.datapath.commands import PeerId, Rule, SetFilter
from nvpn.datapath.filter import PortFilter
from nvpn.datapath.inner import parse_inner
from nvpn.errors import DropReason
from nvpn.model.changes import AddAllowedIp, AddPeer, RemovePeer, SetEndpoint, SetPrivateKey
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.model.ports import PortPolicy, parse_port_spec
from tests.support.cores import ipv4, ipv6
from tests.support.memory_tunnel import MemoryTunnel, ipv4_packet
from tests.support.scenarios import apply, play, prefix

TCP, UDP, ICMP, ICMPV6, GRE = 6, 17, 1, 58, 47
STRANGER, FRIEND = PeerId(1), PeerId(2)
KEYS = [PrivateKey(bytes([number]) * 32).public() for number in (1, 2)]


def policy(allowed: str | None = None, disallowed: str | None = None) -> PortPolicy:
    def read(text: str | None) -> tuple[object, ...] | None:
        return None if text is None else tuple(map(parse_port_spec, text.split()))

    return PortPolicy(read(allowed), read(disallowed))  # type: ignore[arg-type]


def packet(protocol: int, port: int = 0) -> bytes:
    payload = bytes(2) + port.to_bytes(2, "big") + bytes(16)
    make = ipv6 if protocol == ICMPV6 else ipv4
    return make(protocol=protocol, payload=payload)


SSH, WEB, DNS, SMTP = packet(TCP, 22), packet(TCP, 443), packet(UDP, 53), packet(TCP, 25)
PING, PING6, TUNNEL = packet(ICMP), packet(ICMPV6), packet(GRE)
ALL = {
    "ssh": SSH,
    "web": WEB,
    "smtp": SMTP,
    "dns": DNS,
    "ping": PING,
    "ping6": PING6,
    "gre": TUNNEL,
}


def passing(command: SetFilter, peer: PeerId = STRANGER) -> str:
    """What may begin, by name."""
    port_filter = PortFilter.of(command)
    if port_filter is None:
        return "everything"
    assert command.remember
    passes = []
    for name, one in ALL.items():
        inner = parse_inner(one)
        assert inner is not None
        if port_filter.accepts(peer, inner, one, 0):
            passes.append(name)
    return " ".join(passes)


@pytest.mark.parametrize(
    ("allowed", "disallowed", "passes"),
    [
        (None, None, "everything"),
        (None, "", "ssh web smtp dns ping ping6 gre"),
        (None, "tcp/22 icmp", "web smtp dns gre"),
        (None, "20-60", "web ping ping6 gre"),
        ("tcp/22", None, "ssh"),
        ("22 53 icmp", None, "ssh dns ping ping6"),
        ("tcp proto/47", None, "ssh web smtp gre"),
        ("", None, ""),
        ("tcp", "tcp/20-30", "web"),
        ("tcp/22", "tcp/22", ""),
    ],
)
def test_disallowed_wins_and_what_is_not_allowed_is_refused(
    allowed: str | None, disallowed: str | None, passes: str
) -> None:
    interface = policy(allowed, disallowed)
    assert passing(compile_filter(interface, {})) == passes
    # The same words of a peer's own mean the same, whatever the interface's are.
    if interface.is_given:
        for elsewhere in (PortPolicy(), policy(""), policy(None, "tcp udp icmp proto/47")):
            assert passing(compile_filter(elsewhere, {STRANGER: interface})) == passes


def test_a_peers_own_policy_is_nobody_elses() -> None:
    command = compile_filter(policy(None, "tcp/22"), {FRIEND: policy(None, "")})
    assert passing(command, FRIEND) == "ssh web smtp dns ping ping6 gre"
    assert passing(command, STRANGER) == "web smtp dns ping ping6 gre"
    command = compile_filter(PortPolicy(), {FRIEND: policy("icmp")})
    assert passing(command, FRIEND) == "ping ping6"
    assert passing(command, STRANGER) == "ssh web smtp dns ping ping6 gre"


def test_rules_follow_the_peers() -> None:
    names: dict[PublicKey, PeerId] = {}
    policies = PortPolicies(names.get)
    assert policies.commands() == ()
    policies.change(PortPolicy(), {KEYS[0]: policy(None, "tcp"), KEYS[1]: PortPolicy()})
    assert policies.commands() == (), "nobody is there whom it is about"
    names[KEYS[1]] = PeerId(7)
    assert policies.commands() == ()
    names[KEYS[0]] = PeerId(8)
    closed = (
        Rule(accept=False, peer=PeerId(8), protocol=TCP),
        Rule(accept=True, peer=PeerId(8)),
    )
    assert policies.commands() == (SetFilter(closed, otherwise=True, remember=True),)
    assert policies.commands() == ()
    names[KEYS[0]] = PeerId(9)  # removed and added again
    (command,) = policies.commands()
    assert {rule.peer for rule in command.rules or ()} == {PeerId(9)}
    del names[KEYS[0]]
    assert policies.commands() == (SetFilter(None),)
    policies.change(policy(""), {})
    assert policies.commands() == (SetFilter((), remember=True),)
    policies.change(PortPolicy(), {})
    assert policies.commands() == (SetFilter(None),)


def test_a_running_tunnel_filters_by_the_keys_of_peers_that_come_and_go() -> None:
    async def scenario() -> None:
        here, there = MemoryTunnel("here"), MemoryTunnel("there")
        key, their_key = PrivateKey(b"\x0a" * 32), PrivateKey(b"\x0b" * 32)
        them = their_key.public()
        closed = policy(None, "proto/253")
        here.backend.set_port_policies(PortPolicy(), {them: closed})
        place = prefix("10.0.0.2/32")
        await apply(here, SetPrivateKey(key), AddPeer(them), AddAllowedIp(them, place))
        us, home = key.public(), prefix("10.0.0.1/32")
        await apply(there, SetPrivateKey(their_key), AddPeer(us), AddAllowedIp(us, home))
        for tunnel in (here, there):
            await tunnel.backend.bring_up()
        at = Endpoint.parse(f"127.0.0.1:{here.backend.listen_port}")
        await apply(there, SetEndpoint(us, at))

        async def drops(count: int) -> None:
            await there.send(ipv4_packet("10.0.0.2", "10.0.0.1", b"hello"))
            while here.backend.drops().get(DropReason.FILTERED, 0) < count:
                await asyncio.sleep(0.001)

        await drops(1)
        # The same key with another name: the datapath must hear of it before its packets.
        await apply(here, RemovePeer(them), AddPeer(them), AddAllowedIp(them, place))
        await apply(
            there, RemovePeer(us), AddPeer(us), AddAllowedIp(us, home), SetEndpoint(us, at)
        )
        await drops(2)
        # What answers us passes.
        await here.send(ipv4_packet("10.0.0.1", "10.0.0.2", b"how are you?"))
        assert await there.receive() == ipv4_packet("10.0.0.1", "10.0.0.2", b"how are you?")
        await there.send(ipv4_packet("10.0.0.2", "10.0.0.1", b"well"))
        assert await here.receive() == ipv4_packet("10.0.0.2", "10.0.0.1", b"well")
        here.backend.set_port_policies(PortPolicy(), {})
        await there.send(ipv4_packet("10.0.0.2", "10.0.0.1", b"and you?"))
        assert await here.receive() == ipv4_packet("10.0.0.2", "10.0.0.1", b"and you?")
        assert here.backend.drops() == {DropReason.FILTERED: 2}
        await here.close()
        await there.close()

    play(scenario)
