"""The command line as its users meet it: programs, pipes, terminals, control sockets."""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvpn.cli.main import main
from tests.support.answering import AnsweringSocket

NVPN = (sys.executable, "-m", "nvpn")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """How a program ended."""

    status: int
    out: str
    err: str


def clean_environment(**variables: str) -> dict[str, str]:
    """Ours, without what would change how output looks, and with ``variables``."""
    ours = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "NVPN_DEBUG", "WG_COLOR_MODE", "WG_HIDE_KEYS"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def nvpn(*arguments: str, stdin: str | None = None, **variables: str) -> Done:
    """Run ``nvpn`` through pipes."""
    return run(*NVPN, *arguments, stdin=stdin, **variables)


def here(capture: pytest.CaptureFixture[str], *words: str) -> Done:
    """``nvpn`` in this process, where there are many questions."""
    capture.readouterr()
    status = main(list(words))
    said = capture.readouterr()
    return Done(status, said.out, said.err)


def run(*command: str, stdin: str | None = None, **variables: str) -> Done:
    """Run any program through pipes."""
    done = subprocess.run(
        command,
        input="" if stdin is None else stdin,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(**variables),
        timeout=60,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def run_on_terminal(
    *command: str,
    columns: int = 100,
    answer: tuple[bytes, bytes] | None = None,
    **variables: str,
) -> tuple[int, bytes]:
    """Run a program on a terminal of its own: exit status, and all it wrote there.

    Args:
        answer: a prompt to wait for, and what to type then.
    """
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=clean_environment(**{"TERM": "xterm-256color", **variables}),
        start_new_session=True,
    )
    os.close(theirs)
    written = bytearray()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break  # EIO: the last process closed its end
        if not chunk:
            break
        written += chunk
        if answer is not None and answer[0] in written:
            os.write(ours, answer[1])
            answer = None
    os.close(ours)
    return process.wait(30), bytes(written)


def key(number: int) -> str:
    """A key as the UAPI writes it, different for each number."""
    return number.to_bytes(32, "big").hex()


@contextmanager
def fake_daemon(
    directory: Path, name: str, lines: list[str], *, errno: int = 0
) -> Iterator[AnsweringSocket]:
    """A tunnel ``name`` whose ``get`` has these lines, as often as it is asked."""
    text = "".join(f"{line}\n" for line in lines) + f"errno={errno}\n\n"

    def answer(connection: socket.socket) -> None:
        if connection.recv(4096).startswith(b"get=1\n"):
            connection.sendall(text.encode())

    daemon = AnsweringSocket(directory / f"{name}.sock", answer)
    try:
        yield daemon
    finally:
        daemon.close()
