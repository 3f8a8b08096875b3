"""The files of a client that joins: its key before it is admitted, its configuration after.

If the answer to an enrolment gets lost, the server has admitted a key: so it is on the disk
before it is told, and is used again when the same invitation is.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nvpn.config.model import HostPort
from nvpn.config.toml_text import format_pair
from nvpn.config.values import MAX_ENDPOINTS
from nvpn.config.writing import sync_directory
from nvpn.daemon.alone import open_alone
from nvpn.daemon.leasing.servers import FurtherServer
from nvpn.errors import PlatformError
from nvpn.model.keys import KEY_LENGTH, PrivateKey, PublicKey
from nvpn.registry.invitation_text import InvitationText

_PREFIX: Final = ".joining-"
_DIGITS: Final = 16
_MAX_BYTES: Final = 4096

_HEADER: Final = """\
# Written by nvpn join. Addresses, routes, name servers, the MTU and the persistent keepalive come
# from the server while the tunnel is up; what is written here is used as well, or wins
# (nvpn.toml(5), nvpn-join(8)).
"""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the server says to its new client.

    ``name`` is the client's, ``server`` the server's own, empty where it is no peer's.
    ``servers`` are those to go to when it is away.
    """

    name: str
    endpoints: tuple[HostPort, ...]
    server: str = ""
    servers: tuple[FurtherServer, ...] = ()


class Joining:
    """One try to join by an invitation: its key, on the disk before anybody is told of it.

    One at a time by each invitation. What is neither kept nor wanted any more vanishes at the
    end of a ``with``.

    Args:
        directory: where the configuration is to be; it is made where it is missing.

    Raises:
        PlatformError: it cannot be written, or another try is under way.
    """

    def __init__(self, directory: Path, invitation: InvitationText) -> None:
        name = f"{_PREFIX}{invitation.secret.public().hex[:_DIGITS]}"
        self.path: Final = directory / name
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = open_alone(str(self.path), seconds=0)
        except OSError as error:
            raise _refused(f"write into {directory}", error) from None
        if descriptor is None:
            raise PlatformError(
                "join by this invitation",
                hint="another nvpn join is at it on this host; wait for it, or end it",
            )
        self._descriptor = descriptor
        self.interface = ""
        """The name that an earlier try had chosen; empty if there was none."""
        self.key = self._read() or PrivateKey(os.urandom(KEY_LENGTH))
        self._is_kept = bool(self.interface)

    def keep(self, interface: str) -> None:
        """From here on the key may be told. Raises PlatformError."""
        if self._is_kept:
            return
        self.interface = interface
        document = {"interface": interface, "private_key": self.key.reveal_base64()}
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(document).encode(), 0)
            os.fsync(self._descriptor)
            sync_directory(str(self.path.parent))
        except OSError as error:
            raise _refused(f"write {self.path}", error) from None
        self._is_kept = True

    def forget(self) -> None:
        """The key is in a configuration now, or will never be in one."""
        self._is_kept = False

    def _read(self) -> PrivateKey | None:
        """What an earlier try left; what a full disk made of it is as good as nothing."""
        try:
            document = json.loads(os.pread(self._descriptor, _MAX_BYTES, 0))
            key = PrivateKey.from_base64(document["private_key"])
            self.interface = str(document["interface"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return key

    def __enter__(self) -> Joining:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_kept:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self.key.wipe()


def format_config(invitation: InvitationText, key: PrivateKey, enrolment: Enrolment) -> str:
    """The client's configuration. It holds its private key."""
    first, *others = _names(enrolment)
    lines = [_HEADER + "[interface]", format_pair("private_key", key.reveal_base64())]
    lines += _peer(first, invitation.server, _endpoints(invitation, enrolment))
    for name, one in zip(others, enrolment.servers, strict=True):
        lines += _peer(name, one.public_key, one.endpoints)
    return "\n".join(lines) + "\n"


def write_config(path: Path, text: str) -> None:
    """A new file of mode 0600, whole or not at all. Raises PlatformError."""
    try:
        # A name of its own: by two invitations two may be at it.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(text.encode())
                stream.flush()
                os.fsync(stream.fileno())
            os.link(temporary, path)  # unlike a renaming never over another file
        finally:
            os.unlink(temporary)
        sync_directory(str(path.parent))
    except OSError as error:
        raise _refused(f"write {path}", error) from None


def _names(enrolment: Enrolment) -> list[str]:
    """What the servers are to be called, the one that invites first."""
    if not enrolment.servers:
        return ["server"]
    names = [enrolment.server, *(one.name for one in enrolment.servers)]
    if all(names) and len(set(names)) == len(names):
        return names
    return ["server", *(f"server-{number}" for number in range(2, len(names) + 1))]


def _peer(name: str, key: PublicKey, endpoints: Sequence[HostPort]) -> list[str]:
    places = [str(place) for place in endpoints[:MAX_ENDPOINTS]]
    where = ("endpoint", places[0]) if len(places) == 1 else ("endpoints", places)
    lines = ["", "[[peer]]", format_pair("name", name), format_pair("public_key", key.base64)]
    return [*lines, format_pair(*where), format_pair("server", True)]


def _endpoints(invitation: InvitationText, enrolment: Enrolment) -> tuple[HostPort, ...]:
    """Where it was found comes first: that is known to work from here."""
    return tuple(dict.fromkeys(invitation.endpoints + enrolment.endpoints))


def _refused(operation: str, error: OSError) -> PlatformError:
    is_denied = error.errno in (errno.EACCES, errno.EPERM)
    return PlatformError(
        operation, errno=error.errno or 0, hint="try again with sudo" if is_denied else ""
    )
