"""Who must act, and on what.

The type of an error says who has to do something about it; the message says what,
in one sentence. No secret is ever in either.

What comes from the network never raises past one door: there a
:class:`ProtocolViolation` becomes a count under its :class:`DropReason`.
"""

from __future__ import annotations

import enum


class DropReason(enum.Enum):
    """Why a packet was dropped. The value is the name shown to operators."""

    # A datagram that is not (well-formed) WireGuard.
    MALFORMED = "malformed"
    BAD_MAC1 = "bad-mac1"
    COOKIE_REQUIRED = "cookie-required"
    RATE_LIMITED = "rate-limited"
    QUEUE_FULL = "queue-full"
    # A handshake message.
    UNKNOWN_PEER = "unknown-peer"
    BAD_TAG = "bad-tag"
    STALE_TIMESTAMP = "stale-timestamp"
    TOO_SOON = "too-soon"
    NOT_EXPECTED = "not-expected"
    WEAK_KEY = "weak-key"
    # A transport message.
    UNKNOWN_INDEX = "unknown-index"
    KEY_EXPIRED = "key-expired"
    REPLAYED = "replayed"
    BAD_INNER = "bad-inner"
    SOURCE_NOT_ALLOWED = "source-not-allowed"
    FILTERED = "filtered"
    # A packet on its way out.
    NO_ROUTE = "no-route"
    NO_ENDPOINT = "no-endpoint"
    ROUTING_LOOP = "routing-loop"
    STAGING_FULL = "staging-full"
    HANDSHAKE_FAILED = "handshake-failed"
    TOO_BIG = "too-big"
    SEND_FAILED = "send-failed"
    TUN_WRITE_FAILED = "tun-write-failed"


class NvpnError(Exception):
    """Base of everything nvpn raises on purpose. Its text is one clear sentence."""


class ConfigError(NvpnError):
    """The user edits a file: where, what was expected, and what to write instead.

    Args:
        message: what is wrong and what was expected; never a secret value.
        file: the file as the user named it.
        line: 1-based; None when the mistake is that something is missing.
        key: dotted, as the user would look for it: ``peer[2].endpoint``.
        hint: a remedy, such as ``did you mean "allowed_ips"?``.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "",
        line: int | None = None,
        key: str = "",
        hint: str = "",
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.key = key
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line) if part)
        text = ": ".join(part for part in (where, self.key, self.message) if part)
        return f"{text}; {self.hint}" if self.hint else text


class ConfigErrors(NvpnError):  # noqa: N818 - a plural
    """Every mistake of a configuration at once, in the order of the file."""

    def __init__(self, problems: tuple[ConfigError, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class ControlError(NvpnError):
    """A control client asked for something impossible.

    Args:
        errno: positive, as in :mod:`errno`; the socket's protocol carries it.
    """

    def __init__(self, errno: int, message: str) -> None:
        self.errno = errno
        super().__init__(message)


class PlatformError(NvpnError):
    """The operating system refused.

    Args:
        operation: what was tried: ``create TUN device wg0``.
        errno: positive, 0 when there is none.
        hint: what to do: ``needs CAP_NET_ADMIN; try: sudo nvpn up wg0.toml``.
    """

    def __init__(self, operation: str, *, errno: int = 0, hint: str = "") -> None:
        self.operation = operation
        self.errno = errno
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        import os

        text = f"cannot {self.operation}"
        if self.errno:
            text += f": {os.strerror(self.errno)}"
        return f"{text}; {self.hint}" if self.hint else text


class ServiceError(NvpnError):
    """Something that nvpn depends on (DNS, a registry) let it down."""


class Unavailable(ServiceError):  # noqa: N818 - the field's word for "retry later"
    """The service did not answer; trying again later makes sense."""


class Refused(ServiceError):  # noqa: N818 - the field's word for "do not retry"
    """The service answered no; trying again does not help."""


class ProtocolViolation(NvpnError):  # noqa: N818 - whose fault, not that it is an error
    """A peer's (or a stranger's) fault. Becomes a count at one door, never a log flood."""

    def __init__(self, reason: DropReason) -> None:
        self.reason = reason
        super().__init__(reason.value)
