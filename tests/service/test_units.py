"""The units for systemd: what its own verifier says, and whether a tunnel can live in them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import Pair
from tests.support import sandbox
from tests.support.cli import ROOT
from tests.support.machines import Machine
from tests.support.notify_socket import NotifySocket

UNITS = ROOT / "systemd"
SERVICE = UNITS / "nvpn@.service"
DROP_INS = sorted(UNITS.glob("*.conf"))

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A root directory as an installation leaves it, for systemd to look at."""
    units = tmp_path / "lib/systemd/system"
    units.mkdir(parents=True)
    for unit in (SERVICE, UNITS / "nvpn.target"):
        # There is no nvpn where systemd looks on the machine that tests: any program does.
        text = re.sub(r"^(Exec\w+=)nvpn ", r"\1/bin/true ", unit.read_text(), flags=re.MULTILINE)
        (units / unit.name).write_text(text)
    for page in (ROOT / "man").glob("*.[0-9]"):
        section = tmp_path / "man" / f"man{page.suffix[1:]}"
        section.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, section)
    return tmp_path


def analyze(host: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env={
            **os.environ,
            "MANPATH": f"{host}/man",
            "SYSTEMD_UNIT_PATH": f"{host}/lib/systemd/system:",
            "SYSTEMD_COLORS": "0",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@needs_systemd
def test_systemd_finds_nothing_to_complain_about(host: Path) -> None:
    done = analyze(host, "verify", "nvpn@wg0.service", "nvpn.target")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_systemd_finds_nothing_to_complain_about_in_drop_ins(drop_in: Path, host: Path) -> None:
    directory = host / "lib/systemd/system/nvpn@wg0.service.d"
    directory.mkdir()
    text = drop_in.read_text().replace("/opt/nvpn/bin/nvpn", "/bin/true")
    (directory / drop_in.name).write_text(text)

    done = analyze(host, "verify", "nvpn@wg0.service")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_finds_little_that_is_exposed(host: Path) -> None:
    unit = str(host / "lib/systemd/system/nvpn@.service")
    done = analyze(host, "security", "--offline=yes", "--threshold=25", unit)

    assert done.returncode == 0, done.stdout
    found = re.search(r"exposure level for \S+: (\d+\.\d)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 2.5


def test_the_service_is_named_after_the_interface_and_reloads_by_our_own_verb() -> None:
    text = SERVICE.read_text()

    assert "\nType=notify\n" in text
    assert "\nExecStart=nvpn up --foreground %i\n" in text
    assert "\nExecReload=nvpn reload %i\n" in text
    assert "\nPartOf=nvpn.target\n" in text
    assert sandbox.read_unit(SERVICE)["CapabilityBoundingSet"] == ["CAP_NET_ADMIN"]


def test_every_drop_in_says_what_it_is_for_and_where_it_goes() -> None:
    assert DROP_INS
    for drop_in in DROP_INS:
        text = drop_in.read_text()
        assert text.startswith("# For "), drop_in
        assert "/etc/systemd/system/nvpn@" in text, drop_in
        # A path that may not be there must not keep the tunnel from starting.
        paths = sandbox.read_unit(drop_in).get("ReadWritePaths", [])
        assert all(path.startswith("-/") for path in paths), drop_in


# --- a tunnel in the sandbox ------------------------------------------------------------

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Start:
    """Starts a tunnel as the unit would, with its restrictions and those of drop-ins."""
    if problem := sandbox.missing():
        pytest.skip(problem)

    def run(on: Machine, ear: NotifySocket, *drop_ins: str) -> subprocess.Popen[str]:
        files = [str(SERVICE), *(str(UNITS / f"{name}.conf") for name in drop_ins)]
        for directory in (on.run_directory, on.state_directory):
            directory.mkdir(exist_ok=True)
        binds = [
            *("--bind", str(on.run_directory), "/run/wireguard"),
            *("--bind", str(on.state_directory), "/var/lib/nvpn"),
            *("--bind", str(on.etc), "/etc/nvpn"),
        ]
        # Where systemd would put them: nothing is to be told where they are.
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NVPN_")
        }
        process = subprocess.Popen(
            on.host.argv(
                *(sys.executable, "-m", "tests.support.sandbox", *files, *binds),
                *("--", sys.executable, "-m", "nvpn", "up", "--foreground", "wg0"),
            ),
            env={**environment, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": ear.address},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        on.world.processes.append(process)  # type: ignore[arg-type]
        return process

    return run


def has_status(process: subprocess.Popen[str], name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{process.pid}/status").read_text(), re.M)
    assert found is not None
    return found[1]


@pytest.mark.root
@needs_systemd
def test_a_tunnel_lives_within_what_the_unit_leaves(
    pair: Pair, start: Start, tmp_path: Path
) -> None:
    alice, bob = pair.alice, pair.bob
    for machine in (alice, bob):
        machine.write(pair.configuration(machine))
    bob.nvpn("up", "wg0.toml")
    with NotifySocket(str(tmp_path / "notify")) as ear:
        tunnel = start(alice, ear)
        assert ear.next()["READY"] == "1"
        assert has_status(tunnel, "CapEff") == "0000000000001000"
        assert has_status(tunnel, "NoNewPrivs") == "1"
        assert has_status(tunnel, "Seccomp") == "2"
        assert alice.host.ping("10.9.0.2", count=2) == (2, 2)

        text = pair.configuration(alice).replace('"10.9.0.2/32"', '"10.9.0.2/32", "10.44.0.0/16"')
        alice.write(text)
        alice.nvpn("reload", "wg0")
        assert "10.44.0.0/16" in alice.routes()
        assert "RELOADING" in ear.next()
        assert ear.next() == {"READY": "1", "STATUS": "up"}

        tunnel.send_signal(signal.SIGTERM)
        assert ear.next()["STOPPING"] == "1"
        said, _ = tunnel.communicate(timeout=10)
        assert tunnel.returncode == 0, said
    assert "warning" not in said
    assert alice.is_clean()
    assert (alice.state_directory / "wg0.json").exists()
