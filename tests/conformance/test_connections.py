"""What every datapath must remember of what we said, so that answers pass a closed filter."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from nvpn.datapath.commands import DestroyPeer, Diversion, Divert, Rule, SetFilter
from nvpn.datapath.events import InnerReceived
from nvpn.datapath.inner import parse_inner
from nvpn.errors import DropReason
from nvpn.model.clock import SECOND
from nvpn.model.prefixes import Prefix
from tests.support.cores import ipv4, ipv6
from tests.support.datapaths import SETUPS, Rig
from tests.support.segments import ACK, FIN, PSH, SYN, Flow

TCP, UDP, SCTP, GRE, ICMP, ICMPV6 = 6, 17, 132, 47, 1, 58
RST = 0x04
HERE, THERE = "10.0.0.1", "10.0.1.2"
HERE6, THERE6 = "fd00::1", "fd00:1::2"

# Nothing but this may begin.
BELL_PORT = 7
CLOSED = SetFilter((Rule(accept=True, protocol=UDP, destination_ports=(7, 7)),), remember=True)


class Talk:
    """The host behind a closed filter, and a peer with a session."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.peer = rig.correspondent(1)
        self.peer.establish()
        self.rig.tell(CLOSED)
        self._bells = 0

    def say(self, *packets: bytes) -> None:
        """The host sends, and the peer has it."""
        for packet in packets:
            self.rig.send(packet)
        plains = self.peer.take_plain(len(packets))
        assert sorted(map(cut, plains)) == sorted(packets)

    def passing(self, *packets: bytes) -> list[bytes]:
        """Which of these the host gets when the peer sends them."""
        self._bells += 1
        bell = ipv4(THERE, HERE, struct.pack(">HHHH", self._bells, 7, 8, 0), protocol=UDP)
        self.peer.send(*(self.peer.packet_from(packet) for packet in (*packets, bell)))
        self.rig.until(lambda: bell in self.rig.delivered, "the bell")
        passed = self.rig.delivered[:]
        self.rig.delivered.clear()
        assert passed.pop() == bell
        return passed

    def later(self, seconds: float) -> None:
        self.rig.now += int(seconds * SECOND)
        self.peer.establish()


def cut(plain: bytes) -> bytes:
    inner = parse_inner(plain)
    assert inner is not None
    return plain[: inner.length]


@pytest.fixture(params=SETUPS, ids=lambda setup: setup.name)
def talk(request: pytest.FixtureRequest) -> Iterator[Talk]:
    with Rig(request.param) as rig:
        yield Talk(rig)


# --- packets, from the host unless they are ``back`` ------------------------------------------


def tcp(flags: int, ours: int = 40000, theirs: int = 443, *, back: bool = False) -> bytes:
    ends = (THERE, HERE, theirs, ours) if back else (HERE, THERE, ours, theirs)
    return Flow(4, TCP, *ends).packet(b"x", flags=flags)


def udp(ours: int = 40000, theirs: int = 53, *, back: bool = False, version: int = 4) -> bytes:
    here, there = (HERE, THERE) if version == 4 else (HERE6, THERE6)
    ends = (there, here, theirs, ours) if back else (here, there, ours, theirs)
    return Flow(version, UDP, *ends).packet(b"x")


def icmp(kind: int, number: int = 77, *, back: bool = False, version: int = 4) -> bytes:
    body = struct.pack(">BBHHH", kind, 0, 0, number, 1)
    if version == 4:
        return ipv4(*((THERE, HERE) if back else (HERE, THERE)), body, protocol=ICMP)
    return ipv6(*((THERE6, HERE6) if back else (HERE6, THERE6)), body, protocol=ICMPV6)


def error(kind: int, about: bytes, *, quoted: int = 28, source: str = "10.0.1.254") -> bytes:
    """From a router on the way, about a packet of the host's."""
    body = struct.pack(">BBHI", kind, 4, 0, 1280) + about[:quoted]
    if about[0] >> 4 == 4:
        return ipv4(source, HERE, body, protocol=ICMP)
    return ipv6("fd00:1::fe", HERE6, body, protocol=ICMPV6)


def other(protocol: int, *, back: bool = False, payload: bytes = b"x" * 8) -> bytes:
    return ipv4(*((THERE, HERE) if back else (HERE, THERE)), payload, protocol=protocol)


# --- what passes ------------------------------------------------------------------------------


