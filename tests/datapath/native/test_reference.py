"""The Rust functions against the Python ones, which are the reference: same bytes out.

What differs in shape is brought into one here, never what it holds. Packets come from
``tests.support.segments``, damaged on purpose in half of the cases, and from nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.datapath import inner
from nvpn.datapath.checksum import complement, word_sum
from nvpn.datapath.coalesce import coalesce
from nvpn.datapath.offloads import (
    VIRTIO_HEADER_SIZE,
    BadFrame,
    VirtioHeader,
    complete_checksum,
    read_frame,
)
from nvpn.model.prefixes import format_address
from tests.support.rust import Answerer, answerer, unhex
from tests.support.segments import ACK, CWR, FIN, FLOWS, PSH, SYN, Flow

pytestmark = pytest.mark.once

packets = st.binary(max_size=120)
mtus = st.sampled_from((0, 1280, 1420, 1500, 65535)) | st.integers(0, 2000)


@pytest.fixture(scope="module")
def rust() -> Iterator[Answerer]:
    with answerer() as other:
        yield other


@st.composite
def flow(draw: st.DrawFn) -> Flow:
    made = draw(st.sampled_from(sorted(FLOWS)).map(FLOWS.__getitem__))
    return replace(
        made,
        options=draw(st.sampled_from((b"", made.options, bytes(40)))),
        port=draw(st.sampled_from((5201, 443))),
        tos=draw(st.sampled_from((0, 0, 2, 0xFF))),
        ttl=draw(st.sampled_from((64, 64, 63))),
        dont_fragment=draw(st.sampled_from((True, True, True, False))),
        identification=draw(st.sampled_from((0, 0x1234, 0xFFFE))),
        extension=draw(st.sampled_from((b"", b"", bytes([made.protocol]) + bytes(7))))
        if made.version == 6
        else b"",
    )


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Mostly as it was; else with a few bytes of the headers changed, or cut short."""
    data = bytearray(whole)
    if draw(st.booleans()):
        for _ in range(draw(st.integers(0, 3))):
            if data:
                at = draw(st.integers(0, min(len(data), 100) - 1))
                data[at] = draw(st.integers(0, 255))
        if draw(st.integers(0, 7)) == 0:
            del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


# --- single values --------------------------------------------------------------------


@given(st.binary(max_size=3000))
def test_checksums_are_the_same(rust: Answerer, data: bytes) -> None:
    assert rust.ask("sum", data) == [str(complement(word_sum(data)))]


@given(st.integers(0, 70_000), mtus)
def test_padding_is_the_same(rust: Answerer, size: int, mtu: int) -> None:
    assert rust.ask("padded", size, mtu) == [str(inner.padded_size(size, mtu))]


@given(packets | st.tuples(flow(), packets).map(lambda made: made[0].packet(made[1])))
def test_inner_packets_are_read_the_same(rust: Answerer, packet: bytes) -> None:
    answer = rust.ask("inner", packet)
    parsed = inner.parse_inner(packet)
    if parsed is None:
        assert answer == ["none"]
        return
    version, length, source, destination = parsed
    size = 4 if version == 4 else 16
    payload = inner.udp_payload(packet, version)
    traffic_class = inner.traffic_class(packet)
    assert answer == [
        str(version),
        str(length),
        format_address(source.to_bytes(size, "big")),
        format_address(destination.to_bytes(size, "big")),
        "-" if payload is None else str(payload),
        str(traffic_class),
        str(inner.outer_tos(traffic_class)),
    ]


@given(flow(), st.integers(0, 255), st.integers(0, 255))
def test_congestion_is_carried_inside_the_same(
    rust: Answerer, made: Flow, tos: int, outer: int
) -> None:
    packet = bytearray(replace(made, tos=tos).packet(b"data"))
    kept, changed = rust.ask("ecn", outer, bytes(packet))
    assert int(kept) == inner.merge_ecn(packet, outer)
    assert unhex(changed) == packet


# --- from the TUN device --------------------------------------------------------------

headers = st.builds(
    VirtioHeader,
    st.sampled_from((0, 1, 255)),
    st.sampled_from((0, 1, 3, 4, 5, 0x81, 0x84, 255)),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 80) | st.integers(0, 65535),
    st.sampled_from((0, 6, 16)) | st.integers(0, 65535),
)


@given(headers, packets)
def test_checksums_are_completed_the_same(
    rust: Answerer, header: VirtioHeader, packet: bytes
) -> None:
    whole = bytearray(packet)
    try:
        complete_checksum(header, whole)
    except BadFrame:
        with pytest.raises(ValueError, match="bad frame"):
            rust.ask("finish", header.pack() + packet)
    else:
        (answer,) = rust.ask("finish", header.pack() + packet)
        assert unhex(answer) == whole


