"""resolvconf: openresolv's, or Debian's of the same name.

Source: resolvconf(8) of both, and what wg-quick(8) asks of them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import format_address
from nvpn.netconf.api import Link
from nvpn.netconf.dns import RESOLVCONF, WriterAbsentError, find_resolvconf

_SECONDS: Final = 4.0
_MAX_COMPLAINT: Final = 1 << 16
_PREFIX: Final = re.compile(r"^([A-Za-z0-9-]+)\*$", re.MULTILINE)


class ResolvconfWriter:
    """A :class:`nvpn.netconf.dns.DnsWriter`."""

    name = RESOLVCONF

    def __init__(self, *, etc: Path = Path("/etc")) -> None:
        self._order = etc / "resolvconf" / "interface-order"

    def set(self, link: Link, wanted: NameServers) -> tuple[str, ...]:
        """These servers and no others, as far as this resolvconf can say that."""
        lines = [f"nameserver {format_address(server)}" for server in wanted.servers]
        if wanted.search:
            lines.append(f"search {' '.join(wanted.search)}")
        text = "".join(f"{line}\n" for line in lines)
        entry = self._entry(link)
        operation = "set name servers by resolvconf"
        # Exclusive, unless nobody would be left to ask.
        exclusive = ("-x",) if wanted.servers else ()
        if not _run(operation, ("-a", entry, "-m", "0", *exclusive), text):
            return ()
        # Debian's has neither metrics nor exclusive servers.
        complaint = _run(operation, ("-a", entry), text)
        if complaint:
            raise PlatformError(operation, hint=f"it says: {complaint}")
        return ()

    def unset(self, link: Link) -> None:
        """The link's entry goes."""
        operation = "take name servers back from resolvconf"
        entry = self._entry(link)
        try:
            if _run(operation, ("-d", entry, "-f"), ""):
                complaint = _run(operation, ("-d", entry), "")
                if complaint:
                    raise PlatformError(operation, hint=f"it says: {complaint}")
        except WriterAbsentError:
            pass  # uninstalled meanwhile, and its entries with it

    def _entry(self, link: Link) -> str:
        """The link's name, after the prefix by which Debian's resolvconf ranks it first."""
        try:
            found = _PREFIX.search(self._order.read_text(errors="replace"))
        except OSError:
            found = None
        return f"{found[1]}.{link.name}" if found else link.name


def _run(operation: str, arguments: tuple[str, ...], text: str) -> str:
    """Run it: an empty string, or the last line of its complaint when it failed.

    Raises:
        WriterAbsentError: there is none.
        PlatformError: it does not end.
    """
    program = find_resolvconf()
    if program is None:
        raise WriterAbsentError(operation, hint="there is no resolvconf")
    # A file instead of a pipe: a service that it restarts may keep the other end for good.
    with open(os.memfd_create("resolvconf"), "w+b") as said:
        try:
            done = subprocess.run(
                (program, *arguments),
                input=text.encode(),
                stdout=said,
                stderr=said,
                timeout=_SECONDS / 2,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise PlatformError(
                operation, hint=f"it did not end within {_SECONDS / 2:g} seconds"
            ) from None
        except OSError as error:
            raise WriterAbsentError(operation, errno=error.errno or 0) from None
        if done.returncode == 0:
            return ""
        said.seek(0)
        lines = said.read(_MAX_COMPLAINT).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"
