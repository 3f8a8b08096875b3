from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.control.records import parse_get
from nvpn.control.uapi import iter_get, parse_set
from nvpn.errors import ControlError, DropReason
from nvpn.model.changes import (
    AddAllowedIp,
    AddPeer,
    Change,
    Owner,
    RemoveAllowedIp,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SetEndpoint,
    SetFwmark,
    SetListenPort,
    SetName,
    SetPersistentKeepalive,
    SetPresharedKey,
    SetPrivateKey,
)
from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot

A, B = PublicKey(b"\xaa" * 32), PublicKey(b"\xbb" * 32)
PEER = f"public_key={A.hex}"
SECRET = "5e" * 32
ZERO = "0" * 64


def prefix(text: str) -> Prefix:
    return Prefix.parse(text)


@pytest.mark.parametrize(
    ("lines", "plan"),
    [
        ([], []),
        ([f"private_key={SECRET}"], [SetPrivateKey(PrivateKey.from_hex(SECRET))]),
        ([f"private_key={SECRET.upper()}"], [SetPrivateKey(PrivateKey.from_hex(SECRET))]),
        ([f"private_key={ZERO}"], [SetPrivateKey(None)]),
        (["listen_port=0"], [SetListenPort(0)]),
        (["listen_port=65535"], [SetListenPort(65535)]),
        (["fwmark=0"], [SetFwmark(0)]),
        (["fwmark=4294967295"], [SetFwmark(0xFFFF_FFFF)]),
        (["replace_peers=true"], [ReplacePeers()]),
        ([PEER], [AddPeer(A)]),
        ([f"public_key={ZERO}"], [AddPeer(PublicKey(bytes(32)))]),
        ([PEER, "protocol_version=1"], [AddPeer(A)]),
        ([PEER, "update_only=true"], []),
        ([PEER, "persistent_keepalive_interval=7", "update_only=true"], [
            SetPersistentKeepalive(A, 7)
        ]),
        ([PEER, "remove=true"], [RemovePeer(A)]),
        ([PEER, "update_only=true", "remove=true"], [RemovePeer(A)]),
        ([PEER, "allowed_ip=10.0.0.0/8", "remove=true", "allowed_ip=::/0"], [RemovePeer(A)]),
        ([PEER, f"preshared_key={SECRET}"], [
            AddPeer(A), SetPresharedKey(A, PresharedKey.from_hex(SECRET))
        ]),
        ([PEER, f"preshared_key={ZERO}"], [AddPeer(A), SetPresharedKey(A, None)]),
        ([PEER, "endpoint=192.0.2.1:51820"], [
            AddPeer(A), SetEndpoint(A, Endpoint.parse("192.0.2.1:51820"))
        ]),
        ([PEER, "endpoint=[2001:db8::1]:0"], [
            AddPeer(A), SetEndpoint(A, Endpoint.parse("[2001:db8::1]:0"))
        ]),
        ([PEER, "persistent_keepalive_interval=65535"], [
            AddPeer(A), SetPersistentKeepalive(A, 65535)
        ]),
        ([PEER, "replace_allowed_ips=true"], [AddPeer(A), ReplaceAllowedIps(A)]),
        ([PEER, "allowed_ip=10.9.0.1/24"], [AddPeer(A), AddAllowedIp(A, prefix("10.9.0.0/24"))]),
        ([PEER, "allowed_ip=fd00::1/64"], [AddPeer(A), AddAllowedIp(A, prefix("fd00::/64"))]),
        ([PEER, "allowed_ip=-10.9.0.1/24"], [
            AddPeer(A), RemoveAllowedIp(A, prefix("10.9.0.0/24"))
        ]),
        ([PEER, "allowed_ip=10.0.0.0/8", "allowed_ip=10.0.0.0/8"], [
            AddPeer(A),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
            AddAllowedIp(A, prefix("10.0.0.0/8")),
        ]),
        ([PEER, "nvpn_name=Ada's laptop"], [AddPeer(A), SetName(A, "Ada's laptop")]),
        (["listen_port=1", PEER, "update_only=true", f"public_key={B.hex}", "remove=true", PEER], [
            SetListenPort(1), RemovePeer(B), AddPeer(A)
        ]),
    ],
)  # fmt: skip
def test_every_good_line_becomes_its_change(lines: list[str], plan: list[Change]) -> None:
    assert parse_set(lines) == tuple(plan)


