from __future__ import annotations

import errno
import fcntl
import os
import socket

import pytest

from nvpn.errors import PlatformError
from nvpn.overlay.linux import adopt_tun, open_tun, tun_name

needs_tun = pytest.mark.skipif(
    not (os.access("/dev/net/tun", os.R_OK | os.W_OK) and os.geteuid() == 0),
    reason="needs root and /dev/net/tun",
)


@needs_tun
@pytest.mark.root
def test_an_open_device_has_its_name_and_never_blocks_or_leaks_into_children() -> None:
    tun = open_tun("e4tun%d")
    try:
        assert tun.name.startswith("e4tun") and tun.name[5:].isdigit()
        assert tun.name in {name for _, name in socket.if_nameindex()}
        assert tun_name(tun.fd) == tun.name
        assert not os.get_blocking(tun.fd)
        assert fcntl.fcntl(tun.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert tun.vnet_hdr and tun.tso
    finally:
        tun.close()
    assert tun.name not in {name for _, name in socket.if_nameindex()}


@needs_tun
@pytest.mark.root
def test_plain_packets_are_had_on_request() -> None:
    tun = open_tun("e4tun%d", vnet_hdr=False)
    try:
        assert (tun.vnet_hdr, tun.tso, tun.uso) == (False, False, False)
    finally:
        tun.close()


@needs_tun
@pytest.mark.root
@pytest.mark.parametrize("vnet_hdr", [False, True])
def test_a_descriptor_opened_elsewhere_is_adopted_as_it_is(vnet_hdr: bool) -> None:
    tun = open_tun("e4tun%d", vnet_hdr=vnet_hdr)
    try:
        handed = os.dup(tun.fd)
        os.set_inheritable(handed, True)
        os.set_blocking(handed, True)
        adopted = adopt_tun(handed)
        assert (adopted.name, adopted.vnet_hdr) == (tun.name, vnet_hdr)
        assert not os.get_blocking(handed) and not os.get_inheritable(handed)
        adopted.close()
    finally:
        tun.close()


@needs_tun
@pytest.mark.root
def test_a_name_in_use_is_explained() -> None:
    tun = open_tun("e4tun%d")
    try:
        with pytest.raises(PlatformError, match=f"cannot create TUN device {tun.name}") as caught:
            open_tun(tun.name)
        assert caught.value.errno == errno.EBUSY
        assert "another" in caught.value.hint
    finally:
        tun.close()


@needs_tun
@pytest.mark.root
def test_a_name_of_another_kind_of_interface_is_explained() -> None:
    with pytest.raises(PlatformError, match="no TUN device"):
        open_tun("lo")


@pytest.mark.parametrize("name", ["", "a" * 16, "ü" * 8, "a/b", ".", ".."])
def test_an_impossible_name_is_refused_before_the_kernel_is_asked(name: str) -> None:
    with pytest.raises(PlatformError, match="1 to 15 bytes"):
        open_tun(name)


def test_a_descriptor_that_is_no_tun_device_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(PlatformError, match=f"cannot use descriptor {reader}"):
            adopt_tun(reader)
    finally:
        os.close(reader)
        os.close(writer)
