"""What a peer is called that stands for an invitation.

It has the key under which guests ask to come in, and is nobody: whoever counts or lists
those who may be connected leaves it out.
"""

from __future__ import annotations

from typing import Final

_PREFIX: Final = "invitation "


def guest_name(invitation: str) -> str:
    """The name of its peer."""
    return f"{_PREFIX}{invitation}"


def is_guest(name: str, *, is_leased: bool, has_addresses: bool) -> bool:
    """Whether it is such a peer, and not a client who is called like one.

    Args:
        is_leased: the server has put it there, and not the configuration.
    """
    return is_leased and not has_addresses and name.startswith(_PREFIX)
