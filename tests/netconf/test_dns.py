"""Which way of telling name servers is the right one on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.netconf.dns import find_writers, leads_to_resolved, writer_named


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An /etc, and no resolvconf but what a test installs into ``bin``."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(
        "nvpn.netconf.dns.shutil.which",
        lambda name, path: str(found) if (found := tmp_path / "bin" / name).exists() else None,
    )
    return tmp_path / "etc"


def names(etc: Path) -> list[str]:
    found = [writer.name for writer in find_writers(etc=etc, state=etc.parent / "state")]
    return [name.removeprefix(str(etc.parent)) for name in found]


def install_resolvconf(etc: Path) -> Path:
    program = etc.parent / "bin" / "resolvconf"
    program.write_text("#!/bin/sh\n")
    return program


def test_the_file_is_what_every_host_has(etc: Path) -> None:
    assert names(etc) == ["/etc/resolv.conf"]


@pytest.mark.parametrize(
    "target",
    ["../run/systemd/resolve/stub-resolv.conf", "/run/systemd/resolve/resolv.conf"],
)
def test_a_link_to_resolved_is_for_resolved_and_then_for_the_rest(etc: Path, target: str) -> None:
    (etc / "resolv.conf").symlink_to(target)
    install_resolvconf(etc)
    assert names(etc) == ["systemd-resolved", "resolvconf", "/etc/resolv.conf"]


@pytest.mark.parametrize(
    ("text", "leads"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", True),
        ("# stub\nnameserver\t127.0.0.54 \n", True),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", False),
        ("nameserver 192.0.2.1\n", False),
        ("#nameserver 127.0.0.53\n", False),
        ("nameserver\n", False),
        ("", False),
    ],
)
def test_a_file_leads_to_resolved_when_it_names_nobody_else(
    etc: Path, text: str, leads: bool
) -> None:
    (etc / "resolv.conf").write_text(text)
    assert leads_to_resolved(etc / "resolv.conf") is leads


def test_bytes_that_are_no_text_lead_nowhere(etc: Path) -> None:
    (etc / "resolv.conf").write_bytes(b"\xff\xfe\x00nameserver")
    assert not leads_to_resolved(etc / "resolv.conf")


def test_resolvconf_comes_before_the_file(etc: Path) -> None:
    install_resolvconf(etc)
    assert names(etc) == ["resolvconf", "/etc/resolv.conf"]


def test_what_systemd_calls_resolvconf_is_none(etc: Path) -> None:
    resolvectl = install_resolvconf(etc).rename(etc.parent / "bin" / "resolvectl")
    (etc.parent / "bin" / "resolvconf").symlink_to(resolvectl)
    assert names(etc) == ["/etc/resolv.conf"]


@pytest.mark.parametrize("name", ["systemd-resolved", "resolvconf", "/etc/netns/blue/resolv.conf"])
def test_every_writer_is_found_again_by_its_name(tmp_path: Path, name: str) -> None:
    assert writer_named(name, state=tmp_path).name == name
