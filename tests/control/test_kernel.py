"""The kernel's interfaces as the control room sees them; with real ones: tests/interop."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from nvpn.control import kernel
from nvpn.control.kernel_links import read_names
from nvpn.errors import ControlError, PlatformError
from nvpn.netconf.linux_netlink import pack

DONE = bytes.fromhex("14000000" + "0300" + "0200" + "00" * 12)


def link(name: str, kind: str) -> bytes:
    """What the kernel tells about a link, packed by somebody else than who reads it."""
    message = ifinfmsg()
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", 1420),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]} if kind else {"attrs": []}),
        ("IFLA_TXQLEN", 1),
    ]
    return pack(message, 16, 2)


def test_only_wireguard_links_are_listed_in_the_kernels_order() -> None:
    first = link("lo", "") + link("wg1", "wireguard") + link("nvpn0", "tun")
    assert read_names([first, link("wg0", "wireguard") + DONE]) == ["wg1", "wg0"]


@pytest.mark.parametrize(
    "data",
    [b"", bytes(16), b"\xff" * 64, link("wg0", "wireguard")[:40], DONE],
)
def test_an_answer_that_is_cut_off_is_an_end(data: bytes) -> None:
    assert read_names([data, DONE]) == []


def test_a_loopback_is_no_interface_of_the_kernels() -> None:
    assert not kernel.is_kernel_interface("lo")
    assert "lo" not in kernel.list_kernel_interfaces()


def test_an_interface_that_is_not_there_is_no_such_device() -> None:
    # Where the kernel has WireGuard, only root is told even that.
    with pytest.raises((ControlError, PlatformError)) as refusal:
        kernel.request("k5none", "get")
    assert refusal.value.errno in (errno.ENODEV, errno.EPERM)


def test_what_takes_a_daemon_is_said_to_take_one() -> None:
    with pytest.raises(ControlError) as refusal:
        kernel.request("wg0", "nvpn_reload")
    assert refusal.value.errno == errno.EOPNOTSUPP
    assert "there is no daemon" in str(refusal.value)


def test_a_line_that_is_none_is_refused_before_the_kernel_is_asked() -> None:
    with pytest.raises(ControlError) as refusal:
        kernel.request("wg0", "set", ["listen_port=70000"])
    assert refusal.value.errno == errno.EINVAL


def test_listing_loads_nothing_heavy() -> None:
    code = (
        "import sys, nvpn.control.kernel as kernel; kernel.list_kernel_interfaces();"
        "print(sorted({'pyroute2', 'asyncio', 'dataclasses', 'numpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_asking_loads_no_datapath() -> None:
    code = (
        "import sys, nvpn.control.kernel as kernel\n"
        "try: kernel.request('k5none', 'get')\n"
        "except Exception: pass\n"
        "assert 'pyroute2' in sys.modules\n"
        "print(sorted({'numpy', 'noise'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
