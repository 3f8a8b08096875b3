"""What the readers of both formats do with a text: parse it, or note the mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nvpn.config import values
from nvpn.config.draft import InterfaceDraft
from nvpn.config.findings import Findings, Place, found, quote
from nvpn.model.prefixes import Prefix

_T = TypeVar("_T")


def read(
    parse: Callable[[str], _T],
    text: str,
    place: Place,
    findings: Findings,
    *,
    shown: object = None,
    hint: str = "",
) -> _T | None:
    """A text, parsed; what it was, or ``shown``, is told if that fails."""
    try:
        return parse(text)
    except ValueError as error:
        what = found(text if shown is None else shown)
        findings.error(place, f"{error}, {what}", hint)
        return None


def read_flag(text: str, place: Place, findings: Findings) -> bool:
    """True or false, in words."""
    if text.lower() not in ("true", "false"):
        findings.error(place, f"{quote(text)} is neither true nor false")
    return text.lower() == "true"


def warn_of_host_bits(text: str, prefix: Prefix, place: Place, findings: Findings) -> None:
    """Tell what is taken of a text that says more than its prefix."""
    if values.has_host_bits(text, prefix):
        findings.warn(place, f"{quote(text)} is taken as {prefix}")


def add_hook(
    interface: InterfaceDraft, key: str, text: str, place: Place, findings: Findings
) -> None:
    """One command more of a hook."""
    commands = interface.hooks.setdefault(key, [])
    try:
        commands.append(values.check_command(text))
    except ValueError as error:
        findings.error(place, str(error))
