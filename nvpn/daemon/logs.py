"""Where a daemon's words go: the journal, else syslog, and in front standard error.

A record's fields (``extra=``) have fixed names, see :data:`FIELDS`: people see them behind
the sentence as ``peer=…``, the journal stores each by itself. Nothing that is sent waits:
a log that is full loses lines, not packets.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Mapping
from typing import Final

FIELDS: Final = ("peer", "endpoint", "reason")
"""``peer``: the first 8 characters of its key; ``endpoint``: address:port; ``reason``: a word
or two."""

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "silent": logging.CRITICAL + 1,
}

JOURNAL: Final = "/run/systemd/journal/socket"
SYSLOG: Final = "/dev/log"

_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DAEMON_FACILITY: Final = 3 << 3
_MAX_DATAGRAM: Final = 60_000


def log_to_stderr(interface: str, level: int) -> None:
    """Lines for people, or the journal's own form where stderr is connected to it."""
    journal = open_journal(interface) if _is_journal(sys.stderr.fileno()) else None
    _install(journal or _open_stderr(interface), level)


def log_to_system(
    interface: str,
    level: int,
    *,
    journal: str = JOURNAL,
    syslog: str = SYSLOG,
    to_stderr: bool = False,
) -> None:
    """The journal if there is one, else syslog, else nowhere; ``to_stderr``: there, too."""
    found = open_journal(interface, journal) or open_syslog(interface, syslog)
    handler = found or logging.NullHandler()
    _install(_Several(handler, _open_stderr(interface)) if to_stderr else handler, level)


def open_journal(interface: str, path: str = JOURNAL) -> logging.Handler | None:
    """A handler that speaks systemd's native protocol; None when nobody listens."""
    sender = _connect(path)
    return JournalHandler(sender, interface) if sender is not None else None


def open_syslog(interface: str, path: str = SYSLOG) -> logging.Handler | None:
    """A handler that speaks RFC 3164 as local daemons do; None when nobody listens."""
    sender = _connect(path)
    return SyslogHandler(sender, interface) if sender is not None else None


def _open_stderr(interface: str) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(interface))
    return handler


class LineFormatter(logging.Formatter):
    """``wg0: handshake completed peer=laptop endpoint=192.0.2.1:51820``."""

    def __init__(self, interface: str) -> None:
        super().__init__()
        self._interface = interface

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it where there is one."""
        text = f"{self._interface}: {record.levelname.lower()}: {describe(record)}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _DatagramHandler(logging.Handler):
    """Sends a datagram per record; what does not fit or does not go is lost."""

    def __init__(self, sender: socket.socket, interface: str) -> None:
        super().__init__()
        self._sender = sender
        self._interface = interface

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises, never waits."""
        try:
            self._sender.send(self.pack(record)[:_MAX_DATAGRAM])
        except OSError:
            pass  # full, or restarting: there is nobody to tell

    def pack(self, record: logging.LogRecord) -> bytes:
        """The record as a datagram."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the socket."""
        self._sender.close()
        super().close()


class JournalHandler(_DatagramHandler):
    """Source: systemd's documentation, "Native Journal Protocol"."""

    def pack(self, record: logging.LogRecord) -> bytes:
        """``KEY=value`` lines; values with line ends in the binary form."""
        message = describe(record)
        if record.exc_info:
            message += "\n" + logging.Formatter().formatException(record.exc_info)
        fields = {
            "MESSAGE": message,
            "PRIORITY": str(_priority(record)),
            "SYSLOG_IDENTIFIER": "nvpn",
            "SYSLOG_PID": str(os.getpid()),
            "NVPN_INTERFACE": self._interface,
            "NVPN_LOGGER": record.name,
        }
        for name in FIELDS:
            value = record.__dict__.get(name)
            if value is not None:
                fields[f"NVPN_{name.upper()}"] = str(value)
        return b"".join(_pack_field(key, value) for key, value in fields.items())


class SyslogHandler(_DatagramHandler):
    """Source: RFC 3164, and what syslog(3) of glibc sends to /dev/log."""

    def pack(self, record: logging.LogRecord) -> bytes:
        """One line, a traceback folded into it."""
        text = describe(record)
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            text += " | " + " | ".join(trace.splitlines())
        moment = time.strftime("%b %e %H:%M:%S", time.localtime(record.created))
        head = f"<{_DAEMON_FACILITY | _priority(record)}>{moment} nvpn[{os.getpid()}]: "
        return f"{head}{self._interface}: {text}".encode(errors="replace")


class _Several(logging.Handler):
    """Passes each record on to all of its handlers, so that one guard stands before them."""

    def __init__(self, *handlers: logging.Handler) -> None:
        super().__init__()
        self._handlers = handlers

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises: none of them does."""
        for handler in self._handlers:
            handler.handle(record)


class FloodGuard(logging.Filter):
    """Lets the same sentence through 20 times in 10 seconds, then tells how many it held back.

    What the same sentence is, is decided before its fields are filled in: a peer cannot
    fill the log by varying them.
    """

    _LIMIT = 20
    _WINDOW = 10.0

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may pass."""
        if record.levelno >= logging.CRITICAL:
            return True
        # INVARIANT: sentences are literals of the program, so the table cannot grow.
        key = (record.name, str(record.msg))
        begun, count = self._windows.get(key, (record.created, 0))
        held = 0
        if not 0 <= record.created - begun < self._WINDOW:
            held = max(0, count - self._LIMIT)
            begun, count = record.created, 0
        self._windows[key] = (begun, count + 1)
        if held:
            record.msg = f"{record.msg} (and {held} more like this were not logged)"
        return count < self._LIMIT


def describe(record: logging.LogRecord) -> str:
    """The sentence and its fields, on one line whatever is in them."""
    text = record.getMessage()
    for name in FIELDS:
        value = record.__dict__.get(name)
        if value is not None:
            text += f" {name}={value}"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _install(handler: logging.Handler, level: int) -> None:
    handler.addFilter(FloodGuard())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("nvpn").setLevel(level)
    if level > logging.CRITICAL:
        root.setLevel(level)
    # A failure to log prints to stderr by default, where it helps nobody.
    logging.raiseExceptions = False


def _priority(record: logging.LogRecord) -> int:
    if record.levelno >= logging.CRITICAL:
        return 2
    for level, priority in _PRIORITIES:
        if record.levelno >= level:
            return priority
    return 7


def _pack_field(key: str, value: str) -> bytes:
    raw = value.encode(errors="replace")
    if b"\n" not in raw:
        return key.encode() + b"=" + raw + b"\n"
    return key.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"


def _connect(path: str) -> socket.socket | None:
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sender.setblocking(False)
        sender.connect(path)
    except OSError:
        sender.close()
        return None
    return sender


def _is_journal(descriptor: int) -> bool:
    """Whether systemd connected this descriptor to the journal (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False
