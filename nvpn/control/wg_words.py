"""The sentences of wg(8), and what is not repeated in them."""

from __future__ import annotations

from nvpn.errors import NvpnError


class WgError(NvpnError):
    """What `wg` would print, to the letter where no secret can be in it; exit status 1."""


def told(value: str) -> str:
    """``: `value'``, as `wg` ends a sentence; nothing where the value could be a key."""
    from nvpn.config.findings import may_hold_key  # rarely needed: only for a mistake

    return "" if may_hold_key(value) else f": `{value}'"
