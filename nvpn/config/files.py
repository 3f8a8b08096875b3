"""Files of a configuration, opened with care: what kind, how big, who may read them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from nvpn.config.findings import Findings, Place, quote
from nvpn.errors import ConfigError, ConfigErrors

MAX_CONFIG_BYTES: Final = 16 << 20
MAX_SECRET_BYTES: Final = 4096
MAX_PEM_BYTES: Final = 1 << 20
MAX_SHOWN_PATH: Final = 1024


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file's text without byte order mark. ``name`` is what the user calls it."""

    name: str
    path: Path
    mode: int
    text: str = field(repr=False)

    def warn_if_exposed(self, findings: Findings) -> None:
        """Warn when others than the owner can get at the secrets that it holds."""
        who = _others(self.mode)
        if who:
            findings.warn(
                Place(self.name),
                f"holds a secret key and is accessible to {who}",
                f"try: chmod 600 {self.path}",
            )

    def warn_if_writable(self, findings: Findings) -> None:
        """Warn when others than the owner may change the commands in it."""
        if self.mode & 0o022:
            findings.warn(
                Place(self.name),
                f"holds commands that root will run, and {_writers(self.mode)} may change them",
                f"try: chmod 600 {self.path}",
            )


def read_config(
    path: Path, findings: Findings, written: Mapping[Path, bytes | None] | None = None
) -> TextFile | None:
    """Read a configuration file; None, with the reason in ``findings``, if that fails.

    Args:
        written: what to take such files for, in the place of what is on disk.
    """
    given = written.get(path) if written else None
    opened = (
        (given, 0o600)
        if given is not None
        else _read(path, MAX_CONFIG_BYTES, Place(str(path)), "", findings)
    )
    if opened is None:
        return None
    data, mode = opened
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.error(Place(str(path), line), "expected UTF-8 text, found other bytes")
        return None
    return TextFile(str(path), path, mode, text)


def read_stream(stream: BinaryIO, suffix: str) -> TextFile:
    """A configuration from standard input; its key files are looked for from here on.

    Raises:
        ConfigErrors: too long, or no text.
    """
    name = "standard input"
    data = stream.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigErrors((ConfigError(f"is larger than {_size(MAX_CONFIG_BYTES)}", file=name),))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = ConfigError("expected UTF-8 text, found other bytes", file=name, line=line)
        raise ConfigErrors((problem,)) from None
    return TextFile(name, Path.cwd() / f"wg0{suffix}", 0o600, text)


def read_secret(text: str, config: TextFile, place: Place, findings: Findings) -> str | None:
    """The one word in a ``…_file``, relative to the directory of the configuration file.

    ``place`` is that of the key which names it. None if there is none: see ``findings``.
    """
    wanted = "expected a key of 44 base64 characters"
    data = _read_secret(text, config, place, findings, wanted=wanted, what="the key")
    return None if data is None else data.decode("ascii", "replace").strip()


def read_password(text: str, config: TextFile, place: Place, findings: Findings) -> str | None:
    """The first line of such a file, blanks within it included; None as above."""
    wanted = "expected a password on one line"
    data = _read_secret(text, config, place, findings, wanted=wanted, what="the password")
    if data is None:
        return None
    try:
        password = data.decode().strip("\r\n")
    except UnicodeDecodeError:
        password = "\n"
    if not password.isprintable():
        findings.error(
            place, f"{_shown(config.path.parent / text)} is no text of one line", wanted
        )
        return None
    return password


def find_file(
    text: str, place: Place, config: TextFile, findings: Findings, *, is_secret: bool = False
) -> Path | None:
    """The path of a file that can be read, as above. With ``is_secret`` by its owner alone."""
    path = _find(text, config, place, findings, what="a certificate or a key")
    opened = path and _read(path, MAX_PEM_BYTES, place, f"{_shown(path)} ", findings)
    if not path or not opened:
        return None
    data, mode = opened
    if b"-----BEGIN " not in data:
        findings.error(place, f"{_shown(path)} holds no PEM, which begins with -----BEGIN")
        return None
    if is_secret:
        _warn_if_shared(path, mode, place, findings)
    return path


def _read_secret(
    text: str, config: TextFile, place: Place, findings: Findings, *, wanted: str, what: str
) -> bytes | None:
    path = _find(text, config, place, findings, what=what)
    opened = path and _read(path, MAX_SECRET_BYTES, place, f"{_shown(path)} ", findings)
    if not path or not opened:
        return None
    data, mode = opened
    _warn_if_shared(path, mode, place, findings)
    if not data.strip():
        findings.error(place, f"{_shown(path)} is empty", wanted)
        return None
    return data


def _find(
    text: str, config: TextFile, place: Place, findings: Findings, *, what: str
) -> Path | None:
    if text.startswith("~"):
        findings.error(place, "~ is not expanded here", "write the whole path")
    elif not text or "\0" in text:
        findings.error(place, f"expected the path of a file that holds {what}")
    else:
        return config.path.parent / text
    return None


def _warn_if_shared(path: Path, mode: int, place: Place, findings: Findings) -> None:
    who = _others(mode)
    if who:
        findings.warn(place, f"{_shown(path)} is accessible to {who}", "try: chmod 600 on it")


def _shown(path: Path) -> str:
    return quote(str(path), limit=MAX_SHOWN_PATH)


def how_to_read(path: Path) -> str:
    """What to do about a path that may not be read."""
    if os.geteuid():
        return "try again with sudo"
    # Root that may not override permissions, as under systemd, reads root's files alone.
    return f"it belongs to somebody else; try: chown root {path}"


def _read(
    path: Path, limit: int, place: Place, subject: str, findings: Findings
) -> tuple[bytes, int] | None:
    """Content and mode. ``subject`` names the file, with a blank, unless the place does."""
    try:
        # Non-blocking, so that a FIFO is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        findings.error(place, f"{subject}does not exist")
        return None
    except PermissionError:
        findings.error(place, f"{subject}may not be read by this user", how_to_read(path))
        return None
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else "not a path"
        findings.error(place, f"{subject}cannot be opened: {reason}")
        return None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            findings.error(place, f"{subject}is a directory", "expected a file")
            return None
        if not stat.S_ISREG(status.st_mode):
            findings.error(place, f"{subject}is not a regular file")
            return None
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        findings.error(place, f"{subject}cannot be read: {os.strerror(error.errno or 0)}")
        return None
    finally:
        os.close(descriptor)
    if len(data) > limit:
        findings.error(place, f"{subject}is larger than {_size(limit)}")
        return None
    return data, stat.S_IMODE(status.st_mode)


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _others(mode: int) -> str:
    if mode & 0o006:
        return "everyone"
    return "its group" if mode & 0o060 else ""


def _writers(mode: int) -> str:
    return "everyone" if mode & 0o002 else "its group"
