"""Names resolve through the tunnel while it is up, and as before when it is down again.

One tunnel to a far host with a real dnsmasq serves all tests; what differs is how the near
host resolves names.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nvpn.daemon import name_service
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.name_service import NameService, undo_dns
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link
from nvpn.netconf.resolv_conf import FileWriter
from tests.daemon.conftest import Pair
from tests.support.machines import Machine
from tests.support.resolved import STUB, NamedMachine, serve_names
from tests.support.world import World, new_world

OLD = b"nameserver 127.0.0.1\nsearch old.test\noptions edns0 timeout:1 attempts:1\n"
NAME, WHERE = "printer.inside.test", "10.20.0.7"
SET_LINK_1 = """
from nvpn.errors import NvpnError
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link
from nvpn.netconf.resolved import ResolvedWriter
try:
    ResolvedWriter().set(Link(1, "lo", 65536, True), NameServers((bytes(4),)))
except NvpnError as error:
    print(f"{type(error).__name__}: {error}")
"""
DNS = 'dns = "10.9.0.2"\ndns_search = "inside.test"\n'


# --- on a real host -----------------------------------------------------------------------


def hold_time_until(moment: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass on the loop before: until then a busy machine may take its own."""
    loop = asyncio.get_running_loop()
    now, begun = loop.time, loop.time()
    monkeypatch.setattr(loop, "time", lambda: now() if moment.is_set() else begun)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with new_world(tmp_path_factory.mktemp("names")) as made:
        yield made


@pytest.fixture(scope="module")
def far(world: World) -> Machine:
    """Where dnsmasq is."""
    return Machine(world, "b")


@pytest.fixture(scope="module")
def near(world: World, far: Machine) -> NamedMachine:
    near = NamedMachine(world, "a")
    pair = Pair(near, far)
    world.link(near.host, far.host)
    far.write(pair.configuration(far))
    far.nvpn("up", "wg0.toml")
    serve_names(far, "10.9.0.2", f"{NAME},{WHERE}")
    return near


@pytest.fixture
def host(near: NamedMachine, far: Machine) -> Iterator[NamedMachine]:
    """The near host with a plain resolv.conf, and whatever a test does to it undone."""
    near.write(Pair(near, far).configuration(near).replace("[[peer]]", f"{DNS}[[peer]]"))
    near.resolv_conf.unlink(missing_ok=True)
    near.resolv_conf.write_bytes(OLD)
    near.resolv_conf.chmod(0o640)
    environment = dict(near.environment)
    yield near
    near.environment.clear()
    near.environment.update(environment)
    if near.has_link():
        near.nvpn("down", "wg0", status=None)


@pytest.mark.root
def test_the_file_leads_into_the_tunnel_and_back(host: NamedMachine) -> None:
    before = host.resolv_conf_now()
    assert host.ask(NAME) == ""

    assert host.nvpn("up", "wg0.toml").stderr == ""

    assert host.ask(NAME) == WHERE
    assert host.ask("printer") == WHERE
    assert b"options edns0 timeout:1 attempts:1\n" in host.resolv_conf.read_bytes()
    assert host.nvpn("down", "wg0").stderr == ""
    assert host.resolv_conf_now() == before
    assert host.ask(NAME) == ""
    assert not list(host.own_etc.glob("*nvpn*"))
    assert not list(host.state_directory.glob("*resolv*"))


@pytest.mark.root
def test_resolved_is_told_and_its_file_left_alone(host: NamedMachine) -> None:
    host.resolv_conf.unlink()
    host.start_resolved()
    assert host.ask(NAME) == ""

    assert host.nvpn("up", "wg0.toml").stderr == ""

    assert host.resolv_conf_now() == ("link", STUB)
    assert WHERE in host.resolvectl("query", NAME)
    status = host.resolvectl("status", "wg0")
    assert "10.9.0.2" in status
    assert "DNS Domain: inside.test ~." in status
    assert "+DefaultRoute" in status
    # Through the stub, as every program asks that knows nothing of resolved.
    assert host.ask(NAME) == WHERE
    assert host.ask("printer") == WHERE

    # Its number is another link's in another network namespace.
    said = host.run("unshare", "-n", sys.executable, "-c", SET_LINK_1)
    assert said == (
        "WriterAbsentError: cannot set name servers by systemd-resolved;"
        " it serves another network namespace than ours\n"
    )

    # A changed file changes over.
    file = host.etc / "wg0.toml"
    file.write_text(file.read_text().replace(DNS, ""))
    host.nvpn("reload", "wg0")
    assert "10.9.0.2" not in host.resolvectl("status", "wg0")

    assert host.nvpn("down", "wg0").stderr == ""
    assert host.resolv_conf_now() == ("link", STUB)


