from __future__ import annotations

import asyncio
import json
import logging

import pytest

from nvpn.daemon.status import StatusParts


def test_every_part_is_asked_when_somebody_asks() -> None:
    parts, count = StatusParts(), [0]
    parts.add("leases", lambda: {"active": count[0]})
    parts.add("channel", lambda: None)
    count[0] = 7
    assert parts.describe() == {"leases": {"active": 7}, "channel": None}
    parts.add("channel", lambda: "open")
    parts.remove("leases")
    parts.remove("nothing")
    assert parts.describe() == {"channel": "open"}


def test_the_answer_is_one_line_whatever_is_in_it() -> None:
    parts = StatusParts()
    parts.add("server", lambda: {"name": "é\n\u2028\x85"})
    (line,) = asyncio.run(parts.answer(()))
    assert line.isascii()
    assert line.splitlines() == [line]
    assert json.loads(line) == parts.describe()


def test_a_part_that_fails_keeps_no_other_from_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parts = StatusParts()
    parts.add("broken", lambda: 1 // 0)
    parts.add("whole", lambda: 1)
    with caplog.at_level(logging.ERROR):
        assert parts.describe() == {"whole": 1}
    assert "no status of broken" in caplog.text
