"""TCP and UDP packets, and the superpackets that a kernel makes of them.

Written from the RFCs, without the code under test: checksums are added up word by word.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from nvpn.datapath.offloads import GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VirtioHeader
from nvpn.model.prefixes import parse_address
from tests.support.cores import checksum

TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")
ACK, PSH, FIN, SYN, CWR, ECE = 0x10, 0x08, 0x01, 0x02, 0x80, 0x40


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a TCP or UDP conversation: what its packets have in common."""

    version: int = 4
    protocol: int = 6
    source: str = "10.0.0.1"
    destination: str = "10.0.0.2"
    source_port: int = 40000
    port: int = 5201
    acknowledgement: int = 7_000_000
    window: int = 502
    options: bytes = TIMESTAMPS
    tos: int = 0
    ttl: int = 64
    dont_fragment: bool = True
    identification: int = 0x1234
    extension: bytes = b""

    @classmethod
    def of(cls, version: int, protocol: int, **fields: object) -> Flow:
        """With the addresses of that IP version."""
        flow = cls(version=version, protocol=protocol)
        if version == 6:
            flow = replace(flow, source="fd00::1", destination="fd00::2")
        return replace(flow, **fields)  # type: ignore[arg-type]

    @property
    def start(self) -> int:
        """Where the transport header begins."""
        return (20 if self.version == 4 else 40) + len(self.extension)

    @property
    def head_size(self) -> int:
        """Bytes of all headers."""
        return self.start + (20 + len(self.options) if self.protocol == 6 else 8)

    def packet(
        self,
        payload: bytes = b"",
        *,
        sequence: int = 1000,
        flags: int = ACK,
        identification: int | None = None,
        udp_checksum: bool = True,
    ) -> bytes:
        """A whole packet with correct checksums."""
        body = self._transport(payload, sequence, flags)
        field = 16 if self.protocol == 6 else 6
        if self.protocol == 6 or udp_checksum:
            total = checksum(self._pseudo(len(body)) + body)
            if self.protocol == 17 and total == 0:
                total = 0xFFFF
            body = body[:field] + struct.pack(">H", total) + body[field + 2 :]
        return self._network(len(body), identification) + body

    def superpacket(
        self, payload: bytes, gso_size: int, *, sequence: int = 1000, flags: int = ACK
    ) -> tuple[VirtioHeader, bytes]:
        """As a kernel hands it over: unsegmented, only the pseudo header summed up."""
        body = self._transport(payload, sequence, flags)
        field = 16 if self.protocol == 6 else 6
        partial = checksum(self._pseudo(len(body))) ^ 0xFFFF
        body = body[:field] + struct.pack(">H", partial) + body[field + 2 :]
        tcp = GSO_TCPV4 if self.version == 4 else GSO_TCPV6
        kind = GSO_UDP_L4 if self.protocol == 17 else tcp
        header = VirtioHeader(NEEDS_CSUM, kind, self.head_size, gso_size, self.start, field)
        return header, self._network(len(body), None) + body

    def segments(
        self, payload: bytes, gso_size: int, *, sequence: int = 1000, flags: int = ACK
    ) -> list[bytes]:
        """What a superpacket must become, one by one."""
        pieces = [payload[at : at + gso_size] for at in range(0, len(payload), gso_size)]
        packets = []
        for index, piece in enumerate(pieces):
            kept = flags
            if index:
                kept &= ~CWR
            if index + 1 < len(pieces):
                kept &= ~(FIN | PSH)
            number = self.identification + (0 if self.dont_fragment else index)
            packets.append(
                self.packet(
                    piece,
                    sequence=(sequence + index * gso_size) % 2**32,
                    flags=kept,
                    identification=number % 2**16,
                )
            )
        return packets

    def _transport(self, payload: bytes, sequence: int, flags: int) -> bytes:
        if self.protocol == 17:
            return (
                struct.pack(">HHHH", self.source_port, self.port, (8 + len(payload)) & 0xFFFF, 0)
                + payload
            )
        return (
            struct.pack(
                ">HHIIBBHHH",
                self.source_port,
                self.port,
                sequence,
                self.acknowledgement,
                (20 + len(self.options)) // 4 << 4,
                flags,
                self.window,
                0,
                0,
            )
            + self.options
            + payload
        )

    def _pseudo(self, length: int) -> bytes:
        addresses = parse_address(self.source) + parse_address(self.destination)
        if self.version == 4:
            return addresses + struct.pack(">BBH", 0, self.protocol, length)
        return addresses + struct.pack(">IHBB", length, 0, 0, self.protocol)

    def _network(self, length: int, identification: int | None) -> bytes:
        number = self.identification if identification is None else identification
        source, destination = parse_address(self.source), parse_address(self.destination)
        if self.version == 6:
            next_header = 60 if self.extension else self.protocol
            return (
                struct.pack(
                    ">IHBB",
                    6 << 28 | self.tos << 20,
                    length + len(self.extension),
                    next_header,
                    self.ttl,
                )
                + source
                + destination
                + self.extension
            )
        fields = struct.pack(
            ">BBHHHBBH",
            0x45,
            self.tos,
            20 + length,
            number,
            0x4000 if self.dont_fragment else 0,
            self.ttl,
            self.protocol,
            0,
        )
        header = fields + source + destination
        return header[:10] + struct.pack(">H", checksum(header)) + header[12:]


FLOWS = {
    f"{'tcp' if protocol == 6 else 'udp'} over ipv{version}": Flow.of(version, protocol)
    for version in (4, 6)
    for protocol in (6, 17)
}
