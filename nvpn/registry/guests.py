"""Whose question about an invitation is still to be answered: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nvpn.model.clock import SECOND
from nvpn.model.keys import PublicKey
from nvpn.registry.model import Client, Invitation, InvitationState
from nvpn.registry.telling import is_welcome

SPENT_ANSWERED: Final = 86400 * SECOND
"""A day after its end: until then who comes with it is told why that is in vain. Later ones hear
nothing, so that the key of an invitation that is over is nobody's who may speak.
"""


def is_answered(invitation: Invitation, clients: Mapping[PublicKey, Client], wall: int) -> bool:
    """Whether somebody may come by it, may not know yet that he has, or is to hear why not.

    Args:
        clients: all that are remembered.
        wall: Unix time in nanoseconds.
    """
    state = invitation.state(wall)
    if state is InvitationState.OPEN:
        return True
    came = [clients[key] for key in invitation.enrolled if key in clients]
    if any(is_welcome(one) and one.last_seen <= one.admitted_at for one in came):
        return True  # the answer may have got lost: then he asks again, with the same key
    if state is InvitationState.REVOKED:
        end = invitation.revoked_at
    elif state is InvitationState.EXPIRED:
        end = invitation.expires_at
    else:
        end = max((one.admitted_at for one in came), default=0)
    return wall < end + SPENT_ANSWERED
