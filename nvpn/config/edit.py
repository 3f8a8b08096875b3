"""Changes a configuration's file, and leaves alone what it does not change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nvpn.config.load import Examination
from nvpn.config.model import HostPort
from nvpn.errors import NvpnError
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.prefixes import Prefix


@dataclass(frozen=True, slots=True)
class NewPeer:
    """A peer that gets a section of its own. ``persistent_keepalive`` is in seconds, 0 is off."""

    name: str
    public_key: PublicKey
    preshared_key: PresharedKey | None = field(default=None, repr=False)
    endpoint: HostPort | None = None
    allowed_ips: tuple[Prefix, ...] = ()
    persistent_keepalive: int = 0


class ConfigFile(Protocol):
    """One configuration in memory, with its comments, order and spelling."""

    path: Path

    def add_peer(self, peer: NewPeer) -> None:
        """At the end; or in a fragment of its own where NAME.d/ exists.

        Raises:
            ConfigError: the name or the key is there already.
        """

    def remove_peer(self, key: PublicKey) -> bool:
        """With the comments directly above its section; others stay. False: not there."""

    def set_interface(self, **values: Any) -> None:
        """Give keys of our own side these values; None removes. The same value: no change."""

    def set_peer(self, key: PublicKey, **values: Any) -> None:
        """The same for a peer."""

    def text(self) -> str:
        """What would be written into the main file."""

    def examine(self) -> Examination:
        """What would be written, all files of it, as :func:`nvpn.config.load.examine` does."""

    def write(self) -> Callable[[], None]:
        """Atomically: same mode and owner, through symbolic links, on disk on return.

        Returns what puts the old bytes back.

        Raises:
            PlatformError: nothing was changed.
        """


def open_config(path: Path) -> ConfigFile:
    """Read a .toml or .conf file to change it. Raises ConfigErrors, PlatformError."""
    raise NvpnError("not built yet")
