"""resolv.conf is replaced at once, shared by several tunnels, and put back as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import parse_address
from nvpn.netconf import resolv_conf
from nvpn.netconf.api import Link
from nvpn.netconf.resolv_conf import FileWriter

OLD = b"# by hand\nnameserver 192.0.2.1\nsearch old.test\noptions edns0 trust-ad\n"
DHCP = b"nameserver 192.0.2.77\n"
ONE, TWO, THREE = (Link(number, f"wg{number}", 1420, True) for number in (1, 2, 3))


class Place:
    """An /etc and a state directory of a test's own."""

    def __init__(self, directory: Path) -> None:
        self.etc = directory / "etc"
        self.etc.mkdir()
        self.state = directory / "state"
        self.path = self.etc / "resolv.conf"
        self.path.write_bytes(OLD)
        self.path.chmod(0o640)

    def writer(self) -> FileWriter:
        """As each daemon has its own."""
        return FileWriter(self.path, state=self.state)

    def servers(self) -> list[str]:
        lines = self.path.read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith("nameserver")]

    def names(self) -> set[str]:
        return set(os.listdir(self.etc))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def servers(*addresses: str, search: tuple[str, ...] = ()) -> NameServers:
    return NameServers(tuple(parse_address(address) for address in addresses), search)


def test_the_file_says_who_wrote_it_where_the_old_one_is_and_whom_to_ask(place: Place) -> None:
    wanted = servers("10.0.0.1", "fd00::1", search=("inside.test", "lab.test"))

    assert place.writer().set(ONE, wanted) == ()

    assert place.path.read_text() == (
        "# written by nvpn for wg1; the old file is resolv.conf.nvpn-backup\n"
        "search inside.test lab.test\n"
        "nameserver 10.0.0.1\n"
        "nameserver fd00::1\n"
        "options edns0 trust-ad\n"
    )
    assert place.path.stat().st_mode & 0o777 == 0o644
    assert (place.etc / "resolv.conf.nvpn-backup").read_bytes() == OLD


def test_the_old_file_comes_back_as_the_very_same_file(place: Place) -> None:
    before = place.path.stat()

    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().unset(ONE)

    after = place.path.stat()
    assert place.path.read_bytes() == OLD
    assert (after.st_ino, after.st_mode, after.st_uid) == (
        before.st_ino,
        before.st_mode,
        before.st_uid,
    )
    assert place.names() == {"resolv.conf"}
    assert os.listdir(place.state) == []


def test_a_symbolic_link_comes_back_as_one(place: Place) -> None:
    target = place.etc / "elsewhere"
    place.path.rename(target)
    place.path.symlink_to("elsewhere")

    place.writer().set(ONE, servers("10.0.0.1"))

    assert not place.path.is_symlink()
    assert b"options edns0 trust-ad" in place.path.read_bytes()
    assert target.read_bytes() == OLD
    place.writer().unset(ONE)
    assert os.readlink(place.path) == "elsewhere"
    assert place.names() == {"resolv.conf", "elsewhere"}


def test_a_link_to_nowhere_comes_back_too(place: Place) -> None:
    place.path.unlink()
    place.path.symlink_to("/nowhere/at/all")

    place.writer().set(ONE, servers("10.0.0.1"))
    assert place.servers() == ["10.0.0.1"]
    place.writer().unset(ONE)

    assert os.readlink(place.path) == "/nowhere/at/all"


def test_what_was_not_there_is_not_there_afterwards(place: Place) -> None:
    place.path.unlink()

    place.writer().set(ONE, servers("10.0.0.1"))
    assert place.servers() == ["10.0.0.1"]
    place.writer().unset(ONE)

    assert place.names() == set()


def test_an_empty_file_is_a_file(place: Place) -> None:
    place.path.write_bytes(b"")

    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().unset(ONE)

    assert place.path.read_bytes() == b""


def test_search_domains_alone_leave_the_servers(place: Place) -> None:
    place.writer().set(ONE, servers(search=("inside.test",)))

    assert place.servers() == ["192.0.2.1"]
    assert b"search inside.test\n" in place.path.read_bytes()