def assert_cut_the_same(
    rust: Answerer, header: VirtioHeader, packet: bytes, mtu: int, most: int
) -> None:
    """Every byte, padding included, and no send too large."""
    frame = header.pack() + packet
    try:
        segments = read_frame(header, packet)
    except BadFrame:
        with pytest.raises(ValueError, match="bad frame"):
            rust.ask("split", mtu, most, frame)
        return
    count, largest, *answers = rust.ask("split", mtu, most, frame)
    assert int(count) == len(segments)
    padded = [
        segment + bytes(inner.padded_size(len(segment), mtu) - len(segment))
        for segment in segments
    ]
    assert int(largest) == max(map(len, padded)) + 32
    made: list[bytes] = []
    of_send: list[bytes] = []
    for answer in answers:
        if answer != ",":
            of_send.append(unhex(answer))
            continue
        assert 0 < len(of_send) <= max(most, 1)
        assert len(of_send) == 1 or sum(len(one) + 32 for one in of_send) <= 65507
        assert all(len(one) == len(of_send[0]) for one in of_send[:-1])
        assert len(of_send[-1]) <= len(of_send[0])
        made += of_send
        of_send = []
    assert not of_send
    assert made == padded


@given(
    flow(),
    st.integers(0, 5000) | st.just(0),
    st.sampled_from((1, 2, 7, 100, 536, 1368, 1452, 65535)),
    st.sampled_from((0, 1000, 2**32 - 1, 2**32 - 2000)),
    st.sampled_from((ACK, ACK | PSH, ACK | FIN, ACK | CWR | PSH, SYN, 255)),
    mtus,
    st.sampled_from((1, 2, 45, 64, 128)),
    st.data(),
)
def test_superpackets_are_cut_the_same(
    rust: Answerer,
    made: Flow,
    size: int,
    gso_size: int,
    sequence: int,
    flags: int,
    mtu: int,
    most: int,
    data: st.DataObject,
) -> None:
    payload = random.Random(size).randbytes(size)
    header, packet = made.superpacket(payload, gso_size, sequence=sequence, flags=flags)
    packet = data.draw(damaged(packet))
    assert_cut_the_same(rust, header, packet, mtu, most)


@given(headers, packets)
def test_no_frame_is_cut_otherwise(rust: Answerer, header: VirtioHeader, packet: bytes) -> None:
    if header.gso_type & 0x7F:
        assert_cut_the_same(rust, header, packet, 1420, 64)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("size", [45 * 1368, 45 * 1368 - 1, 47 * 1368, 65_000, 1368, 1369])
def test_full_superpackets_are_cut_the_same(rust: Answerer, name: str, size: int) -> None:
    header, packet = FLOWS[name].superpacket(
        random.Random(size).randbytes(size), 1368, flags=ACK | PSH
    )
    assert_cut_the_same(rust, header, packet, 1420, 128)


# --- to the TUN device ----------------------------------------------------------------


def assert_merged_the_same(rust: Answerer, inner_packets: list[bytes], offers: int) -> None:
    """Every byte of every write, and their order."""
    count, *answers = rust.ask("merge", offers, *inner_packets)
    writes = coalesce(inner_packets, tso=bool(offers & 1), uso=bool(offers & 2))
    assert int(count) == len(writes)
    for answer, write in zip(answers, writes, strict=True):
        whole, packet_count = answer.split("/")
        assert unhex(whole) == b"".join(write.pieces)
        assert int(packet_count) == len(write.packets)


@st.composite
def traffic(draw: st.DrawFn) -> list[bytes]:
    """Trains of a few flows, woven into each other, some of them damaged."""
    trains = []
    for _ in range(draw(st.integers(1, 3))):
        made = draw(flow())
        size = draw(st.sampled_from((1, 20, 500)))
        rest = draw(st.sampled_from((0, 0, 1, size - 1)))
        payload = random.Random(size).randbytes(size * draw(st.integers(0, 9)) + rest)
        sequence = draw(st.sampled_from((1, 2**32 - 700)))
        flags = draw(st.sampled_from((ACK, ACK, ACK | PSH, ACK | FIN)))
        train = made.segments(payload, size, sequence=sequence, flags=flags)
        trains.append(train or [made.packet(b"", sequence=sequence, flags=flags)])
    woven = []
    while any(trains):
        train = draw(st.sampled_from([train for train in trains if train]))
        for _ in range(draw(st.integers(1, 5))):
            if train:
                woven.append(draw(damaged(train.pop(0))))
    return [
        packet[: parsed.length]
        for packet in woven
        if (parsed := inner.parse_inner(packet)) is not None
    ]


@settings(max_examples=300)
@given(traffic(), st.integers(0, 3))
def test_packets_are_merged_the_same(
    rust: Answerer, inner_packets: list[bytes], offers: int
) -> None:
    assert_merged_the_same(rust, inner_packets, offers)


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("gso_size", [10, 1368])
def test_long_trains_are_merged_the_same(rust: Answerer, name: str, gso_size: int) -> None:
    size = min(100 * gso_size, 65_400)
    train = FLOWS[name].segments(random.Random(size).randbytes(size), gso_size, flags=ACK | PSH)
    assert_merged_the_same(rust, train, 3)


