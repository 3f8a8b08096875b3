"""What a tunnel has put outside its interface, on disk before it is there.

A daemon that is killed takes its interface along, but not policy rules, firewall tables or
a resolv.conf. So each of them is noted first, and forgotten once it is gone; whoever finds
the note of a dead daemon knows what to undo. The file holds no secret.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from nvpn.config.writing import sync_directory
from nvpn.daemon.atomic_file import write_atomically

_log: Final = logging.getLogger(__name__)

NAMESPACE: Final = "netns"
"""The kind that says where the others are: as :attr:`InterfaceConfig.netns` has it."""

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_MAX_BYTES: Final = 1 << 20


class Leftovers:
    """What the kernel does not take away together with the interface.

    A disk that refuses costs a warning in the log, never the tunnel.

    Args:
        path: :func:`nvpn.control.paths.leftovers_path`; mode 0600.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._kinds, self.is_of_this_boot = _read(path)
        """Whether what is noted was made since the machine started."""

    def note(self, kind: str, value: Any) -> None:
        """Remember (JSON) what is about to be made; replaces an earlier value of the kind."""
        copy = json.loads(json.dumps(value))  # the caller may go on changing its own
        if kind not in self._kinds or self._kinds[kind] != copy:
            self._kinds[kind] = copy
            self._write()

    def forget(self, kind: str) -> None:
        """It is gone."""
        if self._kinds.pop(kind, None) is not None:
            self._write()

    def pending(self) -> Mapping[str, Any]:
        """What is noted, by kind, in the order in which it was noted first."""
        return dict(self._kinds)

    def _write(self) -> None:
        try:
            if self._kinds:
                document = {"boot": _boot_id(), "kinds": self._kinds}
                write_atomically(self._path, json.dumps(document, indent=1).encode() + b"\n")
            else:
                _remove(self._path)
        except OSError as error:
            _log.warning(
                "cannot write %s: %s; what this daemon sets up outside its interface stays"
                " behind if it is killed",
                self._path,
                error.strerror,
            )


def _read(path: str) -> tuple[dict[str, Any], bool]:
    """A file that is missing, broken or not ours to read is as good as an empty one."""
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read(_MAX_BYTES))
        kinds, boot = document["kinds"], document["boot"]
        if not isinstance(kinds, dict):
            raise TypeError("kinds are named")
    except FileNotFoundError:
        return {}, True
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        _log.warning("cannot read %s (%s): nothing is cleared away", path, type(error).__name__)
        return {}, True
    return kinds, boot == _boot_id()


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    sync_directory(os.path.dirname(path))
