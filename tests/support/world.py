"""Hosts in network namespaces, joined by veth, running any WireGuard implementation.

A :class:`World` makes namespaces and links and removes all of it at the end, whatever
happened. A host runs a tunnel by one of the :data:`ENGINES`: each is a program that takes
an interface name, makes a TUN device and answers `wg` on its control socket, so one test
serves them all.

Control sockets lie in one directory for all namespaces; interface names are therefore
unique over a world.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nvpn.datapath.choice import VARIABLE, Wish, find_missing
from nvpn.model.keys import PrivateKey
from tests.support.pinging import ping

SOCKETS = Path("/var/run/wireguard")
NVPN = (sys.executable, "-m", "nvpn")


def missing() -> str:
    """Why no world can be made here, or an empty string."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    tools = [tool for tool in ("ip", "wg", "ping") if not shutil.which(tool)]
    return f"needs {', '.join(tools)}" if tools else ""


@dataclass(frozen=True)
class Engine:
    """A WireGuard implementation: how to start it for an interface."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """Why it cannot be started here, or an empty string."""
        if self.environment.get(VARIABLE) == Wish.NATIVE.value:
            return str(find_missing() or "")
        if shutil.which(self.command[0]) is None:
            return f"{self.command[0]} is not installed"
        return ""

    @property
    def available(self) -> bool:
        return not self.missing


# Plain "nvpn" has the datapath that the test's environment says.
ENGINES = {
    "nvpn": Engine("nvpn", (*NVPN,), {"LOG_LEVEL": "verbose"}),
    "nvpn-native": Engine("nvpn-native", (*NVPN,), {VARIABLE: "native"}),
    "nvpn-python": Engine("nvpn-python", (*NVPN,), {VARIABLE: "python"}),
    "wireguard-go": Engine("wireguard-go", (os.environ.get("WIREGUARD_GO", "wireguard-go-new"),)),
    "wireguard-go-2022": Engine("wireguard-go-2022", ("wireguard-go",)),
    # Its best on few cores: by default four threads fight over them.
    "boringtun": Engine(
        "boringtun", ("boringtun-cli", "--disable-drop-privileges", "--threads", "1")
    ),
    "gotatun": Engine("gotatun", ("gotatun", "--disable-drop-privileges")),
}


def engine(name: str) -> Engine:
    """The engine, or a skip that says what is missing."""
    found = ENGINES[name]
    if not found.available:
        pytest.skip(f"needs {found.command[0]}; scripts/install-peers installs it")
    return found


@dataclass
class Tunnel:
    """One interface on one host."""

    host: Host
    interface: str
    private_key: PrivateKey
    port: int
    addresses: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None

    @property
    def public_key(self) -> str:
        return self.private_key.public().base64

    def wg_set(self, *arguments: str, stdin: bytes | None = None) -> None:
        self.host.run("wg", "set", self.interface, *arguments, stdin=stdin)

    def add_peer(
        self,
        other: Tunnel,
        *allowed_ips: str,
        endpoint: str | None = None,
        keepalive: int = 0,
        psk: PrivateKey | None = None,
    ) -> None:
        """Let ``other`` be a peer; routes are those of the addresses."""
        arguments = ["peer", other.public_key, "allowed-ips", ",".join(allowed_ips)]
        if endpoint:
            arguments += ["endpoint", endpoint]
        if keepalive:
            arguments += ["persistent-keepalive", str(keepalive)]
        if psk is not None:
            arguments += ["preshared-key", "/dev/stdin"]
        key = psk.reveal_base64().encode() if psk is not None else None
        self.wg_set(*arguments, stdin=key)

    def dump(self) -> dict[str, dict[str, Any]]:
        """`wg show IF dump` by public key."""
        lines = self.host.run("wg", "show", self.interface, "dump").splitlines()[1:]
        peers = {}
        for line in lines:
            key, _, endpoint, allowed, handshake, rx, tx, _ = line.split("\t")
            peers[key] = {
                "endpoint": endpoint,
                "allowed_ips": allowed,
                "handshake": int(handshake),
                "rx": int(rx),
                "tx": int(tx),
            }
        return peers

    def peer(self, other: Tunnel) -> dict[str, Any]:
        return self.dump()[other.public_key]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log else ""

    def kill(self, signum: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(signum)
        self.process.wait(30)


SOCKET_LOST = "Failed to listen on uapi socket: no such file"


class SocketLostError(AssertionError):
    """Somebody took the control socket for a dead one's in the moment before it listened, and
    removed it. `wg show` does so with all that it finds, those of other tests, too; wireguard-go
    does not start then."""


class Host:
    """A network namespace."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.netns = f"{world.prefix}-{name}"
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def argv(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.netns, *command]

    def run(
        self, *command: str, stdin: bytes | None = None, timeout: float = 60, check: bool = True
    ) -> str:
        """Run a command in the namespace and return its output."""
        done = subprocess.run(
            self.argv(*command), input=stdin, capture_output=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.name}: {' '.join(command[:6])}: exit {done.returncode}\n"
                f"{done.stdout.decode()}{done.stderr.decode()}"
            )
        return done.stdout.decode()

    def start(self, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Run a command in the background; the world ends it."""
        process = subprocess.Popen(self.argv(*command), **options)
        self.world.processes.append(process)
        return process

    def tunnel(
        self,
        engine: Engine,
        addresses: tuple[str, ...],
        *,
        port: int = 51820,
        key: PrivateKey | None = None,
        mtu: int = 1420,
        interface: str = "",
    ) -> Tunnel:
        """Start an engine in the foreground, and configure it by `wg` and `ip`."""
        interface = interface or f"{self.world.prefix}{self.name}"[:15]
        tunnel = Tunnel(self, interface, key or PrivateKey(os.urandom(32)), port, addresses)
        self.launch(tunnel, engine, mtu=mtu)
        return tunnel

    def launch(self, tunnel: Tunnel, engine: Engine, *, mtu: int = 1420) -> None:
        """(Re)start a tunnel's engine with its key, port and addresses; peers come after."""
        self.start_engine(tunnel, engine)
        tunnel.wg_set(
            "listen-port",
            str(tunnel.port),
            "private-key",
            "/dev/stdin",
            stdin=tunnel.private_key.reveal_base64().encode(),
        )
        for address in tunnel.addresses:
            quick = ("nodad",) if ":" in address else ()
            self.run("ip", "address", "add", address, "dev", tunnel.interface, *quick)
        self.run("ip", "link", "set", tunnel.interface, "mtu", str(mtu), "up")

    def start_engine(self, tunnel: Tunnel, engine: Engine) -> None:
        """Until it answers; nothing is configured."""
        self.world.sockets.add(SOCKETS / f"{tunnel.interface}.sock")
        tunnel.log = self.world.directory / f"{tunnel.interface}.log"
        try:
            self._start_engine(tunnel, engine)
        except SocketLostError:
            self._start_engine(tunnel, engine)

    def _start_engine(self, tunnel: Tunnel, engine: Engine) -> None:
        assert tunnel.log is not None
        with tunnel.log.open("ab") as log:
            tunnel.process = self.start(
                *engine.command,
                "-f",
                tunnel.interface,
                env={
                    **os.environ,
                    **engine.environment,
                    "NVPN_STATE_DIR": str(self.world.directory / "state"),
                },
                stdout=log,
                stderr=log,
            )
        process = tunnel.process
        assert process is not None

        def is_up() -> bool:
            if process.poll() is not None:
                told = tunnel.log_text()
                lost = SOCKET_LOST in told
                raise (SocketLostError if lost else AssertionError)(f"{engine.name} ended: {told}")
            return self.run("wg", "show", tunnel.interface, check=False) != ""

        wait_until(is_up, 30, f"{engine.name} answers on {tunnel.interface}")

    def ping(
        self,
        address: str,
        *,
        count: int = 3,
        interval: float = 0.05,
        size: int = 56,
        wait: float = 10,
        whole: bool = False,
    ) -> tuple[int, int]:
        """(sent, answered); see :func:`tests.support.pinging.ping`."""
        return ping(
            self.netns,
            address,
            count=count,
            interval=interval,
            size=size,
            wait=wait,
            whole=whole,
        )

    def iperf3(self, address: str, server: Host, *arguments: str, seconds: float = 2) -> Any:
        """Run iperf3 against ``server`` (started for it, once) and return its JSON."""
        log = subprocess.DEVNULL
        process = server.start("iperf3", "-s", "-1", "-B", address, stdout=log, stderr=log)
        wait_until(
            lambda: address in server.run("ss", "-Hltn", "sport = :5201"), 30, "iperf3 listens"
        )
        out = self.run(
            "iperf3", "-J", "-c", address, "-t", str(seconds), *arguments, timeout=seconds + 30
        )
        process.wait(30)
        return json.loads(out)


class World:
    """Namespaces, links and processes that end together."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory = directory
        self.prefix = prefix
        self.hosts: list[Host] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.sockets: set[Path] = set()
        self._subnet = 0

    def host(self, name: str) -> Host:
        host = Host(self, name)
        self.hosts.append(host)
        return host

    def link(self, a: Host, b: Host, *, mtu: int = 1500, subnet: int | None = None) -> int:
        """Join two hosts: 10.77.N.1/2 and fd77:N::1/2 (or the bits of ``subnet``); gives N."""
        self._subnet = self._subnet + 1 if subnet is None else subnet
        n = self._subnet
        ends = [(a, f"v{n}{b.name}"[:15], 1), (b, f"v{n}{a.name}"[:15], 2)]
        subprocess.run(
            ["ip", "link", "add", ends[0][1], "netns", a.netns, "type", "veth",
             "peer", "name", ends[1][1], "netns", b.netns],
            check=True,
        )  # fmt: skip
        for host, device, number in ends:
            host.run("ip", "address", "add", f"10.77.{n}.{number}/24", "dev", device)
            host.run("ip", "address", "add", f"fd77:{n}::{number}/64", "dev", device, "nodad")
            host.run("ip", "link", "set", device, "mtu", str(mtu), "up")
        return n

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + 3
        for process in self.processes:
            try:
                process.wait(max(0.05, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for host in self.hosts:
            pids = subprocess.run(
                ["ip", "netns", "pids", host.netns], capture_output=True, check=False
            ).stdout.split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", host.netns], check=False)
        for path in self.sockets:
            path.unlink(missing_ok=True)


def wait_until(
    is_so: Callable[[], bool], seconds: float, what: str, *, interval: float = 0.02
) -> float:
    """Poll until it is so and return how long it took, or fail with ``what``."""
    start = time.monotonic()
    while not is_so():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(interval)
    return time.monotonic() - start


def is_answering(path: Path) -> bool:
    """Whether a daemon answers on its control socket."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(60)
        try:
            asking.connect(str(path))
            asking.sendall(b"get=1\n\n")
            return asking.recv(1) != b""
        except OSError:
            return False


@contextlib.contextmanager
def new_world(directory: Path) -> Iterator[World]:
    """A world with a name of its own, taken down at the end."""
    why = missing()
    if why:
        pytest.skip(why)
    # Several lanes make some hundreds of them side by side, and nobody else's name will do.
    dice = random.SystemRandom()
    world = World(directory, "w" + "".join(dice.choices(string.ascii_lowercase, k=5)))
    try:
        yield world
    finally:
        world.close()
