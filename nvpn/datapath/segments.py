"""How many datagrams one UDP_SEGMENT send may carry on this kernel."""

from __future__ import annotations

import socket
from typing import Final

from nvpn.datapath.ancillary import build_control

MIN_MAX_SEGMENTS: Final = 64
"""UDP_MAX_SEGMENTS of every kernel that has UDP_SEGMENT."""
MAX_MAX_SEGMENTS: Final = 128
"""UDP_MAX_SEGMENTS since Linux 6.10."""


def probe_max_segments() -> int:
    """UDP_MAX_SEGMENTS of this kernel, found by a send to ourselves; 64 in doubt."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as probe:
            probe.bind(("127.0.0.1", 0))
            segments = build_control(4, segment=1)
            probe.sendmsg([bytes(MAX_MAX_SEGMENTS)], segments, 0, probe.getsockname())
    except OSError:
        return MIN_MAX_SEGMENTS
    return MAX_MAX_SEGMENTS
