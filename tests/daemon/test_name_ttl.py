"""What name servers say about how long a name is good for, and what is no answer."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.daemon.name_ttl import (
    AAAA,
    A,
    ask_ttl,
    current_ttl,
    pack_query,
    parse_ttl,
    read_hosts,
    read_name_servers,
)

CNAME = 5
NAME = "vpn.example.com"
POINTER = b"\xc0\x0c"  # to the question's name


def name(text: str) -> bytes:
    return b"".join(bytes([len(one)]) + one.encode() for one in text.split(".")) + b"\0"


def query(kind: int = A) -> bytes:
    packed = pack_query(NAME, kind, 0x1234)
    assert packed is not None
    return packed


def record(owner: bytes, kind: int, ttl: int, data: bytes) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def answer(
    *records: bytes, to: bytes = b"", flags: int = 0x8180, count: int | None = None
) -> bytes:
    question = (to or query())[12:]
    number = len(records) if count is None else count
    header = (to or query())[:2] + struct.pack("!5H", flags, 1, number, 0, 0)
    return header + question + b"".join(records)


ADDRESS = record(POINTER, A, 60, bytes(4))


def test_a_query_is_as_the_rfc_has_it() -> None:
    assert query() == bytes.fromhex("1234 0100 0001 0000 0000 0000") + name(NAME) + bytes(
        [0, 1, 0, 1]
    )
    assert pack_query("VPN.example.com.", AAAA, 1) is not None


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "x" * 64, ".".join(["x" * 60] * 5), "\udc80.de"]
)
def test_what_is_no_name_is_not_asked_about(text: str) -> None:
    assert pack_query(text, A, 1) is None


def test_the_smallest_time_to_live_counts() -> None:
    records = (record(POINTER, A, 300, bytes(4)), ADDRESS, record(POINTER, A, 90, bytes(4)))
    assert parse_ttl(answer(*records), query()) == 60


def test_aliases_on_the_way_count_in_whatever_order_they_come() -> None:
    chain = (
        record(name("c.example"), A, 300, bytes(4)),
        record(name("b.example"), CNAME, 45, name("c.example")),
        record(POINTER, CNAME, 120, name("B.example")),
    )
    assert parse_ttl(answer(*chain), query()) == 45
    assert parse_ttl(answer(chain[2]), query()) is None, "an alias alone is no address"


def test_what_belongs_to_another_name_or_kind_does_not_count() -> None:
    foreign = record(name("evil.example"), A, 1, bytes(4))
    other = record(POINTER, 16, 1, b"\x03txt")
    assert parse_ttl(answer(foreign, other, ADDRESS), query()) == 60
    assert parse_ttl(answer(foreign, other), query()) is None


def test_a_time_to_live_beyond_the_rfc_is_none_at_all() -> None:
    assert parse_ttl(answer(record(POINTER, A, 0x8000_0000, bytes(4))), query()) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        answer(ADDRESS)[:11],
        answer(ADDRESS, flags=0x0100),  # a question
        answer(ADDRESS, flags=0x8183),  # there is no such name
        answer(ADDRESS, flags=0x8380),  # the answer did not fit
        answer(ADDRESS, to=b"\x43\x21" + query()[2:]),  # an answer to somebody else
        answer(ADDRESS, to=query(AAAA)),
        answer(ADDRESS, to=query()[:12] + name("other.example.com") + query()[-4:]),
        answer(ADDRESS, count=2),
        answer(ADDRESS[:-1]),
        answer(record(b"\xc0\x21", A, 60, bytes(4))),  # a name that points at itself
        answer(record(b"\x80abc", A, 60, bytes(4))),
        answer(record(b"\xff\xff", A, 60, bytes(4))),
    ],
)
def test_whatever_else_comes_is_no_answer(wrong: bytes) -> None:
    assert parse_ttl(wrong, query()) is None


@given(st.binary(max_size=600), st.booleans())
def test_no_bytes_raise_or_take_long(noise: bytes, begins_well: bool) -> None:
    told = parse_ttl(answer(noise, count=65535) if begins_well else noise, query())
    assert told is None


@given(st.data())
def test_no_change_of_a_good_answer_raises(data: st.DataObject) -> None:
    good = bytearray(answer(ADDRESS, record(POINTER, CNAME, 9, POINTER), ADDRESS))
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    told = parse_ttl(bytes(good), query())
    assert told is None or 0 <= told < 1 << 31


# --- servers ---------------------------------------------------------------------------


@contextmanager
def server(reply: Callable[[bytes], list[bytes]]):
    """A name server on loopback; ``reply`` gives its datagrams for a question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                try:
                    question, who = listening.recvfrom(512)
                except OSError:
                    return
                if not question:
                    return
                for datagram in reply(question):
                    listening.sendto(datagram, who)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", listening.getsockname())
            thread.join()


def by_kind(question: bytes) -> list[bytes]:
    """300 s for IPv4, 120 s for IPv6."""
    kind = int.from_bytes(question[-4:-2], "big")
    ttl, size = (300, 4) if kind == A else (120, 16)
    return [answer(record(POINTER, kind, ttl, bytes(size)), to=question)]


def test_both_families_are_asked_about() -> None:
    with server(by_kind) as here:
        assert ask_ttl(NAME, [here], timeout=60) == 120


def test_answers_to_other_questions_are_passed_over() -> None:
    def noisy(question: bytes) -> list[bytes]:
        other = bytes([question[0] ^ 1]) + question[1:]
        return [b"", b"\0", answer(ADDRESS, to=other), *by_kind(question)]

    with server(noisy) as here:
        assert ask_ttl(NAME, [here], timeout=60) == 120


def test_a_server_that_is_silent_or_absent_leaves_time_for_the_next() -> None:
    with server(lambda question: []) as silent, server(by_kind) as here:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            absent = gone.getsockname()
        patience = (0.3, 3, 30)  # however busy the machine is
        assert 120 in (ask_ttl(NAME, [silent, absent, here], timeout=one) for one in patience)
        assert ask_ttl(NAME, [silent], timeout=0.02) is None
    assert ask_ttl(NAME, []) is None


# --- files -----------------------------------------------------------------------------


def test_name_servers_are_read_as_the_resolver_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# nameserver 192.0.2.9\nsearch example.com\nnameserver 192.0.2.1 # ours\n"
        "nameserver\nnameserver nonsense\n  nameserver 2001:db8::1\noptions edns0\n"
        "nameserver fe80::1%lo\nnameserver 192.0.2.4\n"
    )
    assert read_name_servers(str(path)) == [
        ("192.0.2.1", 53),
        ("2001:db8::1", 53, 0, 0),
        ("fe80::1", 53, 0, socket.if_nametoindex("lo")),
    ]
    assert read_name_servers(str(tmp_path / "nothing")) == []


def test_names_of_the_hosts_file_are_not_asked_about(tmp_path: Path) -> None:
    hosts, servers = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("192.0.2.1\tserver VPN.example.com # and more\n")
    assert read_hosts(str(hosts)) == {"server", "vpn.example.com"}
    # 192.0.2.1 would not answer: it would take two seconds to find out.
    servers.write_text("nameserver 192.0.2.1\n")
    assert current_ttl("vpn.Example.com.", resolv_conf=str(servers), hosts=str(hosts)) is None
