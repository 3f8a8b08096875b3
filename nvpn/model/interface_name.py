"""What a tunnel's interface can be called, by the rule of wg-quick(8).

Imports nothing: ``nvpn show`` begins here.
"""

from __future__ import annotations

MAX_NAME_LENGTH = 15
"""Bytes of an interface's name (IFNAMSIZ less its NUL)."""

NAME_RULE = "1 to 15 letters, digits or any of _=+.-"
"""The rule in words, for messages."""

_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-")
# The kernel has /proc/sys/net/ipv4/conf/{all,default}, so no interface can be called that.
_TAKEN = frozenset({".", "..", "all", "default"})


def is_interface_name(name: str) -> bool:
    """Whether ``name`` can name a tunnel: nothing in it has a meaning in a path."""
    return 0 < len(name) <= MAX_NAME_LENGTH and name not in _TAKEN and _CHARACTERS.issuperset(name)


def why_no_name(name: str) -> str:
    """What is wrong with a name that :func:`is_interface_name` refuses."""
    if name in _TAKEN:
        return "that word means something else to the kernel; choose another"
    return f"an interface name has {NAME_RULE}"
