"""Names of hosts and services as wg(8) looks them up: now, and again, until there is an answer.

A tunnel that nvpn brings up itself never waits like this: see nvpn.daemon.resolver.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nvpn.control.wg_words import WgError, told
from nvpn.model.clock import SECOND

if TYPE_CHECKING:
    from nvpn.resilience.backoff import Backoff

RETRIES = 15
"""How often a name is looked up again, unless the environment says otherwise."""

_VARIABLE = "WG_ENDPOINT_RESOLUTION_RETRIES"
_MAX_RETRIES = 2**31 - 1
_MAX_PORT = 65535
# What another look would not change. wg(8) tries an unknown service again, too, and again.
_FINAL = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_FAIL", "EAI_NODATA", "EAI_SERVICE")
    if hasattr(socket, name)
)

LookUp = Callable[..., Sequence[tuple[Any, ...]]]
"""What :func:`socket.getaddrinfo` is."""


def resolve_endpoint(
    text: str,
    *,
    retries: int | None,
    sleep: Callable[[float], None],
    tell: Callable[[str], None],
    look_up: LookUp = socket.getaddrinfo,
) -> str:
    """The first address of ``host:port``, as the UAPI writes it.

    Args:
        text: the host may be a name or an address, the port a service.
        retries: how often to try again after the first time; None for ever.
        sleep: called with seconds between two tries.
        tell: called with a sentence before each of them.

    Raises:
        WgError: no endpoint, or no address for it.
    """
    host, port = _split(text)
    attempts = 0 if retries is None else retries + 1
    backoff = None
    while True:
        try:
            # Bytes, as wg(8) does: what is no name for the resolver is its to say.
            found = look_up(
                os.fsencode(host),
                os.fsencode(port),
                type=socket.SOCK_DGRAM,
                proto=socket.IPPROTO_UDP,
            )
            return _format(found[0][4])
        except OSError as error:
            sentence = f"{error.strerror}{told(text)}"
            backoff = backoff or _wgs_pauses(attempts)
            delay = None if error.errno in _FINAL else backoff.next_delay()
            if delay is None:
                raise WgError(sentence) from None
        pause = delay / SECOND
        tell(f"{sentence}. Trying again in {pause:.2f} seconds...")
        sleep(pause)


def retries_from(environment: Mapping[str, str]) -> int | None:
    """How often to try again by ``$WG_ENDPOINT_RESOLUTION_RETRIES``; None for ever.

    Raises:
        WgError: it is neither a number nor ``infinity``.
    """
    text = environment.get(_VARIABLE)
    if text is None:
        return RETRIES
    if text == "infinity":
        return None
    if not text:
        return 0
    if _is_number(text) and len(text) < 20 and int(text) <= _MAX_RETRIES:
        return int(text)
    raise WgError(f"Unable to parse {_VARIABLE}{told(text)}")


def parse_port(text: str) -> int:
    """A UDP port: a number, or the name of a service.

    Raises:
        WgError: neither.
    """
    if not text:
        raise WgError("Unable to parse empty port")
    _expect_port(text, text)
    if _is_number(text):
        return int(text)
    try:
        found = socket.getaddrinfo(
            None,
            os.fsencode(text),
            type=socket.SOCK_DGRAM,
            proto=socket.IPPROTO_UDP,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise WgError(f"{error.strerror}{told(text)}") from None
    return int(found[0][4][1])


def _wgs_pauses(attempts: int) -> Backoff:
    """wg's own figures, whatever a configuration says. Loaded where something fails alone."""
    from nvpn.resilience.backoff import Backoff
    from nvpn.resilience.policy import RetryPolicy

    policy = RetryPolicy(
        max_attempts=attempts,
        initial=SECOND,
        maximum=20 * SECOND,
        multiplier=1.2,
        jitter=0.0,
    )
    return Backoff(policy, os.urandom)


def _split(text: str) -> tuple[str, str]:
    if not text:
        raise WgError("Unable to parse empty endpoint")
    if text.startswith("["):
        host, brace, port = text[1:].partition("]")
        if not brace:
            raise WgError(f"Unable to find matching brace of endpoint{told(text)}")
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = text.rpartition(":")
    if colon != ":" or not port:
        raise WgError(f"Unable to find port of endpoint{told(text)}")
    _expect_port(port, text)
    return host, port


def _expect_port(port: str, text: str) -> None:
    # The C library cuts a number that is too large down to 16 bits, and wg(8) with it.
    if _is_number(port) and (len(port) > 20 or int(port) > _MAX_PORT):
        raise WgError(f"Servname not supported for ai_socktype{told(text)}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _format(address: tuple[Any, ...]) -> str:
    """``192.0.2.1:51820`` or ``[2001:db8::1]:51820``; a zone by its interface's name."""
    host, port = socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