def test_what_answers_us_passes_and_nothing_else_does(talk: Talk) -> None:
    sctp, gre = struct.pack(">HH", 5, 6) + bytes(8), bytes(8)
    answers = [
        tcp(SYN | ACK, back=True),
        udp(back=True),
        udp(version=6, back=True),
        icmp(0, back=True),
        icmp(129, version=6, back=True),
        other(SCTP, payload=struct.pack(">HH", 6, 5) + bytes(8), back=True),
        other(GRE, payload=gre, back=True),
    ]
    assert talk.passing(*answers) == []
    talk.say(
        tcp(SYN),
        udp(),
        udp(version=6),
        icmp(8),
        icmp(128, version=6),
        other(SCTP, payload=sctp),
        other(GRE, payload=gre),
    )
    assert talk.passing(*answers) == answers
    strangers = [
        tcp(ACK, ours=40001, back=True),
        tcp(ACK, theirs=444, back=True),
        udp(ours=40001, back=True),
        udp(theirs=54, back=True),
        udp(theirs=54, version=6, back=True),
        Flow(4, UDP, "10.0.1.3", HERE, 53, 40000).packet(b"x"),
        Flow(4, UDP, THERE, "10.0.0.9", 53, 40000).packet(b"x"),
        icmp(0, number=78, back=True),
        icmp(8, back=True),
        icmp(5, back=True),
        icmp(128, version=6, back=True),
        icmp(137, version=6, back=True),
        other(ICMPV6, back=True),
        other(50, back=True),
    ]
    assert talk.passing(*strangers) == []
    # Who asks us is answered, and may ask no more than before.
    talk.say(icmp(0, number=90), icmp(129, version=6, number=90))
    assert talk.passing(icmp(8, 90, back=True), icmp(0, 90, back=True)) == []
    assert talk.rig.datapath.drops() == {DropReason.FILTERED: len(answers + strangers) + 2}


def test_a_connection_of_ours_gives_the_peer_none(talk: Talk) -> None:
    talk.say(tcp(SYN))
    assert talk.passing(tcp(SYN, back=True), tcp(SYN | 0xC0, back=True)) == []
    goes_on = [tcp(SYN | ACK, back=True), tcp(ACK | PSH, back=True), tcp(FIN | ACK, back=True)]
    assert talk.passing(*goes_on) == goes_on
    # Who resets what is unknown begins nothing.
    talk.say(tcp(RST | ACK, ours=22, theirs=50000))
    assert talk.passing(tcp(ACK, ours=22, theirs=50000, back=True)) == []


def test_errors_about_what_we_said_pass(talk: Talk) -> None:
    said = [tcp(SYN), udp(), icmp(8), other(GRE)]
    said6 = [udp(version=6), icmp(128, version=6)]
    # A quote may end behind the ports of TCP.
    errors = [error(kind, one) for one in said for kind in (3, 11, 12)]
    errors += [error(kind, one, quoted=48) for one in said6 for kind in (1, 2, 3, 4)]
    assert talk.passing(*errors) == []
    talk.say(*said, *said6)
    assert talk.passing(*errors) == errors
    strange = [
        error(3, udp(ours=40001)),
        error(3, udp(), quoted=23),
        error(3, udp(), quoted=19),
        error(3, udp(back=True)),
        error(3, b"\x65" + udp()[1:]),
        error(5, udp()),
        error(4, udp()),
        error(3, icmp(0)),
        error(3, Flow(4, UDP, HERE, THERE, 40000, 53).packet(b"x"))[:16]
        + b"\x0a\0\0\x09"
        # to somebody else than it is about
        + error(3, udp())[20:],
        error(1, udp(version=6), quoted=43),
        error(137, udp(version=6), quoted=48),
    ]
    assert talk.passing(*strange) == []


def test_another_peer_answers_for_none(talk: Talk) -> None:
    second = talk.rig.correspondent(2)
    second.establish()
    talk.say(udp())
    talk.rig.tell(CLOSED)  # what is remembered survives
    assert talk.passing(udp(back=True)) == [udp(back=True)]
    stolen = Flow(4, UDP, "10.0.2.2", HERE, 53, 40000).packet(b"x")
    second.send(second.packet_from(stolen))
    about = error(3, udp(), source="10.0.2.2")
    second.send(second.packet_from(about))
    talk.rig.settle()
    assert talk.rig.delivered == []
    assert talk.rig.datapath.drops() == {DropReason.FILTERED: 2}


