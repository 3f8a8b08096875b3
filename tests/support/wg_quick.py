"""The real wg-quick, told to take nvpn for its userspace implementation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.world import Host


def has_kernel_wireguard() -> bool:
    probe = f"w5{os.getpid()}"[:15]
    made = subprocess.run(
        ["ip", "link", "add", probe, "type", "wireguard"], capture_output=True, check=False
    )
    subprocess.run(["ip", "link", "delete", probe], capture_output=True, check=False)
    return made.returncode == 0


class WgQuick:
    """wg-quick on one host. Looks for sockets where wg does, so names have to be unique."""

    def __init__(self, host: Host, directory: Path) -> None:
        if not shutil.which("wg-quick"):
            pytest.skip("needs wg-quick")
        if has_kernel_wireguard():
            pytest.skip("wg-quick prefers this kernel's own WireGuard")
        self._host = host
        program = directory / "nvpn"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nvpn "$@"\n')
        program.chmod(0o755)
        self._environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "WG_QUICK_USERSPACE_IMPLEMENTATION": str(program),
            "NVPN_STATE_DIR": str(directory / "state"),
        }
        self._environment.pop("NVPN_RUNTIME_DIR", None)

    def __call__(self, verb: str, path: Path) -> str:
        """What it wrote, which is every command that it ran."""
        done = subprocess.run(
            self._host.argv("wg-quick", verb, str(path)),
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout
