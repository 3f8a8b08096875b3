"""Keeps peers of a kernel's tunnel to the channel where nothing but that is theirs.

There the address that a peer has for the channel is an allowed IP like any other, so that
whoever has no other one, such as the guest of an invitation, could reach this host's own IPv6
sockets from it. And any user of this host could speak for it there, or for its peers. Our
datapaths see to that themselves.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from nvpn.channel.packets import CHANNEL_PORT
from nvpn.daemon.firewall import Run
from nvpn.daemon.leftovers import Leftovers
from nvpn.errors import PlatformError
from nvpn.netconf.firewall import channel_rules, channel_table
from nvpn.netconf.linux_firewall import apply_ruleset, remove_table

_log: Final = logging.getLogger(__name__)

CHANNEL: Final = "channel"
"""The kind of leftovers: the table of the family inet."""


class ChannelGuard:
    """Of one tunnel.

    Args:
        run: calls in the namespace of the interface.
    """

    def __init__(self, name: str, leftovers: Leftovers, *, run: Run) -> None:
        self._name = name
        self._leftovers = leftovers
        self._run = run
        self._is_set = False
        self._has_warned = False

    def set(self, link_index: int, address: bytes) -> None:
        """Let only the channel in at our address. Without nft that is a warning; never raises."""
        text = channel_rules(self._name, link_index, address, CHANNEL_PORT, os.geteuid())
        self._leftovers.note(CHANNEL, channel_table(self._name))
        try:
            self._run(lambda: apply_ruleset(text))
        except PlatformError as error:
            self._leftovers.forget(CHANNEL)
            if not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "guests of %s reach more of this host by IPv6 than its channel: %s",
                    self._name,
                    error,
                )
        else:
            self._is_set = True

    def drop(self) -> None:
        """Take it away. Never raises."""
        if self._is_set:
            self._is_set = False
            try:
                self._run(lambda: remove_table(channel_table(self._name)))
            except PlatformError as error:
                _log.warning("%s", error)
            else:
                self._leftovers.forget(CHANNEL)


def undo_channel(name: str, value: Any) -> None:
    """Remove the table of a dead daemon. Raises PlatformError."""
    if value == channel_table(name):
        remove_table(value)
