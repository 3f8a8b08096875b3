"""One at a time, as long as there is a place for the lock."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from nvpn.daemon.routing_lock import routing_lock


def test_the_second_waits_until_the_first_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    order: list[str] = []
    is_waiting = threading.Event()

    def second() -> None:
        is_waiting.set()
        with routing_lock():
            order.append("second")

    with routing_lock():
        thread = threading.Thread(target=second)
        thread.start()
        is_waiting.wait()
        thread.join(0.05)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]
    assert (tmp_path / "state" / "routing.lock").stat().st_mode & 0o777 == 0o600


def test_without_a_place_for_it_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("NVPN_STATE_DIR", str(tmp_path / "state"))
    caplog.set_level("INFO")
    done: list[str] = []

    with routing_lock():
        done.append("work")

    assert done == ["work"]
    assert "no lock for policy rules" in caplog.text
