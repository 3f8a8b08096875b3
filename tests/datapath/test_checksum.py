from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from nvpn.datapath.checksum import complement, pseudo_sum, word_sum
from tests.support.cores import checksum


@given(st.binary(max_size=200))
def test_the_checksum_is_that_of_rfc_1071(data: bytes) -> None:
    # Both 0 and 65535 stand for zero; a whole of zeros alone sums up to +0.
    assert complement(word_sum(data)) % 65535 == checksum(data) % 65535


def test_a_sum_that_comes_out_as_zero_is_written_as_zero() -> None:
    assert complement(word_sum(b"\xff\xff")) == 0 == checksum(b"\xff\xff")


@given(st.binary(min_size=8, max_size=8), st.integers(0, 255), st.integers(0, 65535))
def test_the_pseudo_header_of_ipv4_is_summed_up(
    addresses: bytes, protocol: int, length: int
) -> None:
    header = addresses + struct.pack(">BBH", 0, protocol, length)
    assert pseudo_sum(addresses, protocol, length) == word_sum(header)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 255), st.integers(0, 2**17))
def test_the_pseudo_header_of_ipv6_is_summed_up(
    addresses: bytes, protocol: int, length: int
) -> None:
    header = addresses + struct.pack(">IHBB", length, 0, 0, protocol)
    assert pseudo_sum(addresses, protocol, length) == word_sum(header)
