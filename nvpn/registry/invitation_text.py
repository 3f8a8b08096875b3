"""An invitation as text: one line that people send each other, or a picture of it.

``nvpn:`` and base64url without padding of, in network order::

    version u8 = 1 | length u16 | server's public key 32 | one-time secret 32 |
    expires at u32, Unix seconds | endpoints u8 | endpoint … | name, UTF-8 | CRC-32 u32

``length`` counts everything from the version to the CRC, so that a text whose end was lost is
told from one that was mistyped. An endpoint is ``kind u8 | host | port u16``: kind 4 has 4
bytes of host, 6 has 16, 0 has a length u8 and so many bytes of a name.

The secret admits whoever holds it, once, until it expires: the text is to be sent as a
password would be.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
import zlib
from dataclasses import dataclass
from typing import Final

from nvpn.config.model import HostPort
from nvpn.model.clock import SECOND
from nvpn.model.keys import KEY_LENGTH, PrivateKey, PublicKey
from nvpn.model.prefixes import format_address

SCHEME: Final = "nvpn:"
VERSION: Final = 1
MAX_ENDPOINTS: Final = 8
MAX_NAME: Final = 64
"""Characters."""

MAX_TEXT: Final = 4096
"""Characters; more is no invitation, whatever it is."""

_HEAD: Final = 3
_FIXED: Final = _HEAD + 2 * KEY_LENGTH + 4 + 1
_CRC: Final = 4
_LATEST: Final = 0xFFFFFFFF
_NAME: Final = 0


@dataclass(frozen=True, slots=True)
class InvitationText:
    """What a guest has to know.

    ``server`` is the public key of who invites, ``secret`` the one-time private key,
    ``expires_at`` Unix nanoseconds (of whole seconds), ``endpoints`` where the server is, the
    best first, ``name`` what the client will be called.
    """

    server: PublicKey
    secret: PrivateKey
    expires_at: int
    endpoints: tuple[HostPort, ...]
    name: str


def format_invitation(invitation: InvitationText) -> str:
    """One line without spaces. It holds the secret: never log it.

    Raises:
        ValueError: no endpoint or too many, a host or name that does not fit.
    """
    if not 1 <= len(invitation.endpoints) <= MAX_ENDPOINTS:
        raise ValueError(f"an invitation names 1 to {MAX_ENDPOINTS} endpoints of the server")
    if not _is_name(invitation.name):
        raise ValueError(f"an invitation is for a name of 1 to {MAX_NAME} printable characters")
    body = b"".join(
        (
            bytes(invitation.server),
            invitation.secret.reveal(),
            min(invitation.expires_at // SECOND, _LATEST).to_bytes(4, "big"),
            bytes((len(invitation.endpoints),)),
            *(_pack_endpoint(endpoint) for endpoint in invitation.endpoints),
            invitation.name.encode(),
        )
    )
    length = _HEAD + len(body) + _CRC
    data = bytes((VERSION,)) + length.to_bytes(2, "big") + body
    data += zlib.crc32(data).to_bytes(_CRC, "big")
    return SCHEME + base64.urlsafe_b64encode(data).decode().rstrip("=")


def parse_invitation(text: str, *, wall: int) -> InvitationText:
    """Read what :func:`format_invitation` wrote, broken into lines by mail or not.

    Args:
        wall: Unix nanoseconds, for whether it has expired.

    Raises:
        ValueError: one sentence about what is wrong with it and what to do.
    """
    data = _decode(text)
    if data[0] != VERSION:
        raise ValueError(
            "this invitation was made by a newer nvpn than this one: install that, and try again"
        )
    length = int.from_bytes(data[1:_HEAD], "big")
    if len(data) < length:
        raise ValueError(
            "the end of the invitation is missing: copy it again, from nvpn: to its last character"
        )
    if len(data) > length:
        raise ValueError(
            "something follows the invitation: copy it again without what is after it"
        )
    if zlib.crc32(data[:-_CRC]) != int.from_bytes(data[-_CRC:], "big") or length < _FIXED + _CRC:
        raise _mistyped()
    invitation = _unpack(data[:-_CRC])
    if invitation.expires_at <= wall:
        when = datetime.datetime.fromtimestamp(
            invitation.expires_at // SECOND, datetime.timezone.utc
        )
        raise ValueError(
            f"this invitation expired on {when:%Y-%m-%d at %H:%M} UTC: ask for a new one"
        )
    return invitation


# --- details ----------------------------------------------------------------------------


def _decode(text: str) -> bytes:
    joined = re.sub(r"\s+", "", text[: MAX_TEXT + 1]).strip("<>\"'")
    if joined[: len(SCHEME)].lower() != SCHEME or len(text) > MAX_TEXT:
        raise ValueError("this is no invitation: one begins with nvpn: and has a single line")
    digits = joined[len(SCHEME) :].rstrip("=")
    if not digits:
        raise ValueError("nothing follows nvpn: in this invitation: copy it again, whole")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", digits):
        raise _mistyped()
    # Up to three characters of an end that was lost make no byte.
    digits = digits[: len(digits) - (len(digits) % 4 == 1)]
    try:
        data = base64.urlsafe_b64decode(digits + "=" * (-len(digits) % 4))
    except binascii.Error:
        raise _mistyped() from None
    if len(data) < _HEAD:
        raise ValueError("most of the invitation is missing: copy it again, whole")
    return data


def _mistyped() -> ValueError:
    return ValueError(
        "the invitation has a mistake in it: copy it again, from nvpn: to its last character"
    )


def _unpack(data: bytes) -> InvitationText:
    at = _HEAD
    server = PublicKey(data[at : at + KEY_LENGTH])
    at += KEY_LENGTH
    secret = PrivateKey(data[at : at + KEY_LENGTH])
    at += KEY_LENGTH
    expires_at = int.from_bytes(data[at : at + 4], "big") * SECOND
    count = data[at + 4]
    at += 5
    endpoints = []
    for _ in range(count):
        endpoint, at = _unpack_endpoint(data, at)
        endpoints.append(endpoint)
    try:
        name = data[at:].decode()
    except UnicodeDecodeError:
        raise _mistyped() from None
    if not 1 <= count <= MAX_ENDPOINTS or not _is_name(name):
        raise _mistyped()
    return InvitationText(server, secret, expires_at, tuple(endpoints), name)


def _pack_endpoint(endpoint: HostPort) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    address = endpoint.address
    if address is not None and "%" not in endpoint.host:
        return bytes((4 if len(address) == 4 else 6,)) + address + port
    if not _is_host(endpoint.host):
        raise ValueError(f"an invitation cannot name the host {endpoint.host!r}")
    host = endpoint.host.encode()
    return bytes((_NAME, len(host))) + host + port


def _unpack_endpoint(data: bytes, at: int) -> tuple[HostPort, int]:
    # Whoever wrote a right CRC may still have written nonsense: each slice is checked.
    kind = data[at] if at < len(data) else -1
    at += 1
    if kind == _NAME and at < len(data):
        size = data[at]
        at += 1
    elif kind in (4, 6):
        size = 4 if kind == 4 else 16
    else:
        raise _mistyped()
    raw = data[at : at + size]
    end = at + size + 2
    port = int.from_bytes(data[at + size : end], "big")
    if end > len(data) or not port:
        raise _mistyped()
    if kind != _NAME:
        return HostPort(format_address(raw), port), end
    host = raw.decode("ascii", "replace")
    if not _is_host(host):
        raise _mistyped()
    return HostPort(host, port), end


def _is_host(host: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9._-]{1,253}", host) is not None


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable() and bool(name.strip())
