"""Which backend a configuration gets, and what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nvpn.config.model import BackendWish, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.daemon import kernel_tunnel
from nvpn.daemon.carrier import choose_backend
from nvpn.daemon.kernel_tunnel import why_no_kernel
from nvpn.datapath.choice import VARIABLE, Wish
from nvpn.errors import PlatformError
from nvpn.model.keys import PublicKey
from nvpn.model.ports import PortPolicy
from tests.support.machines import Machine

NONE_HERE = "this kernel has no WireGuard, nor a module with it"


PLAIN = '[interface]\nprivate_key = "PRIVATE"\naddress = "10.9.0.1/24"\nbackend = "auto"\n'


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def kernel_is(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    monkeypatch.setattr(kernel_tunnel, "explain_absence", lambda: "" if there else NONE_HERE)


def wanted(backend: BackendWish, datapath: Wish = Wish.AUTO) -> TunnelConfig:
    interface = InterfaceConfig(backend=backend, datapath=datapath)
    return TunnelConfig("wg0", Path("/etc/wireguard/wg0.toml"), interface)


def test_our_own_backend_asks_nobody() -> None:
    ours = (BackendWish.USERSPACE, "")
    assert choose_backend(None) == ours
    assert choose_backend(wanted(BackendWish.USERSPACE)) == ours


def test_the_kernel_is_taken_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_is(monkeypatch, there=True)
    assert choose_backend(wanted(BackendWish.KERNEL)) == (BackendWish.KERNEL, "")
    assert choose_backend(wanted(BackendWish.AUTO)) == (
        BackendWish.KERNEL,
        "this kernel has WireGuard",
    )


def test_without_it_auto_is_our_own_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_is(monkeypatch, there=False)
    assert choose_backend(wanted(BackendWish.AUTO)) == (BackendWish.USERSPACE, NONE_HERE)
    with pytest.raises(PlatformError) as refusal:
        choose_backend(wanted(BackendWish.KERNEL))
    assert str(refusal.value) == (
        f"cannot bring up wg0 by the kernel; {NONE_HERE};"
        ' our own backend can: backend = "userspace"'
    )


def test_who_asks_for_a_datapath_does_not_get_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_is(monkeypatch, there=True)
    assert choose_backend(wanted(BackendWish.AUTO, Wish.PYTHON)) == (
        BackendWish.USERSPACE,
        "the file names a datapath",
    )
    monkeypatch.setenv(VARIABLE, "python")
    assert choose_backend(wanted(BackendWish.AUTO)) == (
        BackendWish.USERSPACE,
        f"{VARIABLE} names a datapath",
    )


def test_who_filters_ports_does_not_get_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel_is(monkeypatch, there=True)
    config = wanted(BackendWish.AUTO)
    peer = PeerConfig(PublicKey(bytes(32)), ports=PortPolicy(allowed=()))
    assert choose_backend(replace(config, peers=(peer,))) == (
        BackendWish.USERSPACE,
        "the file filters ports, which the kernel's cannot",
    )


@pytest.mark.root
def test_people_are_shown_what_carries_their_tunnel_and_why(machine: Machine) -> None:
    machine.environment.pop(VARIABLE, None)
    machine.write(PLAIN)
    machine.nvpn("up", "wg0.toml")
    (shown,) = json.loads(machine.nvpn("show", "wg0", "--json").stdout)["interfaces"]
    if missing := why_no_kernel():
        assert shown["datapath"].partition(" ")[0] in ("native", "python")
        assert shown["datapath_reason"].startswith(missing)
        machine.nvpn("down", "wg0")
        machine.write(PLAIN.replace("auto", "kernel"))
        assert machine.nvpn("up", "wg0.toml", status=1).stderr == (
            f"error: cannot bring up wg0 by the kernel; {missing};"
            ' our own backend can: backend = "userspace"\n'
        )
        assert machine.is_clean()
    else:
        assert shown["datapath"] == "kernel"
        assert shown["datapath_reason"] == "this kernel has WireGuard"
