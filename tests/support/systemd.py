"""A real systemd for a machine of a test, beside whatever runs the host.

It is a user's manager that root runs: it is no first process, and does to services what the
system's does. What it would keep in a home it keeps where the system's has it, and its /run,
/etc/nvpn and /var/lib/nvpn are the machine's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.cli import ROOT
from tests.support.machines import Machine

SYSTEMD = Path("/lib/systemd/systemd")
CANNOT = "systemd cannot run here beside the first process"

_SCRIPT = """
set -e
mkdir -p "$CGROUP"
echo $$ >"$CGROUP/cgroup.procs"
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/wireguard /var/lib/nvpn "$MACHINE/whole-etc/nvpn"
cp /etc/passwd /etc/group "$MACHINE/whole-etc"
mount --bind "$MACHINE/whole-etc" /etc
mount --bind "$MACHINE/run" /run/wireguard
mount --bind "$MACHINE/state" /var/lib/nvpn
mount --bind "$MACHINE/etc" /etc/nvpn
exec "$SYSTEMD" --user --unit=basic.target
"""


class Systemd:
    """Runs until :meth:`close`; units are those of the repository, with a drop-in for the test.

    The drop-in says where nvpn is, and that it may be below a home; how it reports and what
    it may do are as the units have it.
    """

    def __init__(self, machine: Machine, directory: Path) -> None:
        self._machine = machine
        self.said = directory / "said"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name[:5] != "NVPN_"},
            "MACHINE": str(machine.directory),
            "CGROUP": f"{_cgroups()}/nvpn-{os.getpid()}-{machine.host.netns}",
            "SYSTEMD": str(SYSTEMD),
            "SYSTEMD_UNIT_PATH": f"{_write_units(directory, self.said)}:",
            # RuntimeDirectory= and StateDirectory= of a user's manager are below these.
            "XDG_RUNTIME_DIR": "/run",
            "XDG_CONFIG_HOME": "/var/lib",
            "XDG_STATE_HOME": "/var/lib",
        }
        for place in (machine.run_directory, machine.state_directory):
            place.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            # Not by `ip netns exec`, whose /sys has no control groups.
            [
                *("nsenter", f"--net=/run/netns/{machine.host.netns}"),
                *("unshare", "-m", "--propagation", "private", "sh", "-c", _SCRIPT),
            ],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        machine.world.processes.append(self._process)
        deadline = time.monotonic() + 20
        while self.control("is-active", "basic.target").stdout != "active\n":
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                pytest.skip(CANNOT)
            time.sleep(0.1)

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``systemctl``."""
        return subprocess.run(
            [
                *("nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt"),
                *("systemctl", "--user", "--no-pager", *arguments),
            ],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def property(self, unit: str, name: str) -> str:
        """One of ``systemctl show``."""
        return self.control("show", "--value", "-p", name, unit).stdout.strip()

    def close(self) -> None:
        """Stop all services, and the manager."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _cgroups() -> Path:
    """Where systemd puts services."""
    legacy = Path("/sys/fs/cgroup/systemd")
    return legacy if legacy.exists() else Path("/sys/fs/cgroup")


def _write_units(directory: Path, said: Path) -> Path:
    units = directory / "units"
    drop_ins = units / "nvpn@.service.d"
    drop_ins.mkdir(parents=True)
    for name in ("nvpn@.service", "nvpn.target"):
        (units / name).write_text((ROOT / "systemd" / name).read_text())
    nvpn = f"{sys.executable} -m nvpn"
    (drop_ins / "test.conf").write_text(
        f"[Service]\nExecStart=\nExecStart={nvpn} up --foreground %i\n"
        f"ExecReload=\nExecReload={nvpn} reload %i\nEnvironment=PYTHONPATH={ROOT}\n"
        f"ProtectHome=no\nRestartSec=200ms\nStandardError=append:{said}\n"
    )
    return units