def test_more_servers_than_are_ever_asked_are_said(place: Place) -> None:
    many = [f"10.0.0.{number}" for number in range(1, 6)]

    (sentence,) = place.writer().set(ONE, servers(*many))

    assert sentence == f"{place.path}: only the first 3 name servers are ever asked"
    assert place.servers() == many[:3]


# --- several tunnels ----------------------------------------------------------------------


def test_who_came_last_wins_and_the_one_below_follows(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().set(TWO, servers("10.0.0.2"))
    assert place.servers() == ["10.0.0.2"]

    place.writer().unset(TWO)
    assert place.servers() == ["10.0.0.1"]
    place.writer().unset(ONE)
    assert place.path.read_bytes() == OLD


def test_one_in_the_middle_leaves_without_a_trace(place: Place) -> None:
    for number, link in enumerate((ONE, TWO, THREE), 1):
        place.writer().set(link, servers(f"10.0.0.{number}"))

    place.writer().unset(TWO)
    assert place.servers() == ["10.0.0.3"]
    place.writer().unset(ONE)
    assert place.servers() == ["10.0.0.3"]
    place.writer().unset(THREE)
    assert place.path.read_bytes() == OLD


def test_another_wish_keeps_its_place(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().set(TWO, servers("10.0.0.2"))

    place.writer().set(ONE, servers("10.0.0.9"))
    assert place.servers() == ["10.0.0.2"]
    place.writer().set(TWO, servers("10.0.0.8"))
    assert place.servers() == ["10.0.0.8"]
    place.writer().unset(TWO)

    assert place.servers() == ["10.0.0.9"]


def test_unset_again_or_without_set_changes_nothing(place: Place) -> None:
    place.writer().unset(ONE)
    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().unset(TWO)
    assert place.servers() == ["10.0.0.1"]
    for _ in range(2):
        place.writer().unset(ONE)
        assert place.path.read_bytes() == OLD


def test_many_daemons_at_once_leave_it_as_it_was(place: Place) -> None:
    """Each has its own open directory, and so its own lock."""

    def come_and_go(number: int) -> None:
        link = Link(number, f"wg{number}", 1420, True)
        for _ in range(3):
            place.writer().set(link, servers(f"10.0.0.{number}"))
            assert place.path.read_bytes().startswith(b"# written by nvpn for wg")
            place.writer().unset(link)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(come_and_go, range(1, 5)))

    assert place.path.read_bytes() == OLD
    assert place.names() == {"resolv.conf"}


# --- others write, too --------------------------------------------------------------------


def test_what_somebody_else_wrote_meanwhile_stays_at_the_end(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    place.path.write_bytes(DHCP)

    place.writer().unset(ONE)

    assert place.path.read_bytes() == DHCP
    assert place.names() == {"resolv.conf"}


def test_what_somebody_else_wrote_meanwhile_is_the_old_file_of_the_next_set(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    place.path.write_bytes(DHCP)

    place.writer().set(ONE, servers("10.0.0.1"))
    assert place.servers() == ["10.0.0.1"]
    place.writer().unset(ONE)

    assert place.path.read_bytes() == DHCP


def test_a_file_of_somebody_else_survives_the_end_of_one_of_two(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().set(TWO, servers("10.0.0.2"))
    place.path.write_bytes(DHCP)

    place.writer().unset(TWO)
    assert place.path.read_bytes() == DHCP
    place.writer().unset(ONE)

    assert place.path.read_bytes() == DHCP
    assert place.names() == {"resolv.conf"}


def test_a_backup_that_was_deleted_is_no_reason_to_leave_no_file(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    (place.etc / "resolv.conf.nvpn-backup").unlink()

    with pytest.raises(PlatformError, match=r"nvpn-backup is gone; write .*/resolv\.conf anew"):
        place.writer().unset(ONE)

    assert place.servers() == ["10.0.0.1"]


def test_our_file_is_known_even_when_the_state_is_lost(place: Place) -> None:
    place.writer().set(ONE, servers("10.0.0.1"))
    (place.state / "resolv.stack").unlink()

    place.writer().set(ONE, servers("10.0.0.2"))
    place.writer().unset(ONE)

    assert place.path.read_bytes() == OLD


@pytest.mark.parametrize("nonsense", [b"", b"{", b"[]", b'{"claims": 7}', b"\xff\x00"])
def test_nonsense_on_disk_is_no_state(place: Place, nonsense: bytes) -> None:
    place.state.mkdir()
    (place.state / "resolv.stack").write_bytes(nonsense)

    place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().unset(ONE)

    assert place.path.read_bytes() == OLD


# --- kills --------------------------------------------------------------------------------


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("step", ["_back_up", "_write"])
@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
def test_a_kill_at_any_step_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, step: str, is_before: bool
) -> None:
    real: Callable[..., None] = getattr(FileWriter, step)

    def killed(*arguments: object) -> None:
        if not is_before:
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FileWriter, step, killed)
        with pytest.raises(Killed):
            place.writer().set(ONE, servers("10.0.0.1"))

    place.writer().set(ONE, servers("10.0.0.2"))
    assert place.servers() == ["10.0.0.2"]
    place.writer().unset(ONE)
    assert place.path.read_bytes() == OLD
    assert place.names() == {"resolv.conf"}


def test_a_kill_while_a_second_tunnel_comes_does_not_take_ours_for_the_old_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    place.writer().set(ONE, servers("10.0.0.1"))
    with monkeypatch.context() as patch:
        patch.setattr(FileWriter, "_write", killed)
        with pytest.raises(Killed):
            place.writer().set(TWO, servers("10.0.0.2"))

    place.writer().unset(TWO)
    place.writer().unset(ONE)

    assert place.path.read_bytes() == OLD


def test_the_claim_of_a_killed_daemon_does_not_come_up_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    with monkeypatch.context() as patch:
        patch.setattr(resolv_conf, "identify_process", lambda _: f"{dead.pid} 1 ?")
        place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().set(TWO, servers("10.0.0.2"))

    place.writer().unset(TWO)

    assert place.path.read_bytes() == OLD


def test_a_number_that_another_process_has_by_now_is_no_life(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(resolv_conf, "identify_process", lambda _: f"{os.getpid()} 1 ?")
        place.writer().set(ONE, servers("10.0.0.1"))
    place.writer().set(TWO, servers("10.0.0.2"))

    place.writer().unset(TWO)

    assert place.path.read_bytes() == OLD


# --- refusals -----------------------------------------------------------------------------


def test_a_write_that_fails_leaves_everything_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resolv_conf, "_create", refuse)
        with pytest.raises(PlatformError, match=r"cannot write .*/resolv\.conf: No space left"):
            place.writer().set(ONE, servers("10.0.0.1"))

    assert place.path.read_bytes() == OLD
    assert place.names() == {"resolv.conf"}
    assert os.listdir(place.state) == []


def test_a_directory_of_its_own_is_made_and_removed(place: Place) -> None:
    path = place.etc / "netns" / "blue" / "resolv.conf"
    writer = FileWriter(path, state=place.state)

    writer.set(ONE, servers("10.0.0.1"))
    place.writer().set(ONE, servers("10.0.0.2"))
    assert path.read_text().splitlines()[1:] == ["nameserver 10.0.0.1"]
    assert place.servers() == ["10.0.0.2"]
    writer.unset(ONE)

    assert not path.parent.exists()
    assert place.servers() == ["10.0.0.2"]
    place.writer().unset(ONE)
    assert place.path.read_bytes() == OLD


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_mount_point_is_written_in_place(place: Place, tmp_path: Path) -> None:
    """As containers have it: no rename is allowed there."""
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    script = f"""
import os
from pathlib import Path
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link
from nvpn.netconf.resolv_conf import FileWriter
writer = FileWriter(Path({str(place.path)!r}), state=Path({str(place.state)!r}))
link = Link(1, "wg1", 1420, True)
for _ in range(2):
    writer.set(link, NameServers((bytes([10, 0, 0, 1]),)))
    print(Path({str(place.path)!r}).read_text().splitlines()[1], end=" ")
writer.unset(link)
print(sorted(os.listdir({str(place.etc)!r})))
"""
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount --bind "$1" "$2" && exec "$3" -c "$4"', "sh",
         str(outside), str(place.path), sys.executable, script],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout == "nameserver 10.0.0.1 nameserver 10.0.0.1 ['resolv.conf']\n"
    assert outside.read_bytes() == OLD
