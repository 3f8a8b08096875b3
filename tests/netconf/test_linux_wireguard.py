"""Messages of the kernel's WireGuard: byte for byte, cut in pieces, and read back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.endpoint import Endpoint
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from nvpn.netconf.kernel_changes import KEPT, KernelChanges, PeerChange
from nvpn.netconf.linux_netlink import pack
from nvpn.netconf.linux_wireguard import explain_absence
from nvpn.netconf.linux_wireguard_messages import pack_changes, pack_get, read_device

KEY = PrivateKey(b"\x48" + b"\x11" * 30 + b"\x51")
PSK = PresharedKey(b"\x22" * 32)
PEER = PublicKey(b"\x33" * 32)
OTHER = PublicKey(b"\x44" * 32)

# The head of every request behind the netlink header: command, version 1, reserved; then
# WGDEVICE_A_IFINDEX (1), 8 bytes, the number 7.
HEAD = "01010000" + "0800010007000000"
# Inside WGDEVICE_A_PEERS (8 | NLA_F_NESTED) a nest without a name holds each peer, which
# begins with WGPEER_A_PUBLIC_KEY (1), 36 bytes.
PUBLIC_KEY = "24000100" + "33" * 32


def packed(changes: KernelChanges) -> list[bytes]:
    """The messages without their netlink headers."""
    return [pack(message, 29, 0)[16:] for message in pack_changes(7, changes)]


def only(changes: KernelChanges) -> str:
    (message,) = packed(changes)
    return message.hex()


def peer(attributes: str) -> str:
    """A whole message about one peer."""
    inner = PUBLIC_KEY + attributes
    length = len(inner) // 2
    nest = struct.pack("=HH", length + 4, 0x8001).hex() + inner
    return HEAD + struct.pack("=HH", length + 8, 0x8008).hex() + nest


# By hand from include/uapi/linux/wireguard.h, for a host of low-endian byte order.
GOLDEN: dict[str, tuple[KernelChanges, str]] = {
    "private key": (
        KernelChanges(private_key=KEY),
        HEAD + "24000300" + "48" + "11" * 30 + "51",
    ),
    "no private key": (KernelChanges(private_key=None), HEAD + "24000300" + "00" * 32),
    "listen port": (KernelChanges(listen_port=51820), HEAD + "06000600" + "6cca0000"),
    "any listen port": (KernelChanges(listen_port=0), HEAD + "06000600" + "00000000"),
    "mark": (KernelChanges(fwmark=0x1234), HEAD + "08000700" + "34120000"),
    "new peer": (KernelChanges(peers=(PeerChange(PEER),)), peer("")),
    "peer that is removed": (
        KernelChanges(peers=(PeerChange(PEER, remove=True),)),
        peer("08000300" + "01000000"),
    ),
    "peer that there is": (
        KernelChanges(peers=(PeerChange(PEER, update_only=True),)),
        peer("08000300" + "04000000"),
    ),
    "preshared key": (
        KernelChanges(peers=(PeerChange(PEER, preshared_key=PSK),)),
        peer("24000200" + "22" * 32),
    ),
    "no preshared key": (
        KernelChanges(peers=(PeerChange(PEER, preshared_key=None),)),
        peer("24000200" + "00" * 32),
    ),
    # struct sockaddr_in: family 2, port and address in network order, 8 bytes of nothing.
    "endpoint": (
        KernelChanges(peers=(PeerChange(PEER, endpoint=Endpoint.parse("192.0.2.1:51820")),)),
        peer("14000400" + "0200" + "ca6c" + "c0000201" + "00" * 8),
    ),
    # struct sockaddr_in6: family 10, port, flow label, address, scope in the host's order.
    "endpoint of IPv6 with a scope": (
        KernelChanges(
            peers=(PeerChange(PEER, endpoint=Endpoint(b"\xfe\x80" + bytes(13) + b"\1", 9, 3)),)
        ),
        peer("20000400" + "0a00" + "0009" + "00" * 4 + "fe80" + "00" * 13 + "01" + "03000000"),
    ),
    "keepalive": (
        KernelChanges(peers=(PeerChange(PEER, persistent_keepalive=25),)),
        peer("06000500" + "19000000"),
    ),
    "no keepalive": (
        KernelChanges(peers=(PeerChange(PEER, persistent_keepalive=0),)),
        peer("06000500" + "00000000"),
    ),
    "allowed IPs taken away": (
        KernelChanges(peers=(PeerChange(PEER, replace_allowed_ips=True),)),
        peer("08000300" + "02000000"),
    ),
    # Each in a nest: family (16 bit), address, length of the prefix (8 bit).
    "allowed IP": (
        KernelChanges(peers=(PeerChange(PEER, allowed_ips=(Prefix.parse("10.9.0.0/16"),)),)),
        peer(
            "20000980" + "1c000180" + "06000100" + "02000000" + "08000200" + "0a090000"
            "05000300" + "10000000"
        ),
    ),
    "allowed IP of IPv6": (
        KernelChanges(peers=(PeerChange(PEER, allowed_ips=(Prefix.parse("fd00::/8"),)),)),
        peer(
            "2c000980" + "28000180" + "06000100" + "0a000000" + "14000200" + "fd" + "00" * 15
            + "05000300" + "08000000"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_every_change_has_the_bytes_that_the_kernel_wants(name: str) -> None:
    changes, expected = GOLDEN[name]
    assert only(changes) == expected


def test_an_interface_is_asked_for_by_number_or_by_name() -> None:
    assert pack(pack_get(7), 29, 0)[16:].hex() == "00010000" + "0800010007000000"
    assert pack(pack_get("wg0"), 29, 0)[16:].hex() == "00010000" + "08000200" + b"wg0\0".hex()


def test_no_change_is_no_message() -> None:
    assert pack_changes(7, KernelChanges()) == []


# --- read back --------------------------------------------------------------------------

# The kernel's answers have the form of our requests, so these are read by what reads those.


def read(messages: Iterable[bytes], **options: Any) -> TunnelSnapshot:
    return read_device([message[4:] for message in messages], wall=0, **options)


keys = st.binary(min_size=32, max_size=32)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
prefixes = addresses.flatmap(
    lambda address: st.integers(0, len(address) * 8).map(lambda length: Prefix.of(address, length))
)
endpoints = st.tuples(addresses, st.integers(0, 65535), st.integers(0, 2**32 - 1)).map(
    lambda parts: Endpoint(parts[0], parts[1], parts[2] if len(parts[0]) == 16 else 0)
)
peer_changes = st.builds(
    PeerChange,
    keys.map(PublicKey),
    preshared_key=st.one_of(st.just(KEPT), st.none(), keys.filter(any).map(PresharedKey)),
    endpoint=st.one_of(st.none(), endpoints),
    persistent_keepalive=st.one_of(st.none(), st.integers(0, 65535)),
    replace_allowed_ips=st.booleans(),
    allowed_ips=st.lists(prefixes, unique=True, max_size=5).map(tuple),
)


@given(
    st.builds(
        KernelChanges,
        private_key=st.one_of(st.just(KEPT), st.none(), keys.map(PrivateKey)),
        listen_port=st.one_of(st.none(), st.integers(0, 65535)),
        fwmark=st.one_of(st.none(), st.integers(0, 2**32 - 1)),
        peers=st.lists(peer_changes, unique_by=lambda peer: peer.public_key, max_size=4).map(
            tuple
        ),
    )
)
def test_what_is_packed_reads_the_same(changes: KernelChanges) -> None:
    snapshot = read(packed(changes))
    wanted = None if changes.private_key is KEPT else changes.private_key
    assert snapshot.private_key == wanted
    assert snapshot.listen_port == (changes.listen_port or 0)
    assert snapshot.fwmark == (changes.fwmark or 0)
    assert len(snapshot.peers) == len(changes.peers)
    for found, change in zip(snapshot.peers, changes.peers):  # noqa: B905 - see above
        assert found.public_key == change.public_key
        assert found.preshared_key == (
            None if change.preshared_key is KEPT else change.preshared_key
        )
        assert found.endpoint == change.endpoint
        assert found.persistent_keepalive == (change.persistent_keepalive or 0)
        assert found.allowed_ips == change.allowed_ips
        assert found.last_handshake == 0
        assert found.session_age is None


def attribute(kind: int, value: bytes) -> bytes:
    data = struct.pack("=HH", len(value) + 4, kind) + value
    return data + bytes(-len(data) % 4)


def test_traffic_and_the_date_of_a_handshake_are_read() -> None:
    told = (
        attribute(1, bytes(PEER))
        + attribute(2, bytes(32))
        + attribute(6, struct.pack("=qq", 100, 5))
        + attribute(7, struct.pack("=Q", 1 << 40))
        + attribute(8, struct.pack("=Q", 7))
        + attribute(10, struct.pack("=I", 1))
    )
    answer = attribute(2, b"wg0\0") + attribute(8 | 0x8000, attribute(0x8000, told))
    snapshot = read_device([answer], wall=130_000_000_000)
    (found,) = snapshot.peers
    assert snapshot.name == "wg0"
    assert found.last_handshake == 100_000_000_005
    assert (found.rx_bytes, found.tx_bytes) == (1 << 40, 7)
    assert found.session_age == 29_999_999_995
    assert found.preshared_key is None
    (later,) = read_device([answer], wall=280_000_000_005).peers
    assert later.session_age is None, "a session ends after 180 seconds"


def test_secret_keys_and_allowed_ips_are_read_only_if_they_are_wanted() -> None:
    told = PeerChange(PEER, preshared_key=PSK, allowed_ips=(Prefix.parse("fd00::/8"),))
    messages = packed(KernelChanges(private_key=KEY, peers=(told,)))
    assert read(messages).private_key == KEY
    snapshot = read(messages, brief=True)
    assert snapshot.private_key is None
    assert snapshot.peers == (PeerSnapshot(PEER),)


# --- big ones ---------------------------------------------------------------------------


def some_prefixes(count: int, of: int) -> tuple[Prefix, ...]:
    return tuple(
        Prefix.of(b"\xfd" + of.to_bytes(7, "big") + number.to_bytes(8, "big"), 128)
        for number in range(count)
    )


def test_many_peers_come_in_messages_of_16_kib_and_lose_nothing() -> None:
    peers = tuple(
        PeerChange(
            PublicKey(number.to_bytes(32, "big")),
            preshared_key=PSK,
            endpoint=Endpoint(bytes(15) + b"\1", 1),
            persistent_keepalive=25,
            replace_allowed_ips=True,
            allowed_ips=some_prefixes(3, number),
        )
        for number in range(1, 301)
    )
    messages = packed(KernelChanges(private_key=KEY, listen_port=1, fwmark=2, peers=peers))
    assert len(messages) > 4
    assert all(len(message) < 17 * 1024 for message in messages)
    assert [read([message]).private_key for message in messages] == [KEY] + [None] * (
        len(messages) - 1
    )
    snapshot = read(messages)
    assert [found.public_key for found in snapshot.peers] == [peer.public_key for peer in peers]
    assert all(
        (found.preshared_key, found.endpoint, found.persistent_keepalive, found.allowed_ips)
        == (change.preshared_key, change.endpoint, 25, change.allowed_ips)
        for found, change in zip(snapshot.peers, peers)  # noqa: B905 - their keys are equal
    )


def test_one_peer_with_many_prefixes_is_cut_and_its_list_begun_only_once() -> None:
    change = PeerChange(
        PEER, preshared_key=PSK, replace_allowed_ips=True, allowed_ips=some_prefixes(2000, 1)
    )
    messages = packed(KernelChanges(peers=(change, PeerChange(OTHER))))
    assert len(messages) == 5
    assert all(len(message) < 17 * 1024 for message in messages)
    replacing = bytes.fromhex("08000300" + "02000000")
    assert [replacing in message for message in messages] == [True] + [False] * 4
    assert [bytes(PSK.reveal()) in message for message in messages] == [True] + [False] * 4
    found, other = read(messages).peers
    assert found.allowed_ips == change.allowed_ips
    assert found.preshared_key == PSK
    assert other.public_key == OTHER


# --- this machine -----------------------------------------------------------------------


def test_a_kernel_without_wireguard_is_told_in_a_sentence() -> None:
    assert explain_absence() in (
        "",
        "this kernel has no WireGuard, nor a module with it",
        "needs CAP_NET_ADMIN; try again as root, with sudo",
    )
