"""A real etcd on a loopback port of its own, that can be killed and started again."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.ports import free_ports

UNPACKED: Final = "/usr/local/lib/nvpn-peers/etcd/usr/bin/etcd"
PROGRAM: Final = UNPACKED if Path(UNPACKED).exists() else shutil.which("etcd")

needs_etcd = pytest.mark.skipif(
    PROGRAM is None, reason="etcd is not here: scripts/install-peers brings it"
)


class Etcd:
    """One server, of a cluster of one.

    ``within`` are words that begin its command: those that enter a namespace, say.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        scheme: str = "http",
        listen: str = "127.0.0.1",
        within: tuple[str, ...] = (),
    ) -> None:
        self._directory = directory
        self._options = options
        self._within = within
        self.port, self._peer_port = free_ports(2, socket.SOCK_STREAM)
        self.url = f"{scheme}://{listen}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert PROGRAM is not None
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._within,
                    PROGRAM,
                    f"--data-dir={self._directory / 'data'}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
                    # It is alone: whom should it wait for?
                    "--heartbeat-interval=10",
                    "--election-timeout=60",
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(3000):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=30):
                    return
            except OSError:
                assert self._process is not None and self._process.poll() is None, self.log()
                time.sleep(0.02)
        raise AssertionError(self.log())

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Speak to the gateway without any code of ours."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def save(self) -> None:
        """Make a backup. Not while it runs."""
        shutil.copytree(self._directory / "data", self._directory / "saved")

    def set_back(self) -> None:
        """To the backup. Not while it runs."""
        shutil.rmtree(self._directory / "data")
        (self._directory / "saved").rename(self._directory / "data")

    def log(self) -> str:
        return (self._directory / "log").read_text()
