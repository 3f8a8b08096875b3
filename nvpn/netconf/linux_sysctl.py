"""Switches of Linux: what a default route through a tunnel needs, and what a router does."""

from __future__ import annotations

import os
from typing import Final

from nvpn.errors import PlatformError

_SRC_VALID_MARK: Final = "net.ipv4.conf.all.src_valid_mark"
_PROC: Final = "/proc/sys/"


def heed_marks_of_arrivals() -> None:
    """Let the check of the reverse path heed marks, in this thread's network namespace.

    With a strict rp_filter the answers to our outer packets would be dropped otherwise: their
    way back is the tunnel, unless their mark counts. It stays set, as with wg-quick.

    Raises:
        PlatformError: it is not set, and may not be.
    """
    path = _PROC + _SRC_VALID_MARK.replace(".", "/")
    try:
        with open(path, encoding="ascii") as file:
            if file.read().strip() == "1":
                return
        with open(path, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        raise PlatformError(
            f"set {_SRC_VALID_MARK}",
            errno=error.errno or 0,
            hint="where rp_filter is strict, answers get lost; try:"
            f" sysctl -w {_SRC_VALID_MARK}=1",
        ) from None


def has_sysctl(name: str) -> bool:
    """Whether this kernel has such a switch."""
    return os.path.exists(_PROC + name)


def read_sysctl(name: str) -> str:
    """What a switch under /proc/sys is set to. Raises PlatformError.

    Args:
        name: with slashes: ``net/ipv4/ip_forward``.
    """
    try:
        with open(_PROC + name, encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        raise PlatformError(f"read sysctl {name}", errno=error.errno or 0) from None


def write_sysctl(name: str, value: str) -> None:
    """Set a switch, in this thread's network namespace. Raises PlatformError."""
    try:
        with open(_PROC + name, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        dotted = name.replace("/", ".")
        raise PlatformError(
            f"set sysctl {dotted}",
            errno=error.errno or 0,
            hint=f"set it outside of this container or service: sysctl -w {dotted}={value}",
        ) from None


def interfaces_that_take_advertisements() -> tuple[str, ...]:
    """Interfaces that learn routes from routers unless this host becomes one itself."""
    found = []
    try:
        with os.scandir(f"{_PROC}net/ipv6/conf") as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return ()  # no IPv6
    for name in names:
        # "all" sets nothing by itself, "default" is for interfaces to come.
        if name in ("all", "lo") or "/" in name:
            continue
        try:
            if read_sysctl(accept_ra(name)) == "1":
                found.append(name)
        except PlatformError:
            continue  # it is gone
    return tuple(found)


def accept_ra(interface: str) -> str:
    """The switch: 0 ignores routers, 1 hears them unless forwarding, 2 hears them anyway."""
    return f"net/ipv6/conf/{interface}/accept_ra"
