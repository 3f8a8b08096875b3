from __future__ import annotations

import errno
import os
import pty
import re
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from nvpn.backend.api import Backend
from nvpn.cli.rates import Rate, Rates
from nvpn.cli.rows import format_rows
from nvpn.control import client
from nvpn.control.records import TunnelRecord
from nvpn.errors import PlatformError
from nvpn.model.keys import PublicKey
from nvpn.model.snapshot import PeerSnapshot, TunnelSnapshot
from tests.cli.test_table import draw
from tests.support.cli import NVPN, clean_environment, here
from tests.support.control_socket import RecordingBackend, RunningServer
from tests.support.records import NOW, peer, tunnel
from tests.support.scenarios import A, B

KEY = peer(1).public_key


# --- rates ------------------------------------------------------------------------------


def test_a_rate_is_what_came_between_two_looks() -> None:
    rates = Rates()
    one = tunnel(peer(1, rx_bytes=1000, tx_bytes=0))
    rates.look([one], 10)
    assert rates.of(one) == {}
    two = tunnel(peer(1, rx_bytes=3000, tx_bytes=500), peer(2))
    rates.look([two], 12)
    assert rates.of(two) == {KEY: Rate(1000, 250)}


def test_counters_that_begin_anew_have_no_rate() -> None:
    rates = Rates()
    rates.look([tunnel(peer(1, rx_bytes=1000))], 10)
    again = tunnel(peer(1, rx_bytes=10))
    rates.look([again], 12)
    assert rates.of(again) == {}
    rates.look([again], 12)
    assert rates.of(again) == {}


def test_a_peer_of_two_tunnels_has_two_rates() -> None:
    rates = Rates()
    pair = [tunnel(peer(1, rx_bytes=0), name=name) for name in ("wg0", "wg1")]
    rates.look(pair, 1)
    later = [
        tunnel(peer(1, rx_bytes=count), name=name) for name, count in (("wg0", 7), ("wg1", 9))
    ]
    rates.look(later, 2)
    assert [rates.of(one)[KEY].received for one in later] == [7, 9]


# --- drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 80, 110, 132])
def test_rates_stand_in_the_table_at_every_width(width: int) -> None:
    record = tunnel(peer(1, name="laptop"), peer(2))
    text = draw(record, width, rates={KEY: Rate(2048, 0.1)})
    assert text.count("↓ 2.00 KiB/s") == (2 if width > 40 else 1), "the peer's, and the sum"
    assert "laptop" in text
    idle = draw(record, width, rates={})
    assert "/s" not in idle.replace("rx/s", "").replace("tx/s", "")
    assert draw(record, width) == draw(record, width, rates=None)


def test_rates_that_come_and_go_move_nothing() -> None:
    record = tunnel(peer(1, name="laptop"))
    busy = draw(record, 132, rates={KEY: Rate(9999, 123_456_789)}).splitlines()
    idle = draw(record, 132, rates={}).splitlines()
    places = [
        next(line for line in lines if "laptop" in line).index("10.0.0.1/32")
        for lines in (busy, idle)
    ]
    assert places[0] == places[1]


def test_rates_stand_in_rows_beside_the_amounts() -> None:
    record = tunnel(peer(1, name="laptop"), peer(2, name="phone"))
    lines = format_rows([record], NOW, rates={KEY: Rate(2048, 1)}).splitlines()
    assert re.split(r"\s{2,}", lines[1].strip()) == [
        "PEER", "ENDPOINT", "HANDSHAKE", "RX/S", "TX/S", "RECEIVED", "SENT", "ALLOWED IPS"
    ]  # fmt: skip
    row = next(line for line in lines if "laptop" in line)
    assert re.split(r"\s{2,}", row.strip())[3:7] == [
        "2.00 KiB/s", "1 B/s", "1.25 GiB", "340 MiB"
    ]  # fmt: skip
    assert lines[1].index("RECEIVED") + len("RECEIVED") == row.index("1.25 GiB") + len("1.25 GiB")


# --- watched ----------------------------------------------------------------------------


class Daemon:
    """A tunnel whose peers receive as much as a test says."""

    def __init__(self, name: str, *keys: PublicKey) -> None:
        self.backend = RecordingBackend(
            TunnelSnapshot(name, peers=tuple(PeerSnapshot(key, name="peer") for key in keys))
        )
        self.server = RunningServer(name, self._backend)

    async def _backend(self) -> Backend:
        return self.backend

    def receive(self, count: int) -> None:
        shown = self.backend.shown
        self.backend.shown = replace(
            shown, peers=tuple(replace(one, rx_bytes=one.rx_bytes + count) for one in shown.peers)
        )


@contextmanager
def daemon(name: str, *keys: PublicKey) -> Iterator[Daemon]:
    made = Daemon(name, *keys)
    with made.server:
        yield made


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NVPN_RUNTIME_DIR", str(tmp_path))
    return tmp_path


