"""Talk to a running tunnel: ours, any other WireGuard's that has a control socket, the kernel's.

``nvpn show`` begins and ends here, so this module imports next to nothing: no asyncio,
no dataclasses, no cryptography.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time

from nvpn.control.paths import SOCKET_SUFFIX, socket_directory, socket_path
from nvpn.control.records import TunnelRecord, parse_get
from nvpn.errors import ControlError, PlatformError
from nvpn.model.interface_name import is_interface_name

TIMEOUT = 10.0
MAX_ANSWER = 1 << 30
_PEER_CREDENTIALS = struct.Struct("3i")


def list_interfaces() -> list[str]:
    """The names of all running tunnels: the kernel's, then sockets in the directory's order.

    As `wg` does, removes sockets whose daemon is gone. Unlike it, names an interface of
    the kernel's that has a daemon, too, once.
    """
    from nvpn.control.kernel import list_kernel_interfaces

    served = _list_sockets()
    return [name for name in list_kernel_interfaces() if name not in served] + served


def _list_sockets() -> list[str]:
    try:
        with os.scandir(socket_directory()) as entries:
            files = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PlatformError(
            f"list {socket_directory()}", errno=error.errno or 0, hint=_hint(error)
        ) from None
    names = [file[: -len(SOCKET_SUFFIX)] for file in files if file.endswith(SOCKET_SUFFIX)]
    return [name for name in names if is_interface_name(name) and is_running(name)]


def is_running(name: str) -> bool:
    """Whether somebody answers for the interface; a stale socket is removed.

    A socket that we may not open counts as running. Raises ValueError for a bad name.
    """
    path = socket_path(name)
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
    except OSError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            pass
        except OSError:
            return True
        else:
            return True
    # Rarely needed, so that its imports are not paid for every time.
    from nvpn.control.claim import unlink_stale

    try:
        unlink_stale(path)
    except OSError:
        pass  # another user's directory: it is for root to tidy up
    return False


def daemon_pid(name: str) -> int:
    """The process that answers for the interface.

    Raises:
        PlatformError: nobody does.
    """
    with connect(name, TIMEOUT) as connection:
        credentials = connection.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
        )
    return int(_PEER_CREDENTIALS.unpack(credentials)[0])


def get(name: str, *, timeout: float = TIMEOUT) -> TunnelRecord:
    """Everything about the interface.

    Raises:
        PlatformError: no such interface, or not for us.
        ControlError: the daemon refused or did not answer in ``timeout`` seconds.
    """
    return parse_get(name, request(name, "get", timeout=timeout))


def request(
    name: str, operation: str, lines: list[str] | None = None, *, timeout: float = TIMEOUT
) -> list[str]:
    """Ask the daemon of the interface, and return the lines of its answer.

    Where there is none, and the interface is the kernel's, the kernel is asked: it
    knows ``get`` and ``set``.

    Args:
        operation: ``get``, ``set``, or one of nvpn's own, such as ``nvpn_reload``.
        lines: ``key=value``, without line ends.
        timeout: seconds to send the request in, and to read the answer in.

    Raises:
        PlatformError: no such interface, or not for us.
        ControlError: the daemon refused, with its own words when it gave any, or did not
            answer in time.
    """
    if any("\n" in line for line in lines or ()):
        raise ValueError("a request line has no line end in it")
    text = "\n".join([f"{operation}=1", *(lines or ())]) + "\n\n"
    try:
        connection = connect(name, timeout)
    except PlatformError as error:
        if error.errno != errno.ENODEV or not _may_ask_kernel(name, operation):
            raise
        from nvpn.control import kernel

        return kernel.request(name, operation, lines or ())
    with connection:
        try:
            connection.sendall(text.encode())
            answer = _read_answer(connection, time.monotonic() + timeout)
        except TimeoutError:
            raise ControlError(
                errno.ETIMEDOUT, f"the daemon of {name} did not answer in {timeout:g} seconds"
            ) from None
        except OSError as error:
            raise ControlError(
                error.errno or errno.EIO, f"the daemon of {name} hung up: {error.strerror}"
            ) from None
    if not answer:
        raise ControlError(
            errno.EPROTO, f"the daemon of {name} does not know the request {operation}"
        )
    answered, found, code = answer.rpartition("errno=")
    if not found:
        raise ControlError(errno.EIO, f"the daemon of {name} hung up in the middle of its answer")
    answer_lines = answered.splitlines()
    try:
        number = abs(int(code))
    except ValueError:
        raise ControlError(errno.EPROTO, f"the daemon of {name} answered nonsense") from None
    if number:
        raise ControlError(number, "\n".join(messages(answer_lines)) or os.strerror(number))
    return answer_lines


def _may_ask_kernel(name: str, operation: str) -> bool:
    if operation not in ("get", "set"):
        return False
    from nvpn.control.kernel import is_kernel_interface

    return is_kernel_interface(name)


def messages(lines: list[str]) -> list[str]:
    """What an answer of one of nvpn's own operations has to say to people."""
    head = "nvpn_message="
    return [line[len(head) :] for line in lines if line.startswith(head)]


def connect(name: str, timeout: float) -> socket.socket:
    """A connection to the daemon of the interface, which waits for ``timeout`` seconds.

    Raises:
        PlatformError: no such interface, or not for us.
        ControlError: the daemon does not answer.
    """
    operation = f"access interface {name}"
    try:
        path = socket_path(name)
    except ValueError as error:
        raise PlatformError(operation, errno=errno.ENODEV, hint=str(error)) from None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        connection.connect(path)
    except TimeoutError:
        connection.close()
        raise ControlError(errno.ETIMEDOUT, f"the daemon of {name} does not answer") from None
    except OSError as error:
        connection.close()
        number, hint = error.errno or errno.EIO, _hint(error)
        if number in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
            number, hint = errno.ENODEV, "see what is running: nvpn show"
        raise PlatformError(operation, errno=number, hint=hint) from None
    except BaseException:
        connection.close()
        raise
    return connection


def _hint(error: OSError) -> str:
    return "run it as root" if error.errno in (errno.EACCES, errno.EPERM) else ""


def _read_answer(connection: socket.socket, deadline: float) -> str:
    answer = bytearray()
    while not answer.endswith(b"\n\n"):
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        chunk = connection.recv(1 << 18)
        if not chunk:
            break
        answer += chunk
        if len(answer) > MAX_ANSWER:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    text = answer.decode(errors="replace")
    answer[:] = bytes(len(answer))  # it may hold the private key
    return text