@given(traffic(), st.integers(4, 7))
def test_a_checksum_left_to_the_kernel_comes_to_the_same(
    rust: Answerer, inner_packets: list[bytes], offers: int
) -> None:
    """What packets with right checksums become is the same once the kernel completes it."""
    _, *answers = rust.ask("merge", offers, *inner_packets)
    written = []
    for answer in answers:
        frame = unhex(answer.split("/")[0])
        header = VirtioHeader.parse(frame)
        written += read_frame(header, frame[VIRTIO_HEADER_SIZE:])
    plain = [
        packet
        for write in coalesce(inner_packets, tso=bool(offers & 1), uso=bool(offers & 2))
        for packet in read_frame(
            VirtioHeader.parse(b"".join(write.pieces)),
            b"".join(write.pieces)[VIRTIO_HEADER_SIZE:],
        )
    ]
    assert len(written) == len(plain)
    for one, other in zip(written, plain, strict=True):
        assert without_checksum(one) == without_checksum(other)
        if has_right_checksum(other):
            assert one == other


def transport(packet: bytes) -> tuple[int, int, int] | None:
    """Protocol, where its header begins, where its checksum is."""
    version = packet[0] >> 4
    protocol, start = (packet[9], (packet[0] & 15) * 4) if version == 4 else (packet[6], 40)
    offset = {6: 16, 17: 6}.get(protocol)
    if offset is None or start + offset + 2 > len(packet):
        return None
    return protocol, start, start + offset


def without_checksum(packet: bytes) -> bytes:
    found = transport(packet)
    if found is None:
        return packet
    at = found[2]
    return packet[:at] + b"\0\0" + packet[at + 2 :]


def has_right_checksum(packet: bytes) -> bool:
    found = transport(packet)
    if found is None:
        return True
    protocol, start, at = found
    addresses = packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]
    total = word_sum(addresses) + protocol + len(packet) - start + word_sum(packet[start:])
    return (
        total % 65535 == 0
        and (protocol == 6 or packet[at : at + 2] != b"\0\0")
        and (
            # A sum of zero has two names; only one of them is written.
            packet[at : at + 2] != (b"\xff\xff" if protocol == 6 else b"\0\0")
        )
    )


# --- sealing --------------------------------------------------------------------------

keys = st.binary(min_size=32, max_size=32)


@given(
    keys,
    st.integers(0, 2**63),
    st.integers(32, 1500),
    st.integers(1, 20),
    st.integers(0, 1500),
    st.data(),
)
def test_messages_are_sealed_and_opened_as_by_cryptography(
    rust: Answerer,
    key: bytes,
    counter: int,
    stride: int,
    full: int,
    rest: int,
    data: st.DataObject,
) -> None:
    head = b"\4\0\0\0abcd"
    sizes = [stride] * full + ([rest] if 32 <= rest < stride else [])
    plains = [random.Random(i).randbytes(size - 32) for i, size in enumerate(sizes)]
    cipher = ChaCha20Poly1305(key)
    expected = b""
    for number, plain in enumerate(plains, counter):
        nonce = bytes(4) + number.to_bytes(8, "little")
        expected += head + nonce[4:] + cipher.encrypt(nonce, plain, None)
    room = b"".join(bytes(16) + plain + bytes(16) for plain in plains)
    (sealed,) = rust.ask("seal", key, head, counter, stride, room)
    assert unhex(sealed) == expected

    forged = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    damaged_bytes = bytearray(expected)
    for index in forged:
        at = index * stride + data.draw(st.integers(8, sizes[index] - 1))
        damaged_bytes[at] ^= data.draw(st.integers(1, 255))
    bits, opened = rust.ask("open", key, stride, bytes(damaged_bytes))
    for index, (size, plain) in enumerate(zip(sizes, plains, strict=True)):
        message = bytes(damaged_bytes[index * stride : index * stride + size])
        try:
            cipher.decrypt(bytes(4) + message[8:16], message[16:], None)
        except InvalidTag:
            assert not int(bits) >> index & 1
        else:
            assert int(bits) >> index & 1
            at = index * stride + 16
            assert unhex(opened)[at : at + len(plain)] == plain


@pytest.mark.parametrize("seed", range(4))
def test_every_size_of_an_inner_packet_is_sealed_the_same(rust: Answerer, seed: int) -> None:
    key, head = random.Random(seed).randbytes(32), b"\4\0\0\0wxyz"
    cipher = ChaCha20Poly1305(key)
    for size in range(seed, 1501, 4):
        plain = random.Random(size).randbytes(size)
        nonce = bytes(4) + size.to_bytes(8, "little")
        (sealed,) = rust.ask("seal", key, head, size, size + 32, bytes(16) + plain + bytes(16))
        assert unhex(sealed) == head + nonce[4:] + cipher.encrypt(nonce, plain, None)
