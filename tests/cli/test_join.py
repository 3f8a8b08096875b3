"""``nvpn join`` up to the tunnel: a key of one's own, admitted, and a configuration with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from nvpn.channel.messages import Enrol, Enrolled, OtherServer
from nvpn.config.load import load
from nvpn.config.model import HostPort
from nvpn.daemon.leasing import enrolment
from nvpn.daemon.leasing.joining import Joining
from nvpn.errors import Refused
from nvpn.model.clock import SECOND
from nvpn.model.keys import PrivateKey, PublicKey
from nvpn.registry.invitation_text import (
    InvitationText,
    format_invitation,
    parse_invitation,
)
from tests.support.cli import Done, here, nvpn
from tests.support.inviting import invitation_to, inviting_server_beside_us, new_key


@dataclass
class Server:
    """Admits whoever comes, or says no; ``admitted`` are the keys that it was told."""

    secret: PrivateKey = field(default_factory=new_key)
    admitted: list[PublicKey] = field(default_factory=list)
    refusal: Refused | None = None
    others: tuple[OtherServer, ...] = ()
    text: str = ""
    meanwhile: Callable[[], object] = lambda: None

    async def admit(self, peer: PublicKey, request: Enrol) -> Enrolled:
        self.meanwhile()
        if self.refusal is not None:
            raise self.refusal
        self.admitted.append(request.public_key)
        return Enrolled("laptop", ("vpn.example:51820",), "north", self.others)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    server = Server()
    with inviting_server_beside_us(server.secret.public(), server.admit) as (key, place):
        server.text = format_invitation(invitation_to(key, server.secret, place))
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path / "run"))
    running.admitted.clear()
    running.refusal = None
    running.others = ()
    running.meanwhile = lambda: None
    return running


def join(capture: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> Done:
    return less_patience(here(capture, "join", *arguments, *into(directory)))


def into(directory: Path) -> tuple[str, ...]:
    return ("--config", str(directory), "--no-up")


def less_patience(done: Done) -> Done:
    """What it says of a server that a busy machine keeps waiting is left out."""
    said = [line for line in done.err.splitlines(True) if not line.endswith("; still trying\n")]
    return Done(done.status, done.out, "".join(said))


def test_a_guest_makes_its_own_key_and_gets_a_configuration(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = join(capsys, tmp_path, server.text, "--name", "f7vpn")

    assert done.status == 0, done.err
    path = tmp_path / "f7vpn.toml"
    assert done.out == f"{path}\n"
    assert done.err == f"joined as laptop; the configuration is {path}\n"
    config = load(path)
    (peer,) = config.peers
    assert peer.name == "server"
    assert config.interface.private_key is not None
    assert server.admitted == [config.interface.private_key.public()]
    assert peer.server
    assert peer.persistent_keepalive is None
    assert peer.endpoints[1:] == (HostPort("vpn.example", 51820),)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["f7vpn.toml"]


def test_a_guest_is_told_of_how_many_servers_it_knows(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.others = (OtherServer(new_key().public(), "south", ("south.example:51820",)),)
    done = join(capsys, tmp_path, server.text, "--name", "f7two")

    path = tmp_path / "f7two.toml"
    told = f"joined as laptop, a client of 2 servers; the configuration is {path}\n"
    assert (done.status, done.err) == (0, told)
    first, second = load(path).peers
    assert (first.name, second.name) == ("north", "south")
    assert first.server and second.server


def test_what_mail_made_of_an_invitation_is_read_from_standard_input(
    server: Server, tmp_path: Path
) -> None:
    taken = tmp_path / "nvpn0.toml"
    taken.write_text("somebody's")
    torn = "\n  ".join(server.text[at : at + 40] for at in range(0, len(server.text), 40))
    done = less_patience(nvpn("join", "-", *into(tmp_path), stdin=f"\n  {torn}\n"))

    assert done.status == 0, done.err
    (written,) = (file for file in tmp_path.iterdir() if file != taken)
    assert done.out == f"{written}\n"
    assert written.name.startswith("nvpn")
    assert taken.read_text() == "somebody's"


def test_a_refused_guest_leaves_nothing_behind(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.refusal = Refused("the invitation for laptop has been used: ask for a new one")
    done = join(capsys, tmp_path, server.text)

    assert (done.status, done.out) == (1, "")
    assert done.err == "error: the invitation for laptop has been used: ask for a new one\n"
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_kept_when_the_answer_may_have_been_lost_and_used_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if the server had died after it admitted us: the file is what that would leave."""
    invitation = parse_invitation(server.text, wall=time.time_ns())
    with Joining(tmp_path, invitation) as begun:
        begun.keep("f7kept")
        key = PrivateKey(begun.key.reveal())
    done = join(capsys, tmp_path, server.text)

    assert done.status == 0, done.err
    assert server.admitted == [key.public()]
    assert load(tmp_path / "f7kept.toml").interface.private_key == key
    assert [file.name for file in tmp_path.iterdir()] == ["f7kept.toml"]


