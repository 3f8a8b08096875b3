"""The operations of a server, by the names that the control socket knows them under."""

from __future__ import annotations

from typing import Final

OPERATIONS: Final = (
    "nvpn_invite",
    "nvpn_clients",
    "nvpn_client_revoke",
    "nvpn_client_rename",
    "nvpn_invitations",
    "nvpn_invitation_revoke",
    "nvpn_lease_peer",
)
"""They are there whether there is a server to do them or not: a reload may make one."""