@pytest.mark.parametrize(
    ("said", "heard", "seconds"),
    [
        ([udp()], [], 30),
        ([udp()], [udp(back=True)], 180),
        ([tcp(SYN)], [], 240),
        ([tcp(SYN)], [tcp(SYN | ACK, back=True)], 7440),
        ([tcp(SYN), tcp(FIN | ACK)], [tcp(ACK, back=True)], 240),
        ([tcp(SYN)], [tcp(SYN | ACK, back=True), tcp(RST | ACK, back=True)], 240),
        ([icmp(8)], [icmp(0, back=True)], 30),
        ([other(GRE)], [], 180),
    ],
)
@pytest.mark.parametrize(
    "talk", [SETUPS[0], *(s for s in SETUPS if s.name == "native")], indirect=True, ids=str
)
def test_what_is_not_used_for_a_while_is_forgotten(
    talk: Talk, said: list[bytes], heard: list[bytes], seconds: int
) -> None:
    protocol = said[0][9]
    answer = {TCP: tcp(ACK, back=True), UDP: udp(back=True), ICMP: icmp(0, back=True)}.get(
        protocol, other(GRE, back=True)
    )
    talk.say(*said)
    assert talk.passing(*heard) == heard
    talk.later(seconds - 0.001)
    assert talk.passing(answer) == [answer]
    # That was use, too, and what was answered lives longer.
    longer = {UDP: 180, TCP: 240 if len(said + heard) > 2 or len(said) > 1 else 7440}
    talk.later(longer.get(protocol, seconds))
    assert talk.passing(answer) == []
    talk.say(said[0])
    assert talk.passing(answer) == [answer]


@pytest.mark.parametrize(
    "talk", [SETUPS[0], *(s for s in SETUPS if s.name == "native")], indirect=True, ids=str
)
def test_use_keeps_a_conversation_and_a_new_one_begins_anew(talk: Talk) -> None:
    talk.say(udp())
    for _ in range(3):
        talk.later(29)
        assert talk.passing(error(3, udp())) != [], "the answer of before was use"
        assert talk.passing(udp(back=True)) == [udp(back=True)]
    # An error is none.
    talk.say(udp(theirs=54))
    talk.later(29)
    assert talk.passing(error(3, udp(theirs=54))) != []
    talk.later(1)
    assert talk.passing(error(3, udp(theirs=54)), udp(theirs=54, back=True)) == []
    # The same ports again, after the end and after a long time.
    talk.say(tcp(SYN))
    talk.passing(tcp(SYN | ACK, back=True))
    talk.say(tcp(FIN | ACK), tcp(SYN))
    assert talk.passing(tcp(SYN | ACK, back=True)) != []
    talk.later(7439)
    assert talk.passing(tcp(ACK, back=True)) != []
    talk.later(7440)
    talk.say(tcp(SYN))
    talk.later(240)
    assert talk.passing(tcp(SYN | ACK, back=True)) == []
    talk.say(tcp(ACK))
    talk.later(240)
    assert talk.passing(tcp(ACK, back=True)) == [], "what was answered was another one"


