"""The TUN device of Linux.

Knows ``/dev/net/tun`` and its ioctls, and nothing of addresses, routes or whether the
link is up: that is ``netconf``'s.

Source: Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h of Linux.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import Final

from nvpn.errors import PlatformError
from nvpn.model.interface_name import MAX_NAME_LENGTH
from nvpn.overlay.api import Tun

# As on x86, ARM, RISC-V and S/390; MIPS, PowerPC and SPARC number ioctls differently.
_TUNSETIFF: Final = 0x400454CA
_TUNGETFEATURES: Final = 0x800454CF
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNGETIFF: Final = 0x800454D2
_TUNSETVNETHDRSZ: Final = 0x400454D8

_IFF_TUN: Final = 0x0001
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFF_TUN_EXCL: Final = 0x8000

_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO: Final = 0x02 | 0x04
_TUN_F_USO: Final = 0x20 | 0x40

_VNET_HDR_SIZE: Final = 10
_IFREQ: Final = struct.Struct("16sH22x")
_DEVICE: Final = "/dev/net/tun"


def open_tun(name: str, *, vnet_hdr: bool = True, queues: int = 1) -> Tun:
    """Create the TUN device ``name``, or attach to one that is there and unused.

    One with several queues is always a new one: the kernel would let us join a device that
    another program reads from, and each would get some of the packets.

    Args:
        name: of at most 15 bytes; ``%d`` in it stands for the first free number.
        vnet_hdr: False for plain packets, one per read and write.
        queues: descriptors for it, at least 1.

    Raises:
        PlatformError: no driver, no permission, a name that is taken or impossible, a
            kernel without (so many) queues.
    """
    operation = f"create TUN device {name}"
    if not 0 < len(name.encode()) <= MAX_NAME_LENGTH or "/" in name or name in (".", ".."):
        raise PlatformError(
            operation,
            errno=errno.EINVAL,
            hint=f"an interface's name has 1 to {MAX_NAME_LENGTH} bytes and no slash",
        )
    with contextlib.ExitStack() as undo:
        fds = [_open_driver(operation, undo)]
        try:
            features = _get_features(fds[0])
            if queues > 1 and not features & _IFF_MULTI_QUEUE:
                raise PlatformError(operation, errno=errno.EOPNOTSUPP, hint=_ONE_QUEUE)
            flags = _IFF_TUN | _IFF_NO_PI
            flags |= _IFF_VNET_HDR & features if vnet_hdr else 0
            flags |= _IFF_MULTI_QUEUE if queues > 1 else 0
            only_new = _IFF_TUN_EXCL if queues > 1 else 0
            actual = _set_interface(fds[0], name, flags | only_new)
        except OSError as error:
            code = error.errno or 0
            raise PlatformError(operation, errno=code, hint=_CREATE_HINTS.get(code, "")) from None
        while len(fds) < queues:
            fds.append(_open_driver(operation, undo))
            try:
                _set_interface(fds[-1], actual, flags)
            except OSError as error:
                what = f"open queue {len(fds)} of TUN device {actual}"
                raise PlatformError(what, errno=error.errno or 0, hint=_ONE_QUEUE) from None
        try:
            tun = _negotiate(tuple(fds), actual, vnet_hdr=bool(flags & _IFF_VNET_HDR))
        except OSError as error:
            raise PlatformError(operation, errno=error.errno or 0) from None
        undo.pop_all()
        return tun


def adopt_tun(fd: int) -> Tun:
    """Take over a TUN descriptor that somebody else opened, as WG_TUN_FD hands it in.

    Raises:
        PlatformError: it is no TUN descriptor, or one with packet information headers.
    """
    operation = f"use descriptor {fd} as a TUN device"
    try:
        name, flags = _get_interface(fd)
        if not flags & _IFF_TUN or not flags & _IFF_NO_PI:
            raise PlatformError(
                operation, errno=errno.EINVAL, hint="it must be IFF_TUN with IFF_NO_PI"
            )
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        return _negotiate((fd,), name, vnet_hdr=bool(flags & _IFF_VNET_HDR))
    except OSError as error:
        raise PlatformError(operation, errno=error.errno or 0) from None


def tun_name(fd: int) -> str:
    """What the device behind ``fd`` is called now: it may have been renamed.

    Raises:
        PlatformError: the device is gone.
    """
    try:
        return _get_interface(fd)[0]
    except OSError as error:
        raise PlatformError("read a TUN device's name", errno=error.errno or 0) from None


def _open_driver(operation: str, undo: contextlib.ExitStack) -> int:
    """A descriptor that is no device's yet; closed by ``undo``."""
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(
            operation, errno=error.errno or 0, hint=_OPEN_HINTS.get(error.errno or 0, "")
        ) from None
    undo.callback(os.close, fd)
    return fd


def _negotiate(fds: tuple[int, ...], name: str, *, vnet_hdr: bool) -> Tun:
    """The size of the header and the offloads, which are the device's, for all queues."""
    if not vnet_hdr:
        return Tun(fds, name)
    fd = fds[0]
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _VNET_HDR_SIZE))
    for offloads in (
        _TUN_F_CSUM | _TUN_F_TSO | _TUN_F_USO,  # Linux 6.2
        _TUN_F_CSUM | _TUN_F_TSO,
        _TUN_F_CSUM,
    ):
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return Tun(
                fds,
                name,
                vnet_hdr=True,
                tso=bool(offloads & _TUN_F_TSO),
                uso=bool(offloads & _TUN_F_USO),
            )
    return Tun(fds, name, vnet_hdr=True)


def _set_interface(fd: int, name: str, flags: int) -> str:
    request = bytearray(_IFREQ.pack(name.encode(), flags))
    fcntl.ioctl(fd, _TUNSETIFF, request)
    return _unpack_name(request)


def _get_interface(fd: int) -> tuple[str, int]:
    request = bytearray(_IFREQ.size)
    fcntl.ioctl(fd, _TUNGETIFF, request)
    return _unpack_name(request), _IFREQ.unpack(request)[1]


def _get_features(fd: int) -> int:
    request = bytearray(4)
    fcntl.ioctl(fd, _TUNGETFEATURES, request)
    features: int = struct.unpack("I", request)[0]
    return features


def _unpack_name(request: bytearray) -> str:
    name: bytes = _IFREQ.unpack(request)[0]
    return name.partition(b"\0")[0].decode()


_ONE_QUEUE: Final = "the kernel refuses so many queues; set queues = 1, or leave it out"
_PERMISSION: Final = "needs CAP_NET_ADMIN; try again as root, with sudo"
_OPEN_HINTS: Final = {
    errno.ENOENT: f"{_DEVICE} is missing; try: modprobe tun"
    " (in a container: hand the device in, as with --device /dev/net/tun)",
    errno.ENODEV: "the kernel has no TUN driver; try: modprobe tun",
    errno.ENXIO: "the kernel has no TUN driver; try: modprobe tun",
    errno.EPERM: _PERMISSION,
    errno.EACCES: _PERMISSION,
}
_CREATE_HINTS: Final = {
    errno.EPERM: _PERMISSION,
    errno.EBUSY: "another program holds an interface of that name; choose another name or stop it",
    errno.EINVAL: "the name is impossible, or belongs to an interface that is no TUN device,"
    " or one with other flags",
    errno.EEXIST: "an interface of that name exists",
}
