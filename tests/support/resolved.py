"""Machines with an /etc and a /run of their own, and what serves names on them.

Nothing here touches the name servers of the host that the tests run on: every program is
started in a mount namespace in which both directories are copies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.machines import Machine
from tests.support.world import World, wait_until

PEERS: Final = Path("/usr/local/lib/nvpn-peers")
RESOLVED: Final = PEERS / "resolved" / "lib" / "systemd" / "systemd-resolved"
RESOLVECTL: Final = PEERS / "resolved" / "usr" / "bin" / "resolvectl"
RESOLVED_POLICY: Final = (
    PEERS / "resolved" / "usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf"
)
OPENRESOLV: Final = PEERS / "openresolv"

STUB: Final = "../run/systemd/resolve/stub-resolv.conf"

_COPIED: Final = (
    "group", "passwd", "nsswitch.conf", "host.conf", "gai.conf", "hosts", "protocols",
    "services", "localtime", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "machine-id",
    "ssl", "alternatives",
)  # fmt: skip
_USER: Final = "systemd-resolve:x:2953:2953::/:/usr/sbin/nologin\n"


class NamedMachine(Machine):
    """A machine whose /etc/resolv.conf is its own: ``own_etc / "resolv.conf"``."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(world, name)
        self.own_etc = self.directory / "own" / "etc"
        self.own_run = self.directory / "own" / "run"
        self.own_etc.mkdir(parents=True)
        self.own_run.mkdir()
        for entry in _COPIED:
            source = Path("/etc") / entry
            if source.is_dir():
                shutil.copytree(source, self.own_etc / entry, symlinks=True)
            elif source.exists():
                shutil.copyfile(source, self.own_etc / entry)
        with (self.own_etc / "passwd").open("a") as passwd:
            passwd.write(_USER)
        with (self.own_etc / "group").open("a") as group:
            group.write("systemd-resolve:x:2953:\n")
        self.resolv_conf = self.own_etc / "resolv.conf"
        script = (
            f"mount --bind {self.own_etc} /etc && mount --bind {self.own_run} /run"
            " && echo ready && exec sleep 1000"
        )
        self._holder = self.host.start(
            "unshare", "-m", "--propagation", "private", "sh", "-c", script, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    def inside(self, *command: str) -> list[str]:
        """The command, run in all namespaces of the machine."""
        process = str(self._holder.pid)
        return ["nsenter", "-t", process, "-m", "-n", f"--wdns={self.etc}", "--", *command]

    def argv(self, *arguments: str) -> list[str]:
        return self.inside(*super().argv(*arguments)[len(self.host.argv()) :])

    def run(self, *command: str, check: bool = True) -> str:
        """Type any command; its output."""
        done = subprocess.run(
            self.inside(*command),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def ask(self, name: str) -> str:
        """What the C library resolves the name to; empty when it does not."""
        words = self.run("getent", "ahostsv4", name, check=False).split()
        return words[0] if words else ""

    def resolv_conf_now(self) -> tuple[str, object]:
        """The link that it is, or the mode and bytes that it has."""
        if self.resolv_conf.is_symlink():
            return "link", os.readlink(self.resolv_conf)
        return oct(self.resolv_conf.stat().st_mode), self.resolv_conf.read_bytes()

    def start_resolved(self) -> None:
        """A real systemd-resolved and its bus, and /etc/resolv.conf as it wants it."""
        if not RESOLVED.exists():
            pytest.skip("needs systemd-resolved; scripts/install-peers unpacks it")
        policies = self.own_etc / "dbus-1" / "system.d"
        policies.mkdir(parents=True)
        shutil.copy(RESOLVED_POLICY, policies)
        for directory in ("dbus", "systemd"):
            (self.own_run / directory).mkdir()
        self._start("dbus-daemon", "--system", "--nofork", "--nopidfile")
        bus = self.own_run / "dbus" / "system_bus_socket"
        wait_until(bus.exists, 30, "the bus is there")
        self._start(str(RESOLVED))
        wait_until(lambda: "Global" in self.resolvectl("status"), 30, "resolved answers")
        self.resolv_conf.symlink_to(STUB)

    def resolvectl(self, *arguments: str) -> str:
        """Output of the program, empty when it failed."""
        return self.run(str(RESOLVECTL), *arguments, check=False)

    def install_openresolv(self) -> None:
        """A real openresolv, and its entry for the network that is there already."""
        if not OPENRESOLV.exists():
            pytest.skip("needs openresolv; scripts/install-peers unpacks it")
        shutil.copy(OPENRESOLV / "etc" / "resolvconf.conf", self.own_etc)
        # It has its parts in /lib, where they may not be put on a merged-usr host.
        program = (OPENRESOLV / "sbin" / "resolvconf").read_text()
        place = self.directory / "bin"
        place.mkdir()
        installed = place / "resolvconf"
        installed.write_text(
            program.replace("LIBEXECDIR=/lib/", f"LIBEXECDIR={OPENRESOLV}/lib/", 1)
        )
        installed.chmod(0o755)
        self.environment["PATH"] = f"{place}:{os.environ['PATH']}"

    def remount(self, path: str, options: str) -> None:
        """A bind mount of ``path`` onto itself, with options."""
        self.run("mount", "--bind", path, path)
        self.run("mount", "-o", f"remount,bind,{options}", path)

    def _start(self, *command: str) -> None:
        with (self.directory / f"{Path(command[0]).name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.inside(*command), env=self.environment, stdout=log, stderr=log
            )
        self.world.processes.append(process)


def serve_names(machine: Machine, address: str, *records: str, hanging: str = "") -> None:
    """A dnsmasq on the machine: ``name,address`` each (and a TTL), and nothing else.

    ``hanging``: a name, and the address of a server that does not exist, which it asks.
    """
    if shutil.which("dnsmasq") is None:
        pytest.skip("needs dnsmasq; scripts/install-peers installs it")
    machine.host.start(
        "dnsmasq", "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--user=root",
        "--pid-file=", "--bind-interfaces", f"--listen-address={address}",
        *(f"--host-record={record}" for record in records),
        *([f"--server=/{hanging.replace(',', '/')}"] if hanging else []),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: f"{address}:53" in machine.host.run("ss", "-Hlnu"), 30, "dnsmasq listens")
