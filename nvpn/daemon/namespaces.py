"""The two network namespaces of a tunnel: where its interface is, and where its sockets are.

The process moves to the namespace of the UDP sockets, so that they, the resolver and all
that later threads do is there by itself. The interface's home is only visited.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from nvpn.config.model import TunnelConfig
from nvpn.netconf.linux_namespace import call_in, enter, open_namespace

_T = TypeVar("_T")


class Namespaces:
    """Entered from here on: make it while there is one thread only.

    Args:
        config: None, or one that names no namespace: both are the one that we are in.

    Raises:
        PlatformError: there is no such namespace, or we may not enter it.
    """

    def __init__(self, config: TunnelConfig | None) -> None:
        self._home = -1
        home = "" if config is None else config.interface.netns
        birth = "" if config is None else config.interface.birth_netns
        if home == birth == "":
            return
        # The interface's first: our own would be another one after the move.
        opened = open_namespace(home)
        try:
            place = open_namespace(birth)
            try:
                is_apart = not os.path.sameopenfile(opened, place)
                if birth:
                    enter(place)
            finally:
                os.close(place)
        except BaseException:
            os.close(opened)
            raise
        if is_apart:
            self._home = opened
        else:
            os.close(opened)

    @property
    def is_apart(self) -> bool:
        """Whether the interface is in another namespace than the process and its sockets."""
        return self._home >= 0

    @property
    def home(self) -> int:
        """A descriptor of the interface's namespace; -1 when it is the process's own."""
        return self._home

    def at_home(self, call: Callable[[], _T], /) -> _T:
        """What ``call`` returns in the interface's namespace. Raises what it raises."""
        return call_in(self._home, call) if self.is_apart else call()

    def close(self) -> None:
        """Let go of the interface's namespace. Again: nothing."""
        if self._home >= 0:
            os.close(self._home)
            self._home = -1
