"""What reaches a log, in each of its forms."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvpn.daemon import drops, logs
from nvpn.errors import DropReason


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        listening.settimeout(30)
        yield path, listening


def record(message: str, *args: object, level: int = logging.INFO, **extra: str):
    made = logging.LogRecord("nvpn.test", level, __file__, 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_line_names_the_interface_the_level_and_the_fields_in_order() -> None:
    line = logs.LineFormatter("wg0").format(
        record("handshake completed", endpoint="192.0.2.1:7", peer="abcdefgh")
    )

    assert line == "wg0: info: handshake completed peer=abcdefgh endpoint=192.0.2.1:7"


def test_nothing_in_a_field_can_begin_a_new_line() -> None:
    line = logs.LineFormatter("wg0").format(record("x %s", "a\nb", peer="\x1b[31m"))

    assert line == "wg0: info: x a\\nb peer=\\x1b[31m"


def test_the_journal_gets_each_field_by_itself(listener: tuple[str, socket.socket]) -> None:
    path, listening = listener
    handler = logs.open_journal("wg0", path)
    assert handler is not None

    handler.emit(record("roamed", level=logging.WARNING, peer="abcdefgh"))

    fields = dict(line.split(b"=", 1) for line in listening.recv(9999).splitlines())
    assert fields[b"MESSAGE"] == b"roamed peer=abcdefgh"
    assert fields[b"PRIORITY"] == b"4"
    assert fields[b"SYSLOG_IDENTIFIER"] == b"nvpn"
    assert fields[b"NVPN_INTERFACE"] == b"wg0"
    assert fields[b"NVPN_PEER"] == b"abcdefgh"


def test_a_traceback_goes_to_the_journal_in_the_binary_form(
    listener: tuple[str, socket.socket],
) -> None:
    path, listening = listener
    handler = logs.open_journal("wg0", path)
    assert handler is not None
    made = record("bug", level=logging.CRITICAL)
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        made.exc_info = (type(error), error, error.__traceback__)

    handler.emit(made)

    datagram = listening.recv(9999)
    assert datagram.startswith(b"MESSAGE\n")
    length = int.from_bytes(datagram[8:16], "little")
    message = datagram[16 : 16 + length]
    assert message.startswith(b"bug\nTraceback")
    assert message.endswith(b"RuntimeError: boom")
    assert datagram[16 + length :].startswith(b"\nPRIORITY=2\n")


def test_syslog_gets_one_line(listener: tuple[str, socket.socket]) -> None:
    path, listening = listener
    handler = logs.open_syslog("wg0", path)
    assert handler is not None

    handler.emit(record("roamed", peer="abcdefgh"))

    line = listening.recv(9999).decode()
    assert line.startswith("<30>")
    assert "nvpn[" in line
    assert line.endswith("]: wg0: roamed peer=abcdefgh")


def test_without_journal_and_syslog_nobody_is_bothered(tmp_path: Path) -> None:
    assert logs.open_journal("wg0", str(tmp_path / "none")) is None
    assert logs.open_syslog("wg0", str(tmp_path / "none")) is None


def test_a_log_that_nobody_reads_loses_lines_and_stops_nothing(
    listener: tuple[str, socket.socket],
) -> None:
    path, _ = listener
    handler = logs.open_journal("wg0", path)
    assert handler is not None

    for number in range(5000):
        handler.emit(record("line %d", number))


def passed(guard: logs.FloodGuard, made: logging.LogRecord) -> bool:
    return bool(guard.filter(made))


def test_the_same_sentence_is_held_back_after_twenty_whatever_its_fields() -> None:
    guard = logs.FloodGuard()
    start = 1000.0
    seen = []
    for number in range(100):
        made = record("roamed", peer=str(number))
        made.created = start + number / 100
        seen.append(passed(guard, made))
    later = record("roamed", peer="x")
    later.created = start + 11

    assert seen.count(True) == 20
    assert passed(guard, record("another sentence"))
    assert passed(guard, later)
    assert later.getMessage() == "roamed (and 80 more like this were not logged)"


def test_two_logs_hold_back_the_same(listener: tuple[str, socket.socket]) -> None:
    path, listening = listener
    program = f"""
import logging
from nvpn.daemon import logs
logs.log_to_system("wg0", logging.INFO, journal="", syslog={path!r}, to_stderr=True)
for number in range(25):
    logging.getLogger("nvpn.x").info("again %d", number)
logging.getLogger("nvpn.x").info("something else")
"""

    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True)

    expected = [f"again {number}" for number in range(20)] + ["something else"]
    assert done.stderr.decode().splitlines() == [f"wg0: info: {text}" for text in expected]
    # The queue of a log that nobody reads meanwhile is short: the first ones are there.
    received = [listening.recv(9999).decode().partition("wg0: ")[2] for _ in range(5)]
    assert received == expected[:5]


def test_a_clock_that_goes_back_does_not_silence_the_log() -> None:
    guard = logs.FloodGuard()
    for _ in range(50):
        passed(guard, record("roamed"))
    made = record("roamed")
    made.created -= 3600

    assert passed(guard, made)


def test_a_critical_sentence_always_passes() -> None:
    guard = logs.FloodGuard()

    assert all(passed(guard, record("bug", level=logging.CRITICAL)) for _ in range(50))


def test_drops_are_told_as_differences_by_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drops, "INTERVAL_SECONDS", 0.0)
    counts = iter([{DropReason.NO_ROUTE: 2}, {DropReason.NO_ROUTE: 2}, {DropReason.NO_ROUTE: 5}])

    with caplog.at_level(logging.DEBUG), pytest.raises(RuntimeError):  # the counts run out
        asyncio.run(drops.report_drops(lambda: next(counts)))

    told = [
        (made.getMessage(), made.reason) for made in caplog.records if made.name == drops.__name__
    ]
    assert told == [("2 packets dropped", "no-route"), ("3 packets dropped", "no-route")]
