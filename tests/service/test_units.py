"""The units for systemd: what its own verifier says, and whether a tunnel can live in them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.conftest import Pair
from tests.support import sandbox
from tests.support.cli import ROOT
from tests.support.machines import Machine
from tests.support.notify_socket import NotifySocket
from tests.support.resolved import NamedMachine
from tests.support.world import World

UNITS = ROOT / "systemd"
SERVICE = UNITS / "nvpn@.service"
DROP_INS = sorted(UNITS.glob("*.conf"))

NAME_SERVER = 'dns = "10.9.0.2"\n'

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
@pytest.mark.once
def test_systemd_finds_nothing_to_complain_about(host: Path) -> None:
    done = analyze(host, "verify", "nvpn@wg0.service", "nvpn.target")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.once
@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_systemd_finds_nothing_to_complain_about_in_drop_ins(drop_in: Path, host: Path) -> None:
    directory = host / "lib/systemd/system/nvpn@wg0.service.d"
    directory.mkdir()
    text = drop_in.read_text().replace("/opt/nvpn/bin/nvpn", "/bin/true")
    (directory / drop_in.name).write_text(text)

    done = analyze(host, "verify", "nvpn@wg0.service")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.once
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


class Unit:
    """Starts tunnels as the unit would, with its restrictions and those of drop-ins."""

    def __init__(self, ear: NotifySocket) -> None:
        self.ear = ear

    def start(self, on: Machine, *drop_ins: str, status: str = "up") -> subprocess.Popen[str]:
        """One that is ready, with such a status."""
        tunnel = self._run(on, *drop_ins)
        while "READY" not in (message := self.ear.next()):
            pass
        assert re.fullmatch(status, message["STATUS"], re.DOTALL), message
        return tunnel

    def fail(self, on: Machine, *drop_ins: str) -> str:
        """What one said that did not start."""
        refused = self._run(on, *drop_ins)
        said, _ = refused.communicate(timeout=30)
        assert refused.returncode == 1, said
        return said

    def _run(self, on: Machine, *drop_ins: str) -> subprocess.Popen[str]:
        files = [str(SERVICE), *(str(UNITS / f"{name}.conf") for name in drop_ins)]
        # Where systemd has them: nothing has to be told where they are.
        places = {
            "/etc/nvpn": on.etc,
            "/run/wireguard": on.run_directory,
            "/var/lib/nvpn": on.state_directory,
        }
        enter = on.host.argv
        if isinstance(on, NamedMachine):
            enter = on.inside
        else:
            etc = on.directory / "root-etc"
            (etc / "nvpn").mkdir(parents=True, exist_ok=True)
            (etc / "resolv.conf").write_text("nameserver 192.0.2.53\n")
            places = {"/etc": etc, **places}
        for directory in places.values():
            directory.mkdir(exist_ok=True)
        binds = [word for to, at in places.items() for word in ("--bind", str(at), to)]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NVPN_")
        }
        process = subprocess.Popen(
            enter(
                *(sys.executable, "-m", "tests.support.sandbox", *files, *binds),
                *("--", sys.executable, "-m", "nvpn", "up", "--foreground", "wg0"),
            ),
            env={**environment, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": self.ear.address},
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        on.world.processes.append(process)  # type: ignore[arg-type]
        return process


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    if problem := sandbox.missing():
        pytest.skip(problem)
    with NotifySocket(str(tmp_path / "notify")) as ear:
        yield Unit(ear)


def end(tunnel: subprocess.Popen[str]) -> str:
    """Stop it as systemd does; all that it said."""
    tunnel.send_signal(signal.SIGTERM)
    said, _ = tunnel.communicate(timeout=30)
    assert tunnel.returncode == 0, said
    return said


def of_process(tunnel: subprocess.Popen[str], name: str) -> str:
    found = re.search(rf"^{name}:\s*(.*)$", Path(f"/proc/{tunnel.pid}/status").read_text(), re.M)
    assert found is not None
    return found[1]


@pytest.mark.root
@needs_systemd
def test_a_tunnel_lives_within_what_the_unit_leaves(pair: Pair, unit: Unit) -> None:
    alice, bob = pair.alice, pair.bob
    for machine in (alice, bob):
        machine.write(pair.configuration(machine))
    bob.nvpn("up", "wg0.toml")
    tunnel = unit.start(alice)
    assert of_process(tunnel, "CapEff") == "0000000000001000"
    assert of_process(tunnel, "NoNewPrivs") == "1"
    assert of_process(tunnel, "Seccomp") == "2"
    assert alice.host.ping("10.9.0.2", count=2) == (2, 2)

    text = pair.configuration(alice).replace('"10.9.0.2/32"', '"10.9.0.2/32", "10.44.0.0/16"')
    alice.write(text)
    alice.nvpn("reload", "wg0")
    assert "10.44.0.0/16" in alice.routes()
    assert "RELOADING" in unit.ear.next()
    assert unit.ear.next() == {"READY": "1", "STATUS": "up"}

    assert "warning" not in end(tunnel)
    assert unit.ear.next()["STOPPING"] == "1"
    assert alice.is_clean()
    assert (alice.state_directory / "wg0.json").exists()


@pytest.mark.root
@needs_systemd
def test_default_routes_and_the_kill_switch_need_no_drop_in(pair: Pair, unit: Unit) -> None:
    alice = pair.alice
    rules = alice.host.run("ip", "rule")
    text = pair.configuration(alice).replace('"10.9.0.2/32"', '"0.0.0.0/0", "::/0"')
    alice.write(text.replace("listen_port", "kill_switch = true\nlisten_port"))

    tunnel = unit.start(alice)

    assert "suppress_prefixlength 0" in alice.host.run("ip", "rule")
    assert "nvpn-wg0" in alice.host.run("nft", "list", "tables")
    assert alice.host.run("sysctl", "-n", "net.ipv4.conf.all.src_valid_mark").strip() == "1"
    assert "warning" not in end(tunnel)
    assert alice.host.run("ip", "rule") == rules
    assert alice.host.run("nft", "list", "tables") == ""


@pytest.mark.root
@needs_systemd
def test_hooks_get_what_they_need_from_their_drop_in_and_only_from_it(
    pair: Pair, unit: Unit
) -> None:
    alice = pair.alice
    lock = Path(f"/run/nvpn-{alice.host.netns}")  # as iptables takes one there
    hook = f"ip netns exec {pair.bob.host.netns} cat <(echo there) && touch {lock}"
    text = pair.configuration(alice)
    alice.write(text.replace("listen_port", f'post_up = "{hook}"\nlisten_port'))

    assert "cannot run PostUp hook 1 of wg0" in unit.fail(alice)
    assert alice.is_clean()

    tunnel = unit.start(alice, "hooks")
    assert "there" in end(tunnel)
    lock.unlink()


@pytest.mark.root
@needs_systemd
def test_resolv_conf_is_written_with_its_drop_in_and_a_warning_without(
    pair: Pair, unit: Unit
) -> None:
    alice = pair.alice
    resolv = alice.directory / "root-etc/resolv.conf"
    text = pair.configuration(alice)
    alice.write(text.replace("listen_port", f"{NAME_SERVER}listen_port"))

    tunnel = unit.start(alice, status=".*Read-only file system.*")
    assert resolv.read_text() == "nameserver 192.0.2.53\n"
    end(tunnel)
    unit.ear.rest()

    tunnel = unit.start(alice, "resolv-conf")
    assert "nameserver 10.9.0.2" in resolv.read_text()
    assert "warning" not in end(tunnel)
    assert resolv.read_text() == "nameserver 192.0.2.53\n"


@pytest.mark.root
@needs_systemd
def test_systemd_resolved_is_told_without_any_drop_in(world: World, unit: Unit) -> None:
    alice = NamedMachine(world, "a")
    alice.start_resolved()
    alice.write(f'[interface]\nprivate_key = "PRIVATE"\naddress = "10.9.0.1/24"\n{NAME_SERVER}')

    tunnel = unit.start(alice)

    assert "DNS Servers: 10.9.0.2" in alice.resolvectl("status", "wg0")
    assert "warning" not in end(tunnel)


@pytest.mark.root
@needs_systemd
def test_a_tunnel_saves_itself_with_its_drop_in_and_a_warning_without(
    pair: Pair, unit: Unit
) -> None:
    alice = pair.alice
    text = pair.configuration(alice)
    path = alice.write(text.replace("listen_port", "save_config = true\nlisten_port"))
    before = path.read_text()

    for drop_ins in ((), ("save-config",)):
        tunnel = unit.start(alice, *drop_ins)
        alice.nvpn("set", "wg0", "listen-port", "51999")
        said = end(tunnel)
        unit.ear.rest()
        if drop_ins:
            assert "warning" not in said
            assert path.read_text() == before.replace("51820", "51999", 1)
        else:
            assert "Read-only file system" in said
            assert path.read_text() == before


@pytest.mark.root
@needs_systemd
def test_a_server_forwards_and_counts_within_what_the_unit_leaves(pair: Pair, unit: Unit) -> None:
    alice, bob = pair.alice, pair.bob
    server = (
        '[server]\npool = "10.9.0.0/24"\nnat = true\n[metrics]\nlisten = "127.0.0.1:586"\n'
        '[interface]\nprivate_key = "PRIVATE"\naddress = "10.9.0.1/24"\nlisten_port = 443\n'
        f'[[peer]]\nname = "bob"\npublic_key = "{bob.public_key}"\n'
    )
    alice.write(server)
    bob.write(
        f'[interface]\nprivate_key = "PRIVATE"\n[[peer]]\npublic_key = "{alice.public_key}"\n'
        'server = true\nendpoint = "10.77.1.1:443"\n'
    )
    said = unit.fail(alice)
    assert "ports below 1024 need CAP_NET_BIND_SERVICE: for the unit by low-port.conf" in said

    tunnel = unit.start(alice, "low-port")
    bob.nvpn("up", "wg0.toml")
    assert bob.host.ping("10.9.0.1", count=1) == (1, 1)
    assert alice.host.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    assert "masquerade" in alice.host.run("nft", "list", "ruleset")
    fetch = (
        "exec 3<>/dev/tcp/127.0.0.1/586; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    )
    assert "wireguard_received_bytes" in alice.host.run("bash", "-c", fetch)
    assert "warning" not in end(tunnel)
    assert alice.host.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "0"
    assert alice.host.run("nft", "list", "ruleset") == ""
    bob.nvpn("down", "wg0")


@pytest.mark.root
@needs_systemd
def test_another_namespace_can_be_had_with_its_drop_in(pair: Pair, unit: Unit) -> None:
    alice, bob = pair.alice, pair.bob
    home = f'netns = "{bob.host.netns}"\nlisten_port'
    alice.write(pair.configuration(alice).replace("listen_port", home))

    assert "Operation not permitted" in unit.fail(alice)

    tunnel = unit.start(alice, "netns")
    assert bob.has_link("wg0")
    assert not alice.has_link("wg0")
    end(tunnel)
    assert not bob.has_link("wg0")


@pytest.mark.root
@needs_systemd
def test_an_interface_may_be_moved_to_where_its_tunnel_cannot_look(pair: Pair, unit: Unit) -> None:
    alice, bob = pair.alice, pair.bob
    for machine in (alice, bob):
        machine.write(pair.configuration(machine))
    bob.nvpn("up", "wg0.toml")
    tunnel = unit.start(alice)

    elsewhere = alice.world.host("c")
    alice.host.run("ip", "link", "set", "wg0", "netns", elsewhere.netns)
    elsewhere.run("ip", "address", "add", "10.9.0.1/24", "dev", "wg0")
    elsewhere.run("ip", "link", "set", "wg0", "up")

    assert elsewhere.ping("10.9.0.2", count=2) == (2, 2)
    assert "is not followed: cannot enter a network namespace" in end(tunnel)
