"""Machines with nvpn on them: a network namespace, a state directory, a runtime directory.

What a user would type is typed here, and what a user would see is looked at. Nothing is
shared with other tests: not even the directory of the control sockets.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from nvpn.model.keys import PrivateKey
from tests.support.world import Host, World, is_answering, wait_until

REPOSITORY = Path(__file__).parents[2]


class Machine:
    """A host of a :class:`World`, and the tunnels that are typed on it."""

    def __init__(self, world: World, name: str) -> None:
        self.host: Host = world.host(name)
        self.world = world
        self.name = name
        self.directory = world.directory / name
        self.etc = self.directory / "etc"
        self.run_directory = self.directory / "run"
        self.state_directory = self.directory / "state"
        self.etc.mkdir(parents=True)
        self.key = PrivateKey(os.urandom(32))
        self.environment = {
            **os.environ,
            "NVPN_RUNTIME_DIR": str(self.run_directory),
            "NVPN_STATE_DIR": str(self.state_directory),
            "PYTHONPATH": str(REPOSITORY),
        }

    @property
    def public_key(self) -> str:
        return self.key.public().base64

    def argv(self, *arguments: str) -> list[str]:
        return self.host.argv(sys.executable, "-m", "nvpn", *arguments)

    def nvpn(
        self, *arguments: str, status: int | None = 0, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Type a command and wait for its end."""
        done = subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            cwd=self.etc,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if status is not None:
            assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Type a command that stays in front."""
        process = subprocess.Popen(
            self.argv(*arguments),
            env=self.environment,
            cwd=self.etc,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.world.processes.append(process)  # type: ignore[arg-type]
        return process

    @staticmethod
    def wait_until_ready(process: subprocess.Popen[str]) -> str:
        """Read what a tunnel in front says until it is ready, and return that.

        Its device, its routes and its socket are there before.
        """
        assert process.stdout is not None
        too_late = threading.Timer(60, process.kill)
        too_late.start()
        said = line = ""
        try:
            while "ready: " not in line:
                line = process.stdout.readline()
                assert line, f"it ended before it was ready: {said}"
                said += line
        finally:
            too_late.cancel()
        return said

    def write(self, text: str, name: str = "wg0.toml") -> Path:
        """A configuration; ``PRIVATE`` in it stands for this machine's key."""
        path = self.etc / name
        path.write_text(text.replace("PRIVATE", self.key.reveal_base64()))
        path.chmod(0o600)
        return path

    def ip(self, *arguments: str) -> Any:
        return json.loads(self.host.run("ip", "-j", *arguments) or "[]")

    def has_link(self, name: str = "wg0") -> bool:
        return any(link["ifname"] == name for link in self.ip("link"))

    def routes(self, name: str = "wg0") -> set[str]:
        found = [*self.ip("-4", "route", "show", "dev", name)]
        found += self.ip("-6", "route", "show", "dev", name)
        return {route["dst"] for route in found}

    def addresses(self, name: str = "wg0") -> set[str]:
        (link,) = self.ip("address", "show", name)
        return {f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"]}

    def record(self, name: str = "wg0") -> Any:
        done = self.nvpn("show", name, "dump")
        return [line.split("\t") for line in done.stdout.splitlines()]

    def pid(self, name: str = "wg0") -> int:
        """The daemon's."""
        for entry in Path("/proc").iterdir():
            try:
                if (entry / "comm").read_text().strip() != f"nvpn-{name}":
                    continue
                if os.readlink(entry / "ns/net") == self._namespace():
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError(f"no daemon of {name} on {self.name}")

    def kill(self, name: str = "wg0") -> None:
        """SIGKILL for the daemon: afterwards neither it nor its interface is there."""
        pid = self.pid(name)
        held = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([held], [], [], 60)[0], "the kernel ends whom it kills"
        finally:
            os.close(held)
        wait_until(lambda: not self.has_link(name), 30, "the interface went with its process")

    def wait_until_serving(self, name: str = "wg0") -> None:
        """Until the daemon answers. Its socket's file is there a moment before."""
        wait_until(lambda: is_answering(self.run_directory / f"{name}.sock"), 30, "it answers")

    def is_clean(self, name: str = "wg0") -> bool:
        """Whether nothing is left of a tunnel."""
        return not self.has_link(name) and not (self.run_directory / f"{name}.sock").exists()

    def outside(self) -> str:
        """All that a tunnel may leave outside its interface: rules, routes, firewall tables."""
        commands = (
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "ip -6 route show table all",
            "nft list ruleset",
        )
        lines = "".join(self.host.run(*command.split()) for command in commands).splitlines()
        # The kernel's own come when it is done looking for another host of the address.
        return "\n".join(line for line in lines if " proto kernel" not in line)

    def wait_until_clean(self, seconds: float = 30, name: str = "wg0") -> float:
        return wait_until(lambda: self.is_clean(name), seconds, f"{name} is gone")

    def _namespace(self) -> str:
        status = os.stat(f"/var/run/netns/{self.host.netns}")
        return f"net:[{status.st_ino}]"
