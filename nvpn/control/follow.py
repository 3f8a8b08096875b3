"""The client's side of an answer that goes on, see :mod:`nvpn.control.streams`."""

from __future__ import annotations

import errno
import os

from nvpn.control.client import TIMEOUT, connect, messages
from nvpn.errors import ControlError

_CHUNK = 1 << 16
_BEGINNING = "nvpn_streaming=1"


class Following:
    """Follows a tunnel by one of nvpn's own operations, from the moment it was made.

    Give it to a selector, and read when there is something.

    Args:
        lines: of the request, ``key=value``.

    Raises:
        PlatformError: no such interface, or not for us.
        ControlError: the daemon refused, or does not know the operation.
    """

    def __init__(self, name: str, operation: str, *lines: str, timeout: float = TIMEOUT) -> None:
        self._name = name
        self._operation = operation
        self._unfinished = b""
        self._early: list[str] = []
        self._socket = connect(name, timeout)
        try:
            request = "".join(f"{line}\n" for line in (f"{operation}=1", *lines))
            self._socket.sendall(f"{request}\n".encode())
            self._begin()
            self._socket.setblocking(False)
        except TimeoutError:
            self._socket.close()
            raise ControlError(
                errno.ETIMEDOUT, f"the daemon of {name} did not answer in {timeout:g} seconds"
            ) from None
        except OSError:
            self._socket.close()
            raise self._unknown() from None
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def read(self) -> list[str] | None:
        """What has come since the last time, perhaps nothing; None: there is no more."""
        lines, self._early = self._early, []
        try:
            chunk = self._socket.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return messages(lines)
        except OSError:
            chunk = b""
        if not chunk:
            return messages(lines) or None
        return messages(lines + self._split(chunk))

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def _begin(self) -> None:
        refusal: list[str] = []
        while True:
            chunk = self._socket.recv(_CHUNK)
            if not chunk:
                raise self._unknown()
            lines = self._split(chunk)
            if _BEGINNING in lines:
                self._early = lines[lines.index(_BEGINNING) + 1 :]
                return
            refusal += lines
            if refusal and refusal[-1] == "":
                self._refused(refusal)

    def _split(self, chunk: bytes) -> list[str]:
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def _refused(self, lines: list[str]) -> None:
        code = next((line for line in lines if line.startswith("errno=")), "")
        digits = code.removeprefix("errno=").lstrip("-")
        number = int(digits) if digits.isdigit() else errno.EPROTO
        raise ControlError(number, "\n".join(messages(lines)) or os.strerror(number))

    def _unknown(self) -> ControlError:
        return ControlError(
            errno.EPROTO, f"the daemon of {self._name} does not know the request {self._operation}"
        )
