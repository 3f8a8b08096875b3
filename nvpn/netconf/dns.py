"""How this host is told its name servers, and which of the ways is the right one here.

Every way is a :class:`DnsWriter`. The right one is that which the programs of this host
ask: systemd-resolved where /etc/resolv.conf leads to it, else resolvconf where that owns
the file, else the file itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final, Protocol

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.netconf.api import Link

RESOLVED: Final = "systemd-resolved"
RESOLVCONF: Final = "resolvconf"

_STUB_ADDRESSES: Final = {"127.0.0.53", "127.0.0.54"}
_MAX_BYTES: Final = 1 << 16


class WriterAbsentError(PlatformError):
    """It is not there at all, as opposed to being there and refusing."""


class DnsWriter(Protocol):
    """One way of telling this host its name servers.

    Calls block, for 5 s at most, and raise PlatformError.
    """

    @property
    def name(self) -> str:
        """For people, and to find it again with :func:`writer_named`."""

    def set(self, link: Link, wanted: NameServers) -> tuple[str, ...]:
        """Let these be the name servers while the link is there.

        Returns sentences about what could not be had just so.

        Raises:
            WriterAbsentError: another way has to be found.
            PlatformError: it refused; as far as can be known, nothing has changed.
        """

    def unset(self, link: Link) -> None:
        """Take that back. Again, or for a link that is gone: no error."""


def find_writers(*, etc: Path = Path("/etc"), state: Path) -> list[DnsWriter]:
    """The ways that may work here, best first; the last one is always the file.

    Args:
        state: a directory that survives a restart; made when it is missing.
    """
    names = []
    if leads_to_resolved(etc / "resolv.conf"):
        names.append(RESOLVED)
    if find_resolvconf() is not None:
        names.append(RESOLVCONF)
    names.append(str(etc / "resolv.conf"))
    return [writer_named(name, state=state) for name in names]


def writer_named(name: str, *, state: Path) -> DnsWriter:
    """The writer of that name; every name but the two of programs is a file's path."""
    # Imported here: each of them needs the names above, and few need more than one.
    if name == RESOLVED:
        from nvpn.netconf.resolved import ResolvedWriter

        return ResolvedWriter()
    if name == RESOLVCONF:
        from nvpn.netconf.resolvconf import ResolvconfWriter

        return ResolvconfWriter()
    from nvpn.netconf.resolv_conf import FileWriter

    return FileWriter(Path(name), state=state)


def leads_to_resolved(path: Path) -> bool:
    """Whether who reads this resolv.conf ends up asking systemd-resolved."""
    if "/systemd/resolve/" in os.path.realpath(path):
        return True
    try:
        with open(path, errors="replace") as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except OSError:
        return False
    words = [line.split() for line in lines]
    servers = {line[1] for line in words if len(line) > 1 and line[0] == "nameserver"}
    return bool(servers) and servers <= _STUB_ADDRESSES


def find_resolvconf() -> str | None:
    """The program's path; None when there is none, or only systemd's stand-in for it."""
    search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    found = shutil.which(RESOLVCONF, path=search)
    if found is None or os.path.basename(os.path.realpath(found)) == "resolvectl":
        return None
    return found
