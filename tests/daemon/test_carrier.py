"""Which backend a configuration gets, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.model import BackendWish, InterfaceConfig, TunnelConfig
from nvpn.daemon import kernel_tunnel
from nvpn.daemon.carrier import choose_backend
from nvpn.datapath.choice import VARIABLE, Wish
from nvpn.errors import PlatformError

NONE_HERE = "this kernel has no WireGuard, nor a module with it"


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