@pytest.mark.root
def test_a_bus_that_says_nothing_costs_a_warning_and_no_tunnel(host: NamedMachine) -> None:
    host.resolv_conf.write_text("nameserver 127.0.0.53\n")
    before = host.resolv_conf_now()
    silent = host.directory / "silent"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(silent))
        listener.listen()
        host.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={silent}"

        up = host.nvpn("up", "wg0.toml")

    assert up.stderr == (
        "warning: cannot set name servers by systemd-resolved; the system bus did not answer"
        " within 4 seconds; the tunnel goes on without them\n"
    )
    assert host.host.ping("10.9.0.2", count=1) == (1, 1)
    assert host.resolv_conf_now() == before
    assert host.nvpn("down", "wg0").returncode == 0


@pytest.mark.root
def test_resolved_that_is_not_there_leaves_it_to_the_file(host: NamedMachine) -> None:
    """The link to it outlives it; and on this host there is no bus either."""
    host.resolv_conf.unlink()
    host.resolv_conf.symlink_to(STUB)
    host.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={host.directory / 'nowhere'}"

    assert host.nvpn("up", "wg0.toml").stderr == ""

    assert host.ask(NAME) == WHERE
    host.nvpn("down", "wg0")
    assert host.resolv_conf_now() == ("link", STUB)


@pytest.mark.root
def test_openresolv_is_told_and_told_again(host: NamedMachine) -> None:
    host.install_openresolv()
    host.run("sh", "-c", "resolvconf -a eth0 < /etc/resolv.conf")
    before = host.resolv_conf_now()
    assert host.ask(NAME) == ""

    assert host.nvpn("up", "wg0.toml").stderr == ""

    assert host.ask(NAME) == WHERE
    assert host.ask("printer") == WHERE
    assert b"127.0.0.1" not in host.resolv_conf.read_bytes()  # exclusively
    assert host.nvpn("down", "wg0").stderr == ""
    assert host.resolv_conf_now() == before
    assert host.run("resolvconf", "-i").split() == ["eth0"]


@pytest.mark.root
@pytest.mark.parametrize("then", ["down", "up"])
def test_what_a_killed_daemon_left_is_put_back(host: NamedMachine, then: str) -> None:
    before = host.resolv_conf_now()
    host.nvpn("up", "wg0.toml")
    host.kill()
    assert host.resolv_conf_now() != before

    host.nvpn(then, "wg0.toml")

    if then == "up":
        assert host.ask(NAME) == WHERE
        host.nvpn("down", "wg0")
    assert host.resolv_conf_now() == before
    assert not list(host.own_etc.glob("*nvpn*"))


@pytest.mark.root
def test_an_etc_that_is_read_only_costs_a_warning_and_no_tunnel(host: NamedMachine) -> None:
    host.remount("/etc", "ro")
    try:
        up = host.nvpn("up", "wg0.toml")
        assert up.stderr == (
            "warning: cannot write /etc/resolv.conf: Read-only file system; under systemd it"
            " takes the drop-in resolv-conf.conf; the tunnel goes on without them\n"
        )
        assert host.host.ping("10.9.0.2", count=1) == (1, 1)
        host.nvpn("down", "wg0")
    finally:
        host.run("umount", "/etc")


@pytest.mark.root
def test_a_mounted_file_is_changed_and_put_back_in_place(host: NamedMachine) -> None:
    """As containers have it."""
    host.run("mount", "--bind", "/etc/resolv.conf", "/etc/resolv.conf")
    try:
        assert host.nvpn("up", "wg0.toml").stderr == ""
        assert host.ask(NAME) == WHERE
        host.nvpn("down", "wg0")
        assert host.resolv_conf_now() == ("0o100640", OLD)
    finally:
        host.run("umount", "/etc/resolv.conf")


@pytest.mark.root
def test_no_dns_leaves_the_file_alone(host: NamedMachine) -> None:
    file = host.etc / "wg0.toml"
    file.write_text(file.read_text().replace(DNS, 'dns = "off"\n'))
    before = host.resolv_conf_now()

    host.nvpn("up", "wg0.toml")

    assert host.resolv_conf_now() == before


@pytest.mark.root
def test_a_namespace_gets_names_and_its_host_keeps_its_own(host: NamedMachine) -> None:
    before = host.resolv_conf_now()
    host.run("ip", "netns", "add", "blue")
    file = host.etc / "wg0.toml"
    file.write_text(file.read_text().replace(DNS, f'{DNS}netns = "blue"\n'))
    in_blue = ("ip", "netns", "exec", "blue", "getent", "ahostsv4")

    assert host.nvpn("up", "wg0.toml").stderr == ""

    assert host.run(*in_blue, "printer").split()[0] == WHERE
    assert host.ask(NAME) == ""
    assert host.resolv_conf_now() == before
    host.nvpn("down", "wg0")
    assert not (host.own_etc / "netns" / "blue").exists()
    host.run("ip", "netns", "delete", "blue")


# --- the service itself ---------------------------------------------------------------------


@dataclass
class Service:
    """A :class:`NameService` over an /etc of its own."""

    etc: Path
    link: Link
    leftovers: Leftovers
    warnings: list[str] = field(default_factory=list)

    def __call__(self, *, netns: str = "") -> NameService:
        return NameService(
            self.link, self.leftovers, warn=self.warnings.append, netns=netns, etc=self.etc
        )

    def servers(self, file: str = "resolv.conf") -> list[str]:
        lines = (self.etc / file).read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("nameserver")]


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("nvpn.netconf.dns.find_resolvconf", lambda: None)
    (tmp_path / "state").mkdir()
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "resolv.conf").write_bytes(OLD)
    leftovers = Leftovers(str(tmp_path / "state" / "wg0.leftovers"))
    return Service(etc, Link(7, "wg0", 1420, True), leftovers)


