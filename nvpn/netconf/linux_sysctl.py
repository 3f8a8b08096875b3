"""The one switch of Linux that a default route through a tunnel needs."""

from __future__ import annotations

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