class Watching:
    """``nvpn show --watch``, whose output is read up to what is waited for."""

    def __init__(self, process: subprocess.Popen[bytes], output: int) -> None:
        self.process = process
        self.seen = ""
        self._output = output

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 30
        self.seen = ""
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self.seen += os.read(self._output, 1 << 16).decode(errors="replace")

    def end(self, number: int) -> int:
        """Its status, and all that it still had to say in ``seen``."""
        self.process.send_signal(number)
        late = threading.Timer(60, self.process.kill)
        late.start()
        rest = b""
        try:
            while chunk := os.read(self._output, 1 << 16):
                rest += chunk
        except OSError:
            pass  # EIO: the terminal has nobody at its other end
        self.seen = rest.decode(errors="replace")
        status = self.process.wait(30)
        late.cancel()
        return status


@contextmanager
def watching(
    *arguments: str, output: tuple[int, int], columns: int = 110, types: bool = False
) -> Iterator[Watching]:
    ours, theirs = output
    process = subprocess.Popen(
        [*NVPN, "show", "--watch", *arguments],
        stdin=theirs if types else subprocess.DEVNULL,
        stdout=theirs,
        env=clean_environment(COLUMNS=str(columns), TERM="xterm-256color"),
    )
    os.close(theirs)
    try:
        yield Watching(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_through_a_pipe_each_table_follows_the_last_until_ctrl_c(directory: Path) -> None:
    with daemon("wg0", A) as wg0, watching("0.1", output=os.pipe()) as watched:
        watched.wait_for("─╯\n\n")
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n╭─  wg0 ", watched.seen)
        assert "\x1b" not in watched.seen
        wg0.receive(1 << 30)  # in a second or in some: that is much in each
        watched.wait_for("iB/s")
        assert watched.end(signal.SIGINT) == 0


def test_tunnels_may_come_and_go_while_they_are_watched(directory: Path) -> None:
    with watching("0.1", output=os.pipe()) as watched:
        watched.wait_for("no tunnel is up")
        with daemon("wg0", A):
            watched.wait_for("  wg0  ")
            with daemon("wg1", B):
                watched.wait_for("  wg1  ")
        watched.wait_for("no tunnel is up")
        assert watched.end(signal.SIGINT) == 0


def test_one_may_be_watched_before_it_is_there(directory: Path) -> None:
    with daemon("wg0", A), watching("wg1", output=os.pipe()) as watched:
        watched.wait_for("wg1 is not up")
        assert watched.end(signal.SIGTERM) == -signal.SIGTERM
        assert "wg0" not in watched.seen


def test_who_may_not_look_is_told_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def forbidden(name: str) -> TunnelRecord:
        raise PlatformError(f"access interface {name}", errno=errno.EACCES, hint="run it as root")

    with daemon("wg0"):
        monkeypatch.setattr(client, "get", forbidden)
        done = here(capsys, "show", "--watch", "0.1")
    assert (done.status, done.out) == (1, "")
    assert done.err == "error: cannot access interface wg0: Permission denied; run it as root\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_terminal_gets_a_screen_and_has_its_own_back(
    directory: Path, number: int, status: int
) -> None:
    ours, theirs = pty.openpty()
    kept = os.dup(theirs)
    before = termios.tcgetattr(kept)
    with daemon("wg0", A), watching("0.1", "wg0", output=(ours, theirs)) as watched:
        watched.wait_for("Ctrl-C ends")
        watched.wait_for("wg0")
        after = termios.tcgetattr(kept)
        os.close(kept)
        assert watched.end(number) == status
        assert watched.seen.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h"))
        assert "\x1b[?1049l" in watched.seen
        assert "\x1b[?25h" in watched.seen
    assert after == before


def test_what_is_typed_does_not_show_and_q_ends(directory: Path) -> None:
    ours, theirs = pty.openpty()
    kept = os.dup(theirs)
    before = termios.tcgetattr(kept)
    with (
        daemon("wg0", A),
        watching("0.1", output=(ours, theirs), types=True) as watched,
    ):
        watched.wait_for("q ends")
        os.write(ours, b"zzzz")
        watched.wait_for("q ends")
        assert "z" not in watched.seen
        os.write(ours, b"q")
        assert watched.process.wait(30) == 0
        after = termios.tcgetattr(kept)
        os.close(kept)
    assert after == before


def test_many_peers_are_rows_whole_ones_through_a_pipe(directory: Path) -> None:
    keys = [PublicKey(bytes([number]) * 32) for number in range(60)]
    with daemon("wg0", *keys), watching("0.1", output=os.pipe(), columns=40) as watched:
        watched.wait_for("  ! … and")
        lines = watched.seen.splitlines()
        heading = next(line for line in lines if "PEER" in line)
        assert heading.split()[3:5] == ["RX/S", "TX/S"]
        assert heading.endswith("ALLOWED IPS")
        assert watched.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--watch", "--json"], "--watch does not go with --json"),
        (["--watch=1", "--plain"], "--watch does not go with --plain"),
        (["wg0", "peers", "--watch"], "--watch does not go with 'peers'"),
        (["interfaces", "-w"], "--watch does not go with 'interfaces'"),
        (["--watch", "wg0", "wg1"], "--watch does not go with 'wg1'"),
        (["--watch", "0"], "--watch takes 0.1 to 3600 seconds"),
        (["--watch", "nan"], "--watch takes 0.1 to 3600 seconds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    done = here(capsys, "show", *arguments)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: {sentence}\n")
