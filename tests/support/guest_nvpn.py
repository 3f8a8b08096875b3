"""nvpn in a guest whose kernel has WireGuard: this Python and this tree, copied into it."""

from __future__ import annotations

import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import nvpn

PROGRAM = Path(__file__).parents[1] / "interop" / "kernel-peer"
ROOT = Path(nvpn.__file__).parents[1]

PACKAGES = (
    "pyroute2",
    "cryptography",
    "nacl",
    "noise",
    "tomli",
    "jeepney",
    "_cffi_backend*.so",
)
"""What nvpn imports of site-packages where neither numpy nor uvloop nor rich is there."""

_LEFT_OUT = {
    *("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data"),
    *("site-packages", "distutils", "dbm", "curses"),
}
"""Parts of the standard library that are big and not needed."""

_FILES_LEFT_OUT = re.compile(r"/_(?:tkinter|dbm|gdbm|curses)[^/]*\.so$|/nis\.|\.opt-\d|\.a$")


@dataclass(frozen=True)
class Guest:
    """A running guest. Commands run as root, in its main network namespace."""

    name: str

    def argv(self, *command: str, stdin: bool = False) -> list[str]:
        options = ["-i"] if stdin else []
        return [str(PROGRAM), "exec", *options, self.name, "--", *command]

    def run(
        self, *command: str, stdin: bytes | None = None, timeout: float = 180
    ) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        done = subprocess.run(
            self.argv(*command, stdin=stdin is not None),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def output(self, *command: str, stdin: bytes | None = None, timeout: float = 180) -> str:
        """Standard output of a command that succeeds."""
        status, out, err = self.run(*command, stdin=stdin, timeout=timeout)
        assert status == 0, f"{' '.join(command[:6])}: exit {status}\n{out}{err}"
        return out

    def write(self, path: str, text: str) -> None:
        """A file that is root's only."""
        self.output("sh", "-c", f"umask 077; cat > {path}", stdin=text.encode())


@contextmanager
def guest_with_nvpn(
    name: str, netns: str, *, underlay: str, host_underlay: str
) -> Iterator[Guest]:
    """Boot a guest beside a namespace and bring nvpn into it: ``nvpn`` is on its PATH."""
    if not shutil.which("qemu-system-x86_64"):
        pytest.skip("needs qemu-system-x86_64; scripts/install-peers installs it")
    guest = Guest(name)
    try:
        done = subprocess.run(
            [
                *(str(PROGRAM), "up", name, "--netns", netns, "--memory", "900"),
                *("--timeout", "180"),
                *("--underlay", underlay, "--host-underlay", host_underlay),
            ],
            capture_output=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode()
        guest.output("tar", "x", "-C", "/", stdin=_bundle())
        yield guest
    finally:
        subprocess.run([str(PROGRAM), "down", name], capture_output=True, check=False)


def _bundle() -> bytes:
    """A tar file of the interpreter, its libraries, packages and nvpn, at their paths here."""
    interpreter = Path(sys.base_prefix) / "bin" / f"python{sysconfig.get_python_version()}"
    packages = Path(sysconfig.get_path("purelib"))
    found = {
        interpreter.resolve(),
        *_standard_library(),
        *(ROOT / "nvpn").rglob("*.py"),
        *(ROOT / "nvpn").rglob(f"*.{sys.implementation.cache_tag}.pyc"),
    }
    for pattern in PACKAGES:
        for path in packages.glob(pattern):
            found |= {path, *path.rglob("*")}
    # Compiled packages have a part with a name of its own.
    importlib.import_module("tomli")
    found |= {
        Path(str(module.__file__)) for name, module in sys.modules.items() if "__mypyc" in name
    }
    found = {path for path in found if path.is_file() and not _FILES_LEFT_OUT.search(str(path))}
    # Modules in C may need libraries that the interpreter itself does not.
    found |= _libraries([interpreter, *(path for path in found if path.suffix == ".so")])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path in sorted(found):
            archive.add(path.resolve(), arcname=str(path), recursive=False)
        script = (
            f'#!/bin/sh\nPYTHONPATH={ROOT}:{packages} exec {interpreter.resolve()} -m nvpn "$@"\n'
        ).encode()
        entry = tarfile.TarInfo("/usr/bin/nvpn")
        entry.mode, entry.size = 0o755, len(script)
        archive.addfile(entry, io.BytesIO(script))
    return stream.getvalue()


def _standard_library() -> Iterator[Path]:
    home = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}))
    for path in home.iterdir():
        if path.name not in _LEFT_OUT and not path.name.startswith("config-"):
            yield from path.rglob("*") if path.is_dir() else [path]


def _libraries(binaries: list[Path]) -> set[Path]:
    listed = subprocess.run(
        ["ldd", *map(str, binaries)], capture_output=True, text=True, check=True
    ).stdout
    return {Path(os.path.normpath(path)) for path in re.findall(r"(/\S+) \(0x", listed)}