def test_of_fragments_the_first_decides_and_nothing_overwrites_it(talk: Talk) -> None:
    def fragment(at: int, size: int, *, more: bool, number: int = 7, back: bool = True) -> bytes:
        whole = udp(back=back)
        body = (whole[20:] + bytes(4000))[at : at + size]
        ends = (THERE, HERE) if back else (HERE, THERE)
        packet = bytearray(ipv4(*ends, body, protocol=UDP, fragment=at // 8 | more << 13))
        packet[4:6] = number.to_bytes(2, "big")
        return bytes(packet)

    first = fragment(0, 800, more=True)
    rest = [fragment(800, 800, more=True), fragment(1600, 99, more=False)]
    assert talk.passing(first, *rest) == []
    talk.say(udp())
    # Its like could come from anywhere: only what follows a first one passes.
    assert talk.passing(*rest, first, *rest) == [first, *rest]
    other_packets = [fragment(800, 800, more=True, number=8)]
    overlapping = [fragment(8, 80, more=True), fragment(792, 80, more=True)]
    assert talk.passing(*other_packets, *overlapping) == []
    # A shorter first one uncovers nothing of a longer one.
    short = fragment(0, 8, more=True)
    assert talk.passing(short, *overlapping) == [short]
    talk.later(30)
    assert talk.passing(*rest) == []

    # What we send in pieces is a question like others, and errors in pieces are not looked at.
    talk.say(*(fragment(at, 800, more=at < 800, back=False) for at in (0, 800)))
    in_pieces = bytearray(error(3, udp()))
    in_pieces[6] = 0x20
    assert talk.passing(udp(back=True), bytes(in_pieces)) == [udp(back=True)]


def test_ipv6_is_not_hidden_behind_its_extension_headers(talk: Talk) -> None:
    def behind(*headers: bytes, first: int, back: bool = True) -> bytes:
        ends = (THERE6, HERE6) if back else (HERE6, THERE6)
        plain = udp(version=6, back=back)[40:]
        return ipv6(*ends, b"".join(headers) + plain, protocol=first)

    options = bytes([UDP, 0, 1, 4, 0, 0, 0, 0])
    more_options = bytes([60]) + options[1:]
    first, later = bytes([UDP, 0, 0, 1]) + bytes(4), bytes([UDP, 0, 1, 0]) + bytes(4)
    talk.say(udp(version=6))
    passing = [
        behind(options, first=60),
        behind(more_options, options, first=0),
        behind(first, first=44),
        behind(later, first=44),
    ]
    assert talk.passing(*passing) == passing
    closed = [
        behind(*[more_options] * 8, options, first=60),  # more than anybody needs
        behind(bytes([44]) + first[1:], first, first=44),  # a fragment of a fragment
        behind(options[:1] + b"\x09" + options[2:], first=60),  # ends within
        behind(options, first=135),  # says what follows in a way of its own
        behind(options, first=253),
    ]
    assert talk.passing(*closed) == []


def test_a_train_of_one_flow_is_judged_as_one(talk: Talk) -> None:
    out = Flow(4, TCP, HERE, THERE, 40000, 443)
    back = Flow(4, TCP, THERE, HERE, 443, 40000)
    train = back.segments(bytes(13000), 1300)

    def send_train() -> None:
        talk.peer.send_merged([talk.peer.packet_from(packet) for packet in train])

    send_train()
    assert talk.passing() == []
    assert talk.rig.datapath.drops() == {DropReason.FILTERED: 10}
    if talk.rig.tun.vnet_hdr:
        header, packet = out.superpacket(bytes(5000), 1000)
        talk.rig.send(packet, header)
        talk.peer.take(5)
    else:
        talk.say(out.packet(b"x"))
    send_train()
    assert talk.passing() == train
    # In the midst of it the end, and something that does not belong to it.
    mixed = [*train[:4], back.segments(bytes(1300), 1300, flags=ACK | FIN)[0], *train[4:]]
    stranger = Flow(4, TCP, THERE, HERE, 443, 40001).segments(bytes(1300), 1300)
    talk.peer.send_merged([talk.peer.packet_from(one) for one in (*mixed, *stranger, *train)])
    assert talk.passing() == [*mixed, *train]
    talk.later(240)
    send_train()
    assert talk.passing() == []
    assert talk.rig.datapath.drops() == {DropReason.FILTERED: 21}
    assert talk.rig.datapath.counters(talk.peer.peer).filtered == 21


def test_what_is_diverted_is_asked_nothing(talk: Talk) -> None:
    control = udp(ours=9, back=True)
    assert talk.passing(control) == []
    talk.rig.tell(Divert((Diversion(Prefix.parse(f"{HERE}/32"), 9),)))
    assert talk.passing(control) == []
    assert talk.rig.take_event(InnerReceived) == InnerReceived(talk.peer.peer, control)
    train = [talk.peer.packet_from(control) for _ in range(5)]
    talk.peer.send_merged(train)
    assert talk.passing() == []
    for _ in train:
        assert talk.rig.take_event(InnerReceived) == InnerReceived(talk.peer.peer, control)
    assert talk.rig.datapath.drops() == {DropReason.FILTERED: 1}


def test_nothing_is_remembered_of_peers_that_are_gone_or_when_nobody_asks(talk: Talk) -> None:
    answer = udp(back=True)
    talk.say(udp())
    assert talk.passing(answer) == [answer]
    talk.rig.tell(SetFilter(CLOSED.rules))  # without a memory
    assert talk.passing(answer) == []
    talk.say(udp())
    assert talk.passing(answer) == []
    talk.rig.tell(CLOSED)
    assert talk.passing(answer) == []
    talk.say(udp())
    talk.rig.tell(SetFilter(None))
    talk.rig.tell(CLOSED)
    assert talk.passing(answer) == []
    talk.say(udp())
    talk.rig.tell(DestroyPeer(talk.peer.peer))
    talk.peer = talk.rig.correspondent(1)
    talk.peer.establish()
    assert talk.passing(answer) == []


def test_a_peers_own_rules_are_asked_before_everybodys(talk: Talk) -> None:
    mine = Rule(accept=True, peer=talk.peer.peer, protocol=TCP, destination_ports=(22, 22))
    others = Rule(accept=True, peer=talk.peer.peer + 1, protocol=TCP)
    last = Rule(accept=False, peer=talk.peer.peer)
    everybodys = Rule(accept=True, protocol=UDP)
    to_22, to_23 = (tcp(SYN, ours=port, back=True) for port in (22, 23))
    bell = CLOSED.rules or ()
    talk.rig.tell(SetFilter((*bell, mine, others, last, everybodys), remember=True))
    assert talk.passing(to_22, to_23, udp(back=True)) == [to_22]
    talk.rig.tell(SetFilter((*bell, mine, others, everybodys), remember=True))
    assert talk.passing(to_22, to_23, udp(back=True)) == [to_22, udp(back=True)]