def servers(*last: int) -> NameServers:
    return NameServers(tuple(bytes([10, 0, 0, number]) for number in last))


def test_another_value_changes_over_and_none_takes_back(service: Service) -> None:
    async def play() -> None:
        names = service()
        await names.set(servers(1))
        assert service.servers() == ["10.0.0.1"]
        await names.set(servers(2))
        assert service.servers() == ["10.0.0.2"]
        await names.set(None)
        assert (service.etc / "resolv.conf").read_bytes() == OLD
        await names.set(servers(3))
        assert service.servers() == ["10.0.0.3"]
        await names.unset()
        await names.unset()

    asyncio.run(play())

    assert (service.etc / "resolv.conf").read_bytes() == OLD
    assert service.warnings == []
    assert "dns" not in service.leftovers.pending()


def test_what_is_noted_undoes_it(service: Service) -> None:
    asyncio.run(service().set(servers(1)))
    note = service.leftovers.pending()["dns"]

    for _ in range(2):
        undo_dns("wg0", note)
        assert (service.etc / "resolv.conf").read_bytes() == OLD


@pytest.mark.parametrize(
    "note", [None, 7, [], {}, {"writer": 7}, {"writer": "/x", "link": "wg0", "index": "1"}]
)
def test_a_note_that_is_none_undoes_nothing(service: Service, note: Any) -> None:
    undo_dns("wg0", note)
    assert (service.etc / "resolv.conf").read_bytes() == OLD


def test_what_resolved_knew_is_gone_with_the_link(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No bus is needed for that, and its number may be another link's by now."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    for name, index in (("gone0", 999_999), ("lo", 999_999), ("gone0", 1)):
        undo_dns(name, {"writer": "systemd-resolved", "link": name, "index": index})


def test_a_named_namespace_has_a_file_of_its_own(service: Service) -> None:
    names = service(netns="blue")

    asyncio.run(names.set(servers(1)))
    assert service.servers("netns/blue/resolv.conf") == ["10.0.0.1"]
    assert (service.etc / "resolv.conf").read_bytes() == OLD
    asyncio.run(names.unset())

    assert not (service.etc / "netns" / "blue").exists()
    assert service.warnings == []


def test_a_namespace_that_has_no_name_gets_a_warning(service: Service) -> None:
    asyncio.run(service(netns="/proc/1/ns/net").set(servers(1)))

    assert service.warnings == [
        "name servers are not set: /proc/1/ns/net is a path, and only a named network namespace"
        f" has a resolv.conf of its own, in {service.etc}/netns/NAME"
    ]
    assert (service.etc / "resolv.conf").read_bytes() == OLD


def test_a_writer_that_hangs_is_not_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, released = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hangs.set()
        released.wait(30)

    monkeypatch.setattr(name_service, "_SET_SECONDS", 0.05)
    monkeypatch.setattr(name_service, "_UNSET_SECONDS", 0.05)
    monkeypatch.setattr(FileWriter, "set", hang)
    monkeypatch.setattr(FileWriter, "unset", hang)

    async def play() -> None:
        hold_time_until(hangs, monkeypatch)
        names = service()
        await names.set(servers(1))
        await names.unset()

    asyncio.run(play())
    released.set()
    for thread in threading.enumerate():
        if thread.name == "dns":
            thread.join(30)

    way = service.etc / "resolv.conf"
    assert service.warnings == [
        f"cannot set name servers by {way} within 0.05 seconds; the tunnel goes on without them",
        f"cannot take back name servers by {way} within 0.05 seconds",
    ]


def test_a_writer_that_hung_when_it_set_is_not_overtaken_by_what_takes_it_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, released, taken_back = threading.Event(), threading.Event(), threading.Event()
    set_at_last, unset = FileWriter.set, FileWriter.unset

    def hang(writer: FileWriter, link: Link, wanted: NameServers) -> tuple[str, ...]:
        hangs.set()
        assert released.wait(30)
        return set_at_last(writer, link, wanted)

    def take_back(writer: FileWriter, link: Link) -> None:
        unset(writer, link)
        taken_back.set()

    monkeypatch.setattr(name_service, "_SET_SECONDS", 0.05)
    monkeypatch.setattr(FileWriter, "set", hang)
    monkeypatch.setattr(FileWriter, "unset", take_back)

    async def play() -> None:
        hold_time_until(hangs, monkeypatch)
        names = service()
        await names.set(servers(1))
        taking_back = asyncio.ensure_future(names.unset())
        await asyncio.sleep(0.05)
        assert not taken_back.is_set()
        released.set()
        await taking_back
        assert taken_back.wait(30)

    asyncio.run(play())

    assert (service.etc / "resolv.conf").read_bytes() == OLD
