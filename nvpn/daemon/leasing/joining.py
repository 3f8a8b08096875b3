"""The files of a client that joins: its key before it is admitted, its configuration after.

If the answer to an enrolment gets lost, the server has admitted a key: so it is on the disk
before it is told, and is used again when the same invitation is.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nvpn.config.model import HostPort
from nvpn.config.toml_text import format_pair
from nvpn.daemon.atomic_file import sync_directory, write_atomically
from nvpn.errors import PlatformError
from nvpn.model.keys import KEY_LENGTH, PrivateKey
from nvpn.registry.invitation_text import InvitationText

_PREFIX: Final = ".joining-"
_DIGITS: Final = 16
_MAX_BYTES: Final = 4096

_HEADER: Final = """\
# Written by nvpn join. Addresses, routes, name servers and the MTU come from the server while
# the tunnel is up; what is written here is used as well, or wins (nvpn.toml(5), nvpn-join(8)).
"""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What the server says to its new client."""

    name: str
    endpoints: tuple[HostPort, ...]
    keepalive: int


@dataclass(frozen=True, slots=True)
class Joining:
    """A key that may have been told already. ``interface`` is the name that was chosen."""

    path: Path
    interface: str
    key: PrivateKey = field(repr=False)

    def forget(self) -> None:
        """It is in a configuration now, or will never be."""
        self.path.unlink(missing_ok=True)


def find_joining(directory: Path, invitation: InvitationText) -> Joining | None:
    """What an earlier try with the invitation left. Raises PlatformError."""
    path = _path(directory, invitation)
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(_MAX_BYTES))
        key = PrivateKey.from_base64(document["private_key"])
        return Joining(path, str(document["interface"]), key)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refused(f"read {path}", error) from None
    except (ValueError, TypeError, KeyError):
        return None  # of a disk that was full


def begin_joining(directory: Path, invitation: InvitationText, interface: str) -> Joining:
    """Make a key and keep it. Raises PlatformError."""
    path = _path(directory, invitation)
    key = PrivateKey(os.urandom(KEY_LENGTH))
    document = {"interface": interface, "private_key": key.reveal_base64()}
    try:
        write_atomically(str(path), json.dumps(document).encode())
    except OSError as error:
        raise _refused(f"write into {directory}", error) from None
    return Joining(path, interface, key)


def format_config(invitation: InvitationText, key: PrivateKey, enrolment: Enrolment) -> str:
    """The client's configuration. It holds its private key."""
    endpoints = _endpoints(invitation, enrolment)
    lines = [_HEADER + "[interface]", format_pair("private_key", key.reveal_base64()), ""]
    lines += ["[[peer]]", format_pair("name", "server")]
    lines.append(format_pair("public_key", invitation.server.base64))
    if len(endpoints) == 1:
        lines.append(format_pair("endpoint", endpoints[0]))
    else:
        lines.append(format_pair("endpoints", endpoints))
    lines.append(format_pair("server", True))
    if enrolment.keepalive:
        lines.append(format_pair("persistent_keepalive", enrolment.keepalive))
    return "\n".join(lines) + "\n"


def write_config(path: Path, text: str) -> None:
    """A new file of mode 0600, whole or not at all. Raises PlatformError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        write_atomically(str(temporary), text.encode())
        try:
            os.link(temporary, path)  # unlike a renaming never over another file
        finally:
            temporary.unlink()
        sync_directory(str(path.parent))
    except OSError as error:
        raise _refused(f"write {path}", error) from None


def _endpoints(invitation: InvitationText, enrolment: Enrolment) -> list[str]:
    """Where it was found comes first: that is known to work from here."""
    places: dict[HostPort, None] = dict.fromkeys(invitation.endpoints + enrolment.endpoints)
    return [str(place) for place in places][:8]


def _path(directory: Path, invitation: InvitationText) -> Path:
    return directory / f"{_PREFIX}{invitation.secret.public().hex[:_DIGITS]}"


def _refused(operation: str, error: OSError) -> PlatformError:
    is_denied = error.errno in (errno.EACCES, errno.EPERM)
    return PlatformError(
        operation, errno=error.errno or 0, hint="try again with sudo" if is_denied else ""
    )
