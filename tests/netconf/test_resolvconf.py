"""resolvconf is run with what each kind of it understands. (A real one: tests/daemon.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.netconf import resolvconf
from nvpn.netconf.api import Link
from nvpn.netconf.dns import WriterAbsentError
from nvpn.netconf.resolvconf import ResolvconfWriter

LINK = Link(7, "wg0", 1420, True)
WANTED = NameServers((bytes([10, 0, 0, 1]), bytes(15) + b"\x01"), ("inside.test", "lab.test"))

RECORD = """#!/bin/sh
echo "$*" >> {log}
cat >> {log}
"""
DEBIANS = """#!/bin/sh
case " $* " in
    *" -m "*|*" -x "*|*" -f "*) echo "Usage: resolvconf (-d IFACE|-a IFACE|-u)"; exit 99;;
esac
echo "$*" >> {log}
cat >> {log}
"""


class Place:
    """A resolvconf of a test's own, and what it was told."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.etc = directory / "etc"
        self.log = directory / "log"
        self.program = directory / "resolvconf"
        monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")

    def install(self, script: str) -> ResolvconfWriter:
        self.program.write_text(script.format(log=self.log))
        self.program.chmod(0o755)
        return ResolvconfWriter(etc=self.etc)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_these_servers_and_no_others_are_asked(place: Place) -> None:
    writer = place.install(RECORD)

    writer.set(LINK, WANTED)
    writer.unset(LINK)

    assert place.log.read_text() == (
        "-a wg0 -m 0 -x\nnameserver 10.0.0.1\nnameserver ::1\nsearch inside.test lab.test\n"
        "-d wg0 -f\n"
    )


def test_search_domains_alone_exclude_nobody(place: Place) -> None:
    place.install(RECORD).set(LINK, NameServers((), ("inside.test",)))
    assert place.log.read_text() == "-a wg0 -m 0\nsearch inside.test\n"


def test_debians_is_asked_without_what_it_lacks(place: Place) -> None:
    (place.etc / "resolvconf").mkdir(parents=True)
    order = place.etc / "resolvconf" / "interface-order"
    order.write_text("# first\nlo.inet6\nlo*\ntun*\n")
    writer = place.install(DEBIANS)

    writer.set(LINK, NameServers((bytes([10, 0, 0, 1]),)))
    writer.unset(LINK)

    assert place.log.read_text() == "-a lo.wg0\nnameserver 10.0.0.1\n-d lo.wg0\n"


def test_a_refusal_is_told_in_its_words(place: Place) -> None:
    writer = place.install("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    with pytest.raises(PlatformError) as caught:
        writer.set(LINK, WANTED)
    assert str(caught.value) == "cannot set name servers by resolvconf; it says: no such luck"


def test_one_that_does_not_end_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvconf, "_SECONDS", 0.2)
    writer = place.install("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(PlatformError, match=r"it did not end within 0\.1 seconds"):
        writer.set(LINK, WANTED)


def test_a_service_that_it_leaves_running_is_not_waited_for(place: Place) -> None:
    writer = place.install("#!/bin/sh\nsleep 5 &\n")
    assert writer.set(LINK, WANTED) == ()


def test_none_is_absent_and_its_entries_are_gone_with_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolvconf, "find_resolvconf", lambda: None)
    with pytest.raises(WriterAbsentError):
        ResolvconfWriter(etc=place.etc).set(LINK, WANTED)
    ResolvconfWriter(etc=place.etc).unset(LINK)
