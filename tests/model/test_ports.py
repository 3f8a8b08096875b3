"""What people write about ports, and what is said to them when it makes no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.model.ports import PortPolicy, PortSpec, parse_port_spec


@pytest.mark.parametrize(
    ("text", "spec", "canonical"),
    [
        ("tcp/22", PortSpec((6,), (22, 22)), "tcp/22"),
        ("udp/1-1023", PortSpec((17,), (1, 1023)), "udp/1-1023"),
        ("sctp/9", PortSpec((132,), (9, 9)), "sctp/9"),
        ("udplite/9-9", PortSpec((136,), (9, 9)), "udplite/9"),
        ("TCP/65535 ", PortSpec((6,), (65535, 65535)), "tcp/65535"),
        ("tcp", PortSpec((6,)), "tcp"),
        ("22", PortSpec((6, 17), (22, 22)), "22"),
        ("1-1023", PortSpec((6, 17), (1, 1023)), "1-1023"),
        ("icmp", PortSpec((1, 58)), "icmp"),
        ("proto/47", PortSpec((47,)), "proto/47"),
        ("proto/0", PortSpec((0,)), "proto/0"),
        ("proto/6", PortSpec((6,)), "tcp"),
        ("proto/58", PortSpec((58,)), "proto/58"),
    ],
)
def test_a_spec_is_read_and_written(text: str, spec: PortSpec, canonical: str) -> None:
    assert parse_port_spec(text) == spec
    assert str(spec) == canonical
    assert parse_port_spec(canonical) == spec


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("", "expected one such as tcp/22"),
        ("*", "expected one such as tcp/22"),
        ("ssh", "expected one such as tcp/22"),
        ("tcp/ssh", "a port is a number"),
        ("tcp/", "a port is a number"),
        ("tcp/-5", "a port is a number"),
        ("tcp/5-", "a port is a number"),
        ("tcp/1-2-3", "a port is a number"),
        ("tcp/022", "a port is a number"),
        ("tcp/١", "a port is a number"),
        ("tcp/0", "write the protocol alone"),
        ("0", "write the protocol alone"),
        ("tcp/65536", "ports are 1 to 65535"),
        ("tcp/1-70000", "ports are 1 to 65535"),
        ("udp/1023-1", "the smaller port comes first: 1-1023"),
        ("22/tcp", "the protocol stands before the port: tcp/22"),
        ("gre/1", "before the slash"),
        ("icmp/8", "icmp has no ports"),
        ("proto/256", "0 to 255"),
        ("proto/1-2", "0 to 255"),
        ("proto/gre", "0 to 255"),
    ],
)
def test_what_makes_no_sense_is_told(text: str, about: str) -> None:
    with pytest.raises(ValueError, match=about):
        parse_port_spec(text)


@given(st.text(alphabet="tcpudicmro/-0123456789 ", max_size=14))
def test_whatever_is_read_is_written_so_that_it_is_read_again(text: str) -> None:
    try:
        spec = parse_port_spec(text)
    except ValueError:
        return
    assert parse_port_spec(str(spec)) == spec


def test_only_what_was_said_is_given() -> None:
    assert not PortPolicy().is_given
    assert PortPolicy(allowed=()).is_given
    assert PortPolicy(disallowed=()).is_given
