"""Makes the host a router for a server's clients, and puts back what it changed.

This is what people write into PostUp: the kernel's forwarding switches, and in a table of our
own TCP segments that fit into the tunnel, and masquerading. What somebody else has changed
meanwhile is left as it is by then, and while another tunnel of ours wants to forward, forwarding
stays: the last one puts back what the first one found.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from nvpn.config.model import ServerConfig
from nvpn.control.client import is_running
from nvpn.control.paths import LEFTOVERS_SUFFIX, state_directory
from nvpn.daemon.firewall import Run
from nvpn.daemon.leftovers import NAMESPACE, Leftovers
from nvpn.daemon.routing_lock import routing_lock
from nvpn.errors import PlatformError
from nvpn.netconf.firewall import forwarding_rules, forwarding_table
from nvpn.netconf.linux_firewall import (
    apply_ruleset,
    chains_that_drop_forwarded,
    has_nft,
    remove_table,
)
from nvpn.netconf.linux_sysctl import (
    accept_ra,
    has_sysctl,
    interfaces_that_take_advertisements,
    read_sysctl,
    write_sysctl,
)

_log: Final = logging.getLogger(__name__)

FORWARDING: Final = "forwarding"
"""The kind of leftovers: by the switch what it was before, as text."""

FORWARDING_TABLE: Final = "forwarding_table"
"""The kind of leftovers: the table of the family inet."""

_SWITCHES: Final = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_ON: Final = "1"
_HEARS_ROUTERS: Final = "2"


class Forwarding:
    """Of one tunnel.

    Args:
        run: calls in the namespace of the interface.
        warn: gets a sentence for what is in the way.
    """

    def __init__(
        self, name: str, leftovers: Leftovers, *, run: Run, warn: Callable[[str], None]
    ) -> None:
        self._name = name
        self._leftovers = leftovers
        self._run = run
        self._warn = warn
        self._before: dict[str, str] = {}
        self._table = ""
        self._said: set[str] = set()

    def set(self, server: ServerConfig | None) -> None:
        """Forward and translate what this server's clients send, as far as it wants that.

        Raises:
            PlatformError: the host refuses.
        """
        if server is not None and server.forward:
            versions = frozenset(pool.version for pool in server.pools)
            self._run(lambda: self._forward(versions))
            self._make_table(server)
        else:
            self._run(self._put_back)
            self._remove_table()

    def close(self) -> None:
        """Put everything back. Never raises."""
        try:
            self._remove_table()
            self._run(self._put_back)
        except PlatformError as error:
            _log.warning("%s", error)

    # --- details ------------------------------------------------------------------------

    def _forward(self, versions: frozenset[int]) -> None:
        with routing_lock():
            self._switch_on(versions)
        chains = chains_that_drop_forwarded()
        if chains:
            self._warn_once(
                f"{self._name}: what is to be forwarded is dropped by {', '.join(chains)} of this"
                f" host's firewall unless a rule there accepts it; such as: iptables -I FORWARD"
                f" -i {self._name} -j ACCEPT, and the same with -o"
            )

    def _switch_on(self, versions: frozenset[int]) -> None:
        """Alone: what others have noted, and what is set, is to be of one moment."""
        # Also of one that was killed: whoever clears up after it is not to take ours away.
        inherited = _noted_by_others(self._name, self._namespace(), alive_only=False)
        if not has_sysctl(_SWITCHES[6]):
            versions -= {6}  # what a host without IPv6 lacks is told elsewhere
        wanted: dict[str, str] = {}
        if 6 in versions:
            # A router listens to no other one, unless it is told to.
            wanted = dict.fromkeys(filter(_is_accept_ra, inherited), _HEARS_ROUTERS)
            if read_sysctl(_SWITCHES[6]) != _ON:
                for interface in interfaces_that_take_advertisements():
                    if interface != self._name:
                        wanted[accept_ra(interface)] = _HEARS_ROUTERS
        wanted |= {_SWITCHES[version]: _ON for version in sorted(versions)}
        for switch, value in wanted.items():
            if switch in self._before:
                continue
            try:
                before = read_sysctl(switch)
            except PlatformError:
                if _is_accept_ra(switch):
                    continue  # the interface is gone
                raise
            # What another tunnel of ours has set is to be put back by the last of us.
            first = inherited.get(switch, before) if before == value else before
            if first == value:
                continue
            self._before[switch] = first
            self._leftovers.note(FORWARDING, self._before)
            if before != value:
                write_sysctl(switch, value)

    def _put_back(self) -> None:
        if self._before:
            with routing_lock():
                others = _noted_by_others(self._name, self._namespace(), alive_only=True)
                put_back(self._before, others)
                self._before = {}
                self._leftovers.forget(FORWARDING)

    def _make_table(self, server: ServerConfig) -> None:
        text = forwarding_rules(self._name, server.pools if server.nat else ())
        if text == self._table:
            return
        if not has_nft():
            if server.nat:
                hint = "nat = true needs nftables; install it, or write your own rule as post_up"
                raise PlatformError(f"translate addresses for {self._name}", hint=hint)
            self._warn_once(
                f"{self._name}: without nftables the segments of forwarded TCP connections"
                " are not made to fit into the tunnel; install it"
            )
            return
        if not self._table:
            self._leftovers.note(FORWARDING_TABLE, forwarding_table(self._name))
        self._run(lambda: apply_ruleset(text))
        self._table = text

    def _remove_table(self) -> None:
        if self._table:
            self._run(lambda: remove_table(forwarding_table(self._name)))
            self._table = ""
            self._leftovers.forget(FORWARDING_TABLE)

    def _warn_once(self, sentence: str) -> None:
        """A reload looks again, and finds the same."""
        if sentence not in self._said:
            self._said.add(sentence)
            self._warn(sentence)

    def _namespace(self) -> str:
        return str(self._leftovers.pending().get(NAMESPACE, ""))


def put_back(before: Mapping[str, str], others: Mapping[str, str]) -> None:
    """Set switches to what they were, unless somebody else has changed or wants them.

    Args:
        others: those that other tunnels of ours have set, too.
    """
    # Forwarding first: whoever listens to routers only for its sake goes on until then.
    for switch, value in reversed(list(before.items())):
        ours = _HEARS_ROUTERS if switch.endswith("accept_ra") else _ON
        try:
            if switch not in others and read_sysctl(switch) == ours:
                write_sysctl(switch, value)
        except PlatformError as error:
            _log.info("%s", error)  # an interface that is gone has no switches


def undo_forwarding(name: str, value: Any) -> None:
    """Put back what a dead daemon had set."""
    before = _read(value)
    namespace = str(Leftovers(_path(name)).pending().get(NAMESPACE, ""))
    with routing_lock():
        put_back(before, _noted_by_others(name, namespace, alive_only=True))


def undo_forwarding_table(name: str, value: Any) -> None:
    """Remove the table of a dead daemon. Raises PlatformError."""
    if value == forwarding_table(name):
        remove_table(value)


def _noted_by_others(name: str, namespace: str, *, alive_only: bool) -> dict[str, str]:
    """What other tunnels of the namespace have set, and how it was before them."""
    found: dict[str, str] = {}
    for other in _tunnels():
        if other == name:
            continue
        leftovers = Leftovers(_path(other))
        pending = leftovers.pending()
        if FORWARDING not in pending or pending.get(NAMESPACE, "") != namespace:
            continue
        if is_running(other) or (leftovers.is_of_this_boot and not alive_only):
            found.update(_read(pending[FORWARDING]))
    return found


def _tunnels() -> Iterator[str]:
    try:
        names = sorted(os.listdir(state_directory()))
    except OSError:
        return
    for file in names:
        if file.endswith(LEFTOVERS_SUFFIX):
            yield file[: -len(LEFTOVERS_SUFFIX)]


def _path(name: str) -> str:
    return os.path.join(state_directory(), name + LEFTOVERS_SUFFIX)


def _read(value: Any) -> dict[str, str]:
    """Only switches of ours, and values that they may have: others may write into the file."""
    if not isinstance(value, dict):
        return {}
    return {
        switch: before
        for switch, before in value.items()
        if isinstance(before, str)
        and before in ("0", "1", "2")
        and (switch in _SWITCHES.values() or _is_accept_ra(switch))
    }


def _is_accept_ra(switch: Any) -> bool:
    parts = switch.split("/") if isinstance(switch, str) else []
    return len(parts) == 5 and switch == accept_ra(parts[3]) and parts[3] not in (".", "..")
