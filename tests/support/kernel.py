"""The Linux kernel's own WireGuard, in a guest whose network card is in a namespace of ours."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.world import Host, World

PROGRAM = Path(__file__).parents[1] / "interop" / "kernel-peer"
UNDERLAY, HOST_UNDERLAY = "10.88.0.2", "10.88.0.1"


@dataclass
class KernelTunnel:
    """``wg0`` in the guest. Its underlay is 10.88.0.2, ours 10.88.0.1."""

    name: str
    private_key: PrivateKey
    directory: Path

    @property
    def public_key(self) -> str:
        return self.private_key.public().base64

    @property
    def endpoint(self) -> str:
        return f"{UNDERLAY}:51820"

    def run(self, *command: str, timeout: float = 180, check: bool = True) -> str:
        done = subprocess.run(
            [str(PROGRAM), "exec", self.name, "--", *command],
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr).decode()
        return done.stdout.decode()

    def wg_set_psk(self, peer: str, psk: PrivateKey | None) -> None:
        text = psk.reveal_base64() if psk else ""
        self.run("sh", "-c", f"echo '{text}' | wg set wg0 peer {peer} preshared-key /dev/stdin")


@contextmanager
def kernel_tunnel(
    world: World, host: Host, address: str, peers: str, key: PrivateKey
) -> Iterator[KernelTunnel]:
    """Boot the guest beside ``host`` with ``wg0`` at ``address`` and these [Peer] sections."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86_64; scripts/install-peers installs it")
    name = f"{world.prefix}k"
    conf = world.directory / "kernel.conf"
    conf.touch(0o600)
    conf.write_text(
        f"[Interface]\nPrivateKey = {key.reveal_base64()}\nListenPort = 51820\n"
        f"Address = {address}\n{peers}"
    )
    try:
        done = subprocess.run(
            [
                *(str(PROGRAM), "up", name, "--netns", host.netns, "--conf", str(conf)),
                *("--underlay", f"{UNDERLAY}/24", "--host-underlay", f"{HOST_UNDERLAY}/24"),
                *("--timeout", "180"),
            ],
            capture_output=True,
            timeout=300,
            check=False,
            env=dict(os.environ),
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        yield KernelTunnel(name, key, world.directory)
    finally:
        subprocess.run([str(PROGRAM), "down", name], capture_output=True, check=False)