BAD_LINES = [
    ("nonsense", errno.EPROTO),
    ("private_key", errno.EPROTO),
    ("", errno.EPROTO),
    ("private_key=", errno.EINVAL),
    (f"private_key={SECRET[:-2]}", errno.EINVAL),
    (f"private_key={SECRET[:-1]}x", errno.EINVAL),
    ("listen_port=65536", errno.EINVAL),
    ("listen_port=", errno.EINVAL),
    ("listen_port=-1", errno.EINVAL),
    ("listen_port=+1", errno.EINVAL),
    ("listen_port=1_0", errno.EINVAL),
    ("listen_port= 1", errno.EINVAL),
    ("listen_port=١", errno.EINVAL),
    ("listen_port=" + "1" * 5000, errno.EINVAL),
    ("listen_port=1\r", errno.EINVAL),
    ("fwmark=0x10", errno.EINVAL),
    ("fwmark=4294967296", errno.EINVAL),
    ("replace_peers=false", errno.EINVAL),
    ("replace_peers=1", errno.EINVAL),
    ("endpoint=192.0.2.1:1", errno.EINVAL),  # a peer's key before any peer
    ("public_key=", errno.EINVAL),
    (f"public_key={SECRET[:-2]}", errno.EINVAL),
    ("unheard_of=1", errno.EINVAL),
    ("=", errno.EINVAL),
]

BAD_PEER_LINES = [
    ("nonsense", errno.EPROTO),
    ("replace_peers=true", errno.EINVAL),
    ("private_key=" + SECRET, errno.EINVAL),
    ("listen_port=1", errno.EINVAL),
    ("update_only=false", errno.EINVAL),
    ("remove=yes", errno.EINVAL),
    ("replace_allowed_ips=", errno.EINVAL),
    ("protocol_version=2", errno.EINVAL),
    ("protocol_version=01", errno.EINVAL),
    ("preshared_key=", errno.EINVAL),
    (f"preshared_key={SECRET}00", errno.EINVAL),
    ("endpoint=vpn.example.org:1", errno.EINVAL),
    ("endpoint=192.0.2.1", errno.EINVAL),
    ("endpoint=192.0.2.1:65536", errno.EINVAL),
    ("endpoint=01.2.3.4:5", errno.EINVAL),
    ("endpoint=[1.2.3.4]:5", errno.EINVAL),
    ("endpoint=2001:db8::1:5", errno.EINVAL),
    ("endpoint=", errno.EINVAL),
    ("persistent_keepalive_interval=65536", errno.EINVAL),
    ("persistent_keepalive_interval=off", errno.EINVAL),
    ("allowed_ip=10.0.0.0", errno.EINVAL),
    ("allowed_ip=10.0.0.0/33", errno.EINVAL),
    ("allowed_ip=10.0.0.0/-1", errno.EINVAL),
    ("allowed_ip=10.0.0.0/024", errno.EINVAL),
    ("allowed_ip=::/129", errno.EINVAL),
    ("allowed_ip=fe80::%eth0/64", errno.EINVAL),
    ("allowed_ip=-", errno.EINVAL),
    ("allowed_ip=--10.0.0.0/8", errno.EINVAL),
    ("allowed_ip=+10.0.0.0/8", errno.EINVAL),
    ("allowed_ip=", errno.EINVAL),
    ("nvpn_name=two\x1flines", errno.EINVAL),
    ("unheard_of=1", errno.EINVAL),
]


@pytest.mark.parametrize(
    ("lines", "number"),
    [([line], number) for line, number in BAD_LINES]
    + [([PEER, line], number) for line, number in BAD_PEER_LINES]
    # What follows a removal has no effect, but has to be well-formed all the same.
    + [([PEER, "remove=true", line], number) for line, number in BAD_PEER_LINES],
)
def test_every_bad_line_has_its_errno(lines: list[str], number: int) -> None:
    with pytest.raises(ControlError) as refused:
        parse_set(lines)
    assert refused.value.errno == number
    assert str(refused.value).startswith(f"line {len(lines)}: ")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80), st.booleans())
def test_any_text_is_refused_or_read_and_never_more(text: str, after_peer: bool) -> None:
    lines = ([PEER] if after_peer else []) + text.split("\n")
    try:
        parse_set(lines)
    except ControlError as refused:
        assert refused.errno in (errno.EINVAL, errno.EPROTO)


@pytest.mark.parametrize(
    "line",
    [
        f"private_key={SECRET}5",
        f"public_key={SECRET}5",
        f"listen_port={SECRET}",
        f"{SECRET}=1",
        SECRET,
        f"endpoint={SECRET}",
    ],
)
def test_a_refusal_never_repeats_what_may_be_a_secret(line: str) -> None:
    for lines in ([line], [PEER, line]):
        with pytest.raises(ControlError) as refused:
            parse_set(lines)
        assert SECRET[:16] not in str(refused.value)


def full_snapshot() -> TunnelSnapshot:
    return TunnelSnapshot(
        name="wg0",
        private_key=PrivateKey.from_hex(SECRET),
        listen_port=51820,
        fwmark=0xCA6C,
        mtu=1420,
        datapath="python (TSO, USO)",
        datapath_reason="nothing else is built",
        drops={DropReason.REPLAYED: 7, DropReason.NO_ROUTE: 2},
        peers=(
            PeerSnapshot(
                A,
                name="ada",
                owner=Owner.LEASE,
                preshared_key=PresharedKey.from_hex(SECRET),
                endpoint=Endpoint.parse("[2001:db8::1]:51820"),
                last_handshake=1_700_000_000_000_000_123,
                rx_bytes=11,
                tx_bytes=22,
                persistent_keepalive=25,
                allowed_ips=(prefix("10.0.0.0/8"), prefix("fd00::/64")),
                session_age=5_000,
                handshake_attempts=3,
                filtered=8,
            ),
            PeerSnapshot(B),
        ),
    )


def said(snapshot: TunnelSnapshot) -> str:
    return b"".join(iter_get(snapshot)).decode()


def test_get_has_the_lines_and_the_order_of_the_specification() -> None:
    snapshot = full_snapshot()
    assert snapshot.private_key is not None
    lines = said(snapshot).splitlines()
    assert [line for line in lines if not line.startswith("nvpn_")] == [
        f"private_key={snapshot.private_key.reveal_hex()}",
        "listen_port=51820",
        "fwmark=51820",
        f"public_key={A.hex}",
        f"preshared_key={SECRET}",
        "protocol_version=1",
        "endpoint=[2001:db8::1]:51820",
        "last_handshake_time_sec=1700000000",
        "last_handshake_time_nsec=123",
        "tx_bytes=22",
        "rx_bytes=11",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.0.0.0/8",
        "allowed_ip=fd00::/64",
        f"public_key={B.hex}",
        f"preshared_key={ZERO}",
        "protocol_version=1",
        "last_handshake_time_sec=0",
        "last_handshake_time_nsec=0",
        "tx_bytes=0",
        "rx_bytes=0",
        "persistent_keepalive_interval=0",
    ]


def test_what_is_not_set_is_not_said() -> None:
    text = said(TunnelSnapshot("wg0"))
    for key in ("private_key", "listen_port", "fwmark", "public_key"):
        assert key not in text


def test_an_endpoint_that_is_no_address_is_not_told_to_wg() -> None:
    relayed = PeerSnapshot(A, endpoint=Endpoint(b"", 0, path=3))
    assert "endpoint=" not in said(TunnelSnapshot("wg0", peers=(relayed,)))


def test_a_name_cannot_break_out_of_its_line() -> None:
    peer = PeerSnapshot(A, name="x\nallowed_ip=0.0.0.0/0\rü")
    lines = said(TunnelSnapshot("wg0", peers=(peer,))).split("\n")
    assert "nvpn_name=x?allowed_ip=0.0.0.0/0?ü" in lines


