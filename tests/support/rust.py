"""The Rust datapath's single functions, asked over a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

_WORKSPACE: Final = Path(__file__).resolve().parents[2] / "native"


class Answerer:
    """``native/core/examples/answer.rs`` at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process: Final = process

    def ask(self, verb: str, *arguments: int | bytes) -> list[str]:
        """The words of the answer.

        Raises:
            ValueError: it cannot be given, for the reason that is told.
        """
        words = [verb]
        for argument in arguments:
            words.append(argument.hex() or "-" if isinstance(argument, bytes) else str(argument))
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the other side is gone: it panicked"
        if answer.startswith("!"):
            raise ValueError(answer[2:].strip())
        return answer.split()


@contextmanager
def answerer() -> Iterator[Answerer]:
    """Build it and have it running; skips where there is no cargo."""
    cargo = shutil.which("cargo") or shutil.which("cargo", path=Path.home() / ".cargo/bin")
    if cargo is None:
        pytest.skip("there is no cargo to build the Rust side with")
    target = os.environ.get("CARGO_TARGET_DIR", str(_WORKSPACE / "target"))
    build = [cargo, "build", "-q", "-p", "nvpn-core", "--example", "answer"]
    built = subprocess.run(build, cwd=_WORKSPACE, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    with subprocess.Popen(
        [Path(target) / "debug" / "examples" / "answer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Answerer(process)
        assert process.stdin is not None
        process.stdin.close()


def unhex(word: str) -> bytes:
    """Bytes of an answer."""
    return b"" if word == "-" else bytes.fromhex(word)