def test_without_an_answer_the_key_stays_for_the_next_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(place: HostPort) -> NoReturn:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(enrolment, "look_up", look_up)
    nowhere = invitation_to(new_key().public(), new_key(), HostPort("no-such-name.invalid", 51820))
    arguments = ("join", format_invitation(nowhere), "--config", str(tmp_path), "--no-up")
    first = here(capsys, *arguments)
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    second = here(capsys, *arguments)

    assert first.status == second.status == 1
    assert "no-such-name.invalid does not resolve" in first.err
    assert "nothing is lost: run the same command again" in first.err
    assert kept.read_bytes() == content
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_name_that_was_free_and_is_taken_while_the_server_is_asked_is_left_to_who_has_it(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken: list[Path] = []

    def take() -> None:
        (joining,) = tmp_path.glob(".joining-*")
        taken.append(tmp_path / f"{json.loads(joining.read_text())['interface']}.toml")
        taken[0].write_text("# of another join, which was quicker\n")

    server.meanwhile = take
    done = join(capsys, tmp_path, server.text)

    assert done.status == 0, done.err
    path = Path(done.out.rstrip("\n"))
    assert {path, *taken} == set(tmp_path.iterdir()) and path not in taken
    key = load(path).interface.private_key
    assert key is not None and server.admitted == [key.public()]
    assert taken[0].read_text() == "# of another join, which was quicker\n"


def test_a_second_tunnel_to_a_server_is_made_only_by_name(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ("join", server.text, "--config", str(tmp_path), "--no-up")
    assert here(capsys, *again, "--name", "f7one").status == 0
    server.admitted.clear()

    done = here(capsys, *again)

    first = tmp_path / "f7one.toml"
    assert done.status == 1
    assert f"{first}: this host is a client of that server already" in done.err
    assert f"nvpn up {first}" in done.err
    assert server.admitted == []
    assert list(tmp_path.iterdir()) == [first]
    assert here(capsys, *again, "--name", "f7two").status == 0


def texts() -> dict[str, tuple[str, str]]:
    place = HostPort("192.0.2.1", 51820)
    good = format_invitation(invitation_to(new_key().public(), new_key(), place))
    old = InvitationText(
        new_key().public(), new_key(), time.time_ns() - 60 * SECOND, (place,), "laptop"
    )
    middle = len(good) // 2
    other = "A" if good[middle] != "A" else "B"
    return {
        "cut": (good[:-9], "end of the invitation is missing"),
        "mistyped": (good[:middle] + other + good[middle + 1 :], "has a mistake"),
        "expired": (format_invitation(old), "this invitation expired on"),
        "something else": ("hello", "neither an invitation"),
        "without its beginning": (good[5:], "neither an invitation"),
    }


@pytest.mark.parametrize("what", list(texts()))
def test_what_is_no_good_invitation_is_refused_in_one_sentence_that_does_not_repeat_it(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, sentence = texts()[what]
    done = here(capsys, "join", text, "--config", str(tmp_path))

    assert done.status == 1
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert len(text) < 20 or text[10:40] not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_taken_or_cannot_be_one_is_refused_before_anybody_is_asked(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken.conf").write_text("")
    (tmp_path / "leading.toml").symlink_to("nowhere")
    for name, sentence in (
        ("taken", "there already"),
        ("leading", "there already"),
        ("lo", ""),
        ("a name", "an interface"),
    ):
        done = here(capsys, "join", server.text, "--config", str(tmp_path), "--name", name)
        assert done.status == 1
        assert sentence in done.err
    elsewhere = str(tmp_path / "none" / "x.toml")
    for arguments, sentence in (
        (("-o", str(tmp_path / "x.conf")), "ends in .toml"),
        (("-o", elsewhere), "make it first"),
        (("-o", str(tmp_path / "x.toml"), "--config", str(tmp_path)), "does not go with"),
    ):
        done = here(capsys, "join", server.text, *arguments)
        assert done.status == 1
        assert sentence in done.err

    assert server.admitted == []
    assert {file.name for file in tmp_path.iterdir()} == {"taken.conf", "leading.toml"}