def test_the_client_reads_back_everything_that_get_tells() -> None:
    snapshot = full_snapshot()
    assert snapshot.private_key is not None
    tunnel = parse_get("wg0", said(snapshot).splitlines())
    assert tunnel.private_key == snapshot.private_key.reveal_base64()
    assert tunnel.public_key == snapshot.private_key.public().base64
    assert (tunnel.listen_port, tunnel.fwmark, tunnel.mtu) == (51820, 0xCA6C, 1420)
    assert tunnel.datapath == "python (TSO, USO)"
    assert tunnel.datapath_reason == "nothing else is built"
    assert tunnel.drops == {"replayed": 7, "no-route": 2}
    ada, other = tunnel.peers
    assert ada.public_key == A.base64
    assert ada.preshared_key == PresharedKey.from_hex(SECRET).reveal_base64()
    assert ada.endpoint == "[2001:db8::1]:51820"
    assert ada.last_handshake == (1_700_000_000, 123)
    assert (ada.rx_bytes, ada.tx_bytes, ada.persistent_keepalive) == (11, 22, 25)
    assert ada.allowed_ips == ["10.0.0.0/8", "fd00::/64"]
    assert (ada.name, ada.owner, ada.session_age, ada.handshake_attempts) == (
        "ada",
        "lease",
        5_000,
        3,
    )
    assert (ada.filtered, other.filtered) == (8, 0)
    assert (other.preshared_key, other.endpoint, other.allowed_ips) == ("", "", [])
    assert other.session_age is None


def test_the_client_computes_the_public_key_when_the_daemon_does_not_tell_it() -> None:
    key = PrivateKey.from_hex(SECRET)
    tunnel = parse_get("wg0", [f"private_key={key.reveal_hex()}", f"public_key={ZERO}"])
    assert tunnel.public_key == key.public().base64
    assert tunnel.peers[0].public_key == PublicKey(bytes(32)).base64


@pytest.mark.parametrize("line", ["listen_port=x", "gibberish", f"private_key={SECRET[1:]}"])
def test_the_client_refuses_nonsense_without_repeating_it(line: str) -> None:
    with pytest.raises(ControlError) as refused:
        parse_get("wg0", [line])
    assert line not in str(refused.value)


def test_a_peer_with_131_thousand_prefixes_is_written_in_small_pieces() -> None:
    prefixes = tuple(
        [Prefix(4, (10 << 24) + (i << 8), 24) for i in range(65_536)]
        + [Prefix(6, (0xFD << 120) + (i << 64), 64) for i in range(65_536)]
    )
    snapshot = TunnelSnapshot("wg0", peers=(PeerSnapshot(A, allowed_ips=prefixes),))
    pieces = list(iter_get(snapshot))
    assert max(map(len, pieces)) < 20_000
    lines = b"".join(pieces).decode().splitlines()
    assert [line for line in lines if line.startswith("allowed_ip=")] == [
        f"allowed_ip={prefix}" for prefix in prefixes
    ]


def test_a_long_name_and_keys_at_the_edge_of_a_piece_come_out_whole() -> None:
    keys = [PresharedKey(bytes([n]) * 32) for n in range(1, 201)]
    names = ["n" * length for length in range(0, 40_000, 200)]
    peers = tuple(
        PeerSnapshot(PublicKey(bytes([n]) * 32), name=name, preshared_key=key)
        for n, (key, name) in enumerate(zip(keys, names, strict=True), 1)
    )
    told = parse_get("wg0", said(TunnelSnapshot("wg0", peers=peers)).splitlines()).peers
    assert [peer.name for peer in told] == names
    assert [peer.preshared_key for peer in told] == [key.reveal_base64() for key in keys]


def test_every_piece_can_be_zeroed_in_place() -> None:
    key = PrivateKey(b"k" * 32)
    peers = (PeerSnapshot(PublicKey(b"p" * 32), preshared_key=PresharedKey(b"s" * 32)),)
    for piece in iter_get(TunnelSnapshot("wg0", private_key=key, peers=peers)):
        piece[:] = bytes(len(piece))
        assert not any(piece)
