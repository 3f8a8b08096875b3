"""One host of the demonstration: what it can do, and bob, who does as he is told."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from nvpn.cli.demonstration import traffic
from nvpn.control import client
from nvpn.errors import NvpnError, PlatformError
from nvpn.model.prefixes import Interface
from nvpn.netconf.linux import LinuxNetconf

INTERFACE: Final = "wg0"
CABLE: Final = "eth0"
PORT: Final = 51820
TRANSFER_PORT: Final = 5201

_SOME_SECRET: Final = "f" * 64
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0

Report = Callable[..., None]
"""Tells the view something: a kind, and what there is to know about it."""


class Host:
    """A host with one cable and one tunnel. Everything raises NvpnError."""

    def __init__(self, name: str, directory: str, report: Report) -> None:
        self.name = name
        self.directory = directory
        self._report = report
        self._daemon: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None

    def connect(self, address: str) -> None:
        """Bring our end of the cable up."""
        netconf = LinuxNetconf()
        try:
            for interface in ("lo", CABLE):
                link = netconf.find_link(interface)
                if link is None:
                    raise PlatformError(f"find {interface} on {self.name}")
                if interface == CABLE:
                    netconf.forbid_link_local(link)
                    netconf.add_address(link, Interface.parse(address))
                netconf.set_link(link, is_up=True)
        finally:
            netconf.close()

    def bring_up(self) -> None:
        """Run the real `nvpn up -f`, and wait until the tunnel is there."""
        self._use_own_directories()
        command = (sys.executable, "-m", "nvpn", "up", "-f", "--log-level", "warning")
        self._log = os.path.join(self.directory, "log")
        with open(self._log, "wb") as log:
            self._daemon = subprocess.Popen(
                [*command, os.path.join(self.directory, f"{INTERFACE}.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_until_up(self) -> None:
        """Until the daemon answers and its routes are there."""
        assert self._daemon is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_up():
            if self._daemon.poll() is not None:
                raise PlatformError(f"bring up the tunnel on {self.name}", hint=self._last_words())
            if time.monotonic() > deadline:
                raise PlatformError(f"bring up the tunnel on {self.name} in time")
            time.sleep(0.02)

    def ping(self, address: str, count: int) -> list[float | None]:
        """Round trips in seconds."""
        try:
            return traffic.ping(address, count=count, interval=0.1)
        except OSError as error:
            raise PlatformError(f"ping {address}", errno=error.errno or 0) from None

    def listen(self, address: str) -> None:
        """Wait for a transfer."""
        self._listener = traffic.listen(address, TRANSFER_PORT)

    def receive(self, sender: str) -> None:
        """Take the transfer that :meth:`listen` waits for, and report it."""
        assert self._listener is not None
        towards = [sender, self.name]
        try:
            total, seconds = traffic.receive(
                self._listener,
                lambda size, so_far: self._report(
                    "progress", towards=towards, bytes=size, seconds=so_far
                ),
            )
        except OSError as error:
            raise PlatformError(f"receive on {self.name}", errno=error.errno or 0) from None
        finally:
            self._listener.close()
        self._report("transfer", towards=towards, bytes=total, seconds=seconds)

    def send(self, address: str, seconds: float) -> None:
        """Send for so long to a host that listens."""
        try:
            traffic.send(address, TRANSFER_PORT, seconds=seconds)
        except OSError as error:
            raise PlatformError(f"send to {address}", errno=error.errno or 0) from None

    def status(self) -> None:
        """Report what `nvpn show` would ask for. Of secrets only that there is one."""
        lines = []
        for line in client.request(INTERFACE, "get"):
            key = line.partition("=")[0]
            secret = key in ("private_key", "preshared_key")
            lines.append(f"{key}={_SOME_SECRET}" if secret else line)
        self._report("status", host=self.name, lines=lines)

    def take_down(self) -> None:
        """End the daemon as `nvpn down` does, and see that it left nothing."""
        if self._daemon is None:
            return
        self._daemon.send_signal(signal.SIGTERM)
        try:
            status = self._daemon.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            raise PlatformError(f"take the tunnel on {self.name} down in time") from None
        if status or self._link_exists():
            raise PlatformError(f"take the tunnel on {self.name} down", hint=self._last_words())

    def _use_own_directories(self) -> None:
        # Both hosts see the same files; each has its own place for sockets and state.
        for variable, name in (("NVPN_RUNTIME_DIR", "run"), ("NVPN_STATE_DIR", "state")):
            path = os.path.join(self.directory, name)
            os.makedirs(path, mode=0o755, exist_ok=True)
            os.environ[variable] = path

    def _is_up(self) -> bool:
        netconf = LinuxNetconf()
        try:
            link = netconf.find_link(INTERFACE)
            return (
                link is not None
                and link.is_up
                and client.is_running(INTERFACE)
                and bool(netconf.routes(link))
            )
        finally:
            netconf.close()

    def _link_exists(self) -> bool:
        netconf = LinuxNetconf()
        try:
            return netconf.find_link(INTERFACE) is not None
        finally:
            netconf.close()

    def _last_words(self) -> str:
        with open(self._log, encoding="utf-8", errors="replace") as log:
            lines = log.read().strip().splitlines()
        return "; ".join(lines[-3:]) or "it said nothing"


class RemoteHost:
    """Bob, seen from alice: each call is one line to him, and one back."""

    def __init__(self, connection: socket.socket) -> None:
        self._stream = connection.makefile("rw", encoding="utf-8")

    def call(self, method: str, *arguments: Any) -> None:
        """Let him do it, and wait until it is done. Raises NvpnError."""
        self.begin(method, *arguments)
        self.finish()

    def begin(self, method: str, *arguments: Any) -> None:
        """Let him do it meanwhile."""
        self._stream.write(json.dumps([method, *arguments]) + "\n")
        self._stream.flush()

    def finish(self) -> None:
        """Wait for what was begun. Raises NvpnError."""
        answer = self._stream.readline()
        if not answer:
            raise PlatformError("go on: the process of the other host ended")
        sentence = json.loads(answer)
        if sentence:
            raise NvpnError(sentence)


def serve(host: Host, connection: socket.socket) -> None:
    """Be bob: do what is asked, one thing at a time, until alice hangs up."""
    stream = connection.makefile("rw", encoding="utf-8")
    for line in stream:
        method, *arguments = json.loads(line)
        try:
            getattr(host, method)(*arguments)
            sentence = ""
        except NvpnError as error:
            sentence = str(error)
        stream.write(json.dumps(sentence) + "\n")
        stream.flush()
