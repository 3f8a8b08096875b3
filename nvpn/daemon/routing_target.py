"""What a configuration wants of routing, and what its kill switch keeps it from: no effects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from nvpn.config.model import TunnelConfig
from nvpn.errors import PlatformError
from nvpn.model.prefixes import Prefix, format_address, parse_address
from nvpn.netconf.firewall import is_lan
from nvpn.netconf.plan import plan_routing

_RESERVED: Final = frozenset({253, 254, 255})
"""Tables that the kernel has a use for: default, main, local."""

_RESOLV_CONF: Final = "/etc/resolv.conf"
_ALWAYS_HEARD: Final = tuple(map(Prefix.parse, ("127.0.0.0/8", "::1/128", "fe80::/10")))


@dataclass(frozen=True, slots=True)
class Target:
    """Routes, rules, guard and kill switch of one configuration.

    ``routes`` are (table, prefix), without those of the main table that belong to the
    interface's own settings. ``versions`` are those of IP whose default route is reached by
    rules: with them ``mark`` is the number of its table, too. ``addresses`` are the
    tunnel's own, of 4 or 16 bytes.
    """

    routes: frozenset[tuple[int, Prefix]] = frozenset()
    versions: frozenset[int] = frozenset()
    mark: int = 0
    addresses: tuple[bytes, ...] = ()
    has_switch: bool = False

    @classmethod
    def of(cls, config: TunnelConfig, *, mark: int, is_apart: bool) -> Target:
        """What the configuration wants.

        Args:
            mark: of the packets that carry the tunnel; 0 is none.
            is_apart: as for :func:`nvpn.netconf.plan.plan_routing`.

        Raises:
            PlatformError: the mark is the number of a table that is the system's.
        """
        interface = config.interface
        plan = plan_routing(
            (prefix for peer in config.peers for prefix in peer.allowed_ips),
            interface.addresses,
            table=interface.table,
            is_apart=is_apart,
        )
        if plan.by_rule and mark in _RESERVED:
            raise PlatformError(
                f"put the default route of {config.name} into table {mark}",
                hint="the table is as the fwmark, and that one is the system's;"
                " choose another fwmark",
            )
        own = plan.routes
        if interface.table is None:
            own = frozenset(prefix for prefix in own if prefix.is_default)
        return cls(
            routes=frozenset((plan.table, prefix) for prefix in own)
            | frozenset((mark, prefix) for prefix in plan.by_rule),
            versions=frozenset(prefix.version for prefix in plan.by_rule),
            mark=mark,
            addresses=tuple(address.address for address in interface.addresses),
            has_switch=interface.kill_switch,
        )

    @property
    def marks(self) -> frozenset[int]:
        """That of the packets that carry the tunnel, if they have one."""
        return frozenset({self.mark} - {0})


def explain_unheard_resolver(config: TunnelConfig, lan: Iterable[Prefix]) -> str:
    """A sentence if the kill switch keeps an endpoint's name from being resolved, else empty."""
    named = [place for peer in config.peers for place in peer.endpoints if not place.is_literal]
    server = _first_name_server() if named else None
    if server is None:
        return ""
    host = Prefix.of(server, len(server) * 8)
    heard = [*_ALWAYS_HEARD, *filter(is_lan, lan)]
    heard += [prefix for peer in config.peers for prefix in peer.allowed_ips]
    if any(prefix.covers(host) for prefix in heard):
        return ""
    return (
        f"{named[0].host} may not resolve: the kill switch lets nothing reach the name server"
        f" {format_address(server)}; give the endpoint as an address"
    )


def _first_name_server() -> bytes | None:
    try:
        with open(_RESOLV_CONF, encoding="utf-8", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) > 1 and words[0] == "nameserver":
                    return parse_address(words[1].partition("%")[0])
    except (OSError, ValueError):
        pass
    return None
