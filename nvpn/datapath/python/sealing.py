"""A superpacket from the TUN device to sealed datagrams, without a loop over its segments.

What it makes equals what ``offloads.read_frame`` and ``Core.send_inner`` make of the
same packet, byte for byte; ``tests/datapath/python/test_batches.py`` holds it to that.
It is for the common case alone: anything odd it leaves to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from nvpn.datapath.inner import padded_size
from nvpn.datapath.keypairs import EXHAUSTED, Keypair
from nvpn.datapath.offloads import (
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    MAX_UDP_PAYLOAD,
    NEEDS_CSUM,
    TCP,
    UDP,
    VirtioHeader,
)
from nvpn.datapath.python.layouts import Layout, Sealed, Shape
from nvpn.wire.constants import TRANSPORT_OVERHEAD

_MAX_LAYOUTS: Final = 64
_BUFFER_BYTES: Final = 1 << 17


class BatchSealer:
    """Owns the buffer that datagrams are made in.

    Args:
        source: what superpackets are read into.
        at: where in it the IP header is.
        max_segments: UDP_MAX_SEGMENTS.
    """

    __slots__ = ("_at", "_layouts", "_max_segments", "_mtu", "_out", "_source", "_view")

    def __init__(self, source: bytearray, at: int, max_segments: int) -> None:
        self._source: Final = source
        self._at: Final = at
        self._view: Final = memoryview(source)[at:]
        self._out: Final = bytearray(_BUFFER_BYTES)
        self._max_segments: Final = max_segments
        self._mtu = -1
        # False: not for us. Looked up by everything that decides that, and the layout.
        self._layouts: dict[tuple[int, ...], Layout | Literal[False]] = {}

    def recognise(self, header: VirtioHeader, size: int, mtu: int) -> Layout | None:
        """How to cut the packet of ``size`` bytes in the source buffer.

        None unless it is an ordinary superpacket.
        """
        flags, gso_type, _, gso_size, start, _ = header
        packet = self._view
        if size < 60 or start not in (20, 40):
            return None
        if mtu != self._mtu:
            self._mtu = mtu
            self._layouts.clear()
        key = flags, gso_type, gso_size, start, packet[0], packet[6], packet[9], packet[start + 12]
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = self._make_layout(*key)
        if not layout or size <= layout.head_size + gso_size:
            return None
        return layout

    def seal(
        self, layout: Layout, size: int, keypair: Keypair, now: int
    ) -> Iterator[Sealed] | None:
        """Cut and seal the packet that ``recognise`` looked at.

        Returns:
            what to send, one after the other; None when this has to go the plain way.
        """
        full, rest = divmod(size - layout.head_size, layout.gso_size)
        if not layout.prepare(self._view, size, keypair.header):
            return None
        counter = keypair.reserve(full + (rest > 0), now)
        if counter == EXHAUSTED:
            return None
        return layout.seal(self._at, full, rest, keypair, counter)

    def _make_layout(
        self,
        flags: int,
        gso_type: int,
        gso_size: int,
        start: int,
        first: int,
        dont_fragment: int,
        time_and_protocol: int,
        data_offset: int,
    ) -> Layout | Literal[False]:
        if not flags & NEEDS_CSUM or not gso_size:
            return False
        # IPv4 without options, and not to be fragmented: then its number means nothing.
        if start == 20 and first == 0x45 and dont_fragment == 0x40:
            protocol, tcp = time_and_protocol, GSO_TCPV4
        elif start == 40 and first >> 4 == 6:
            protocol, tcp = dont_fragment, GSO_TCPV6  # in IPv6 the next header is there
        else:
            return False
        if gso_type == tcp and protocol == TCP:
            head_size = start + (data_offset >> 4) * 4
            if head_size < start + 20:
                return False
        elif gso_type == GSO_UDP_L4 and protocol == UDP:
            head_size = start + 8
        else:
            return False
        if padded_size(head_size + gso_size, self._mtu) + TRANSPORT_OVERHEAD > MAX_UDP_PAYLOAD:
            return False
        return Layout(
            Shape(protocol, start, head_size, gso_size),
            self._mtu,
            self._source,
            self._out,
            self._max_segments,
        )
