"""Namespaces of our own, held by nothing but the processes in them.

No name in /run/netns, no file, no mount of the host's: when the last process ends, so
does everything it made. Without root a user namespace gives us the rights, over its own
interfaces only, where the kernel lets users have one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import tempfile
from typing import Final, NoReturn

from nvpn.errors import PlatformError

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_PR_SET_PDEATHSIG: Final = 1

_TUN: Final = "/dev/net/tun"
_HIDEABLE: Final = ("/run", "/mnt", "/media", "/srv")


def require_tun() -> None:
    """Raise PlatformError with a remedy when there is no TUN device for us."""
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        hint = "load the module (sudo modprobe tun), or give it to the container"
        raise PlatformError(f"find {_TUN}", hint=f"{hint} (--device {_TUN})") from None
    except OSError as error:
        hint = "try: sudo nvpn demo" if os.geteuid() else "the container does not allow it"
        raise PlatformError(f"open {_TUN}", errno=error.errno or 0, hint=hint) from None


def enter_host() -> None:
    """Move into fresh mount, network and process namespaces; the next child is process 1.

    Raises:
        PlatformError: the kernel refuses, with the one thing that is missing.
    """
    kinds = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWPID
    if os.geteuid() == 0:
        try:
            _unshare(kinds)
        except OSError as error:
            # Root in a container may lack the right, and have it in a user namespace.
            if error.errno != errno.EPERM:
                raise _refused(error) from None
        else:
            return
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(kinds | _CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {user} 1")
        _write("/proc/self/gid_map", f"0 {group} 1")
    except OSError as error:
        raise _refused(error) from None


def enter_network() -> int:
    """Move into another network namespace and return a descriptor of it.

    Raises:
        PlatformError: the kernel refuses.
    """
    try:
        _unshare(_CLONE_NEWNET)
        return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(error) from None


def end_with_parent() -> None:
    """Die when the parent does, even by `kill -9`."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def private_directory() -> tuple[str, bool]:
    """A directory in memory that nobody else sees, and whether it must be removed.

    It hides one of the host's directories that we do not need, in our mount namespace
    alone. Where mounts are refused it is an ordinary temporary one.
    """
    needed = [os.path.realpath(path) for path in (sys.executable, sys.prefix, __file__, *sys.path)]
    try:
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
        for path in _HIDEABLE:
            real = os.path.realpath(path)
            if os.path.isdir(real) and not any(used.startswith(f"{real}/") for used in needed):
                _mount("nvpn-demo", real, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0700,size=16m")
                return real, False
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="nvpn-demo-"), True


def wait_as_keeper(child: int) -> NoReturn:
    """Wait for the first process of the namespace, then leave with its status."""
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _refused(error: OSError) -> PlatformError:
    operation = "make the namespaces of two hosts"
    number = error.errno or 0
    if number == errno.ENOSPC:
        hint = "user.max_user_namespaces does not allow it; try: sudo nvpn demo"
    elif os.geteuid() == 0:
        hint = "root lacks CAP_SYS_ADMIN here; in a container: --privileged, or run it outside"
    else:
        hint = "this kernel does not let users have namespaces; try: sudo nvpn demo"
    return PlatformError(operation, errno=number, hint=hint)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare(kinds: int) -> None:
    if _libc().unshare(kinds):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (source.encode(), target.encode(), kind.encode() or None)
    if _libc().mount(*arguments, ctypes.c_ulong(flags), options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
