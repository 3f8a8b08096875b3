"""All of a tunnel that its host sees: link, addresses, routes, rules, name servers.

Changes are made in an order that lets nothing out past the tunnel: what is new is there
before what is old goes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import replace

from nvpn.config.model import TunnelConfig
from nvpn.daemon.families import has_ipv6, without_ipv6
from nvpn.daemon.host import HostSettings, TunnelHost
from nvpn.daemon.leftovers import Leftovers
from nvpn.daemon.name_service import NameService
from nvpn.daemon.namespaces import Namespaces
from nvpn.daemon.routing import Routing
from nvpn.netconf.linux import LinuxNetconf


class HostSide:
    """From the kill switch, which is there before the interface, to the name servers.

    Args:
        undo: gets what takes back each step.
        warn: gets a sentence for what could not be had.
        on_mtu: called with an MTU in bytes that was set by us.
    """

    def __init__(
        self,
        name: str,
        *,
        netconf: LinuxNetconf,
        namespaces: Namespaces,
        leftovers: Leftovers,
        undo: contextlib.AsyncExitStack,
        warn: Callable[[str], None],
        on_mtu: Callable[[int], None],
    ) -> None:
        self._namespaces = namespaces
        self._leftovers = leftovers
        self._undo = undo
        self._warn = warn
        self._on_mtu = on_mtu
        self._routing = Routing(
            netconf,
            name,
            leftovers,
            warn=warn,
            is_apart=namespaces.is_apart,
            run=namespaces.at_home,
        )
        self._host: TunnelHost | None = None
        self._name_service: NameService | None = None
        self._mtu = 0
        self._lack_told = ""

    def put_up_guard(self, config: TunnelConfig) -> None:
        """The kill switch, if there is to be one. Raises PlatformError."""
        self._undo.callback(self._routing.withdraw, keep_guard=False)
        self._routing.guard(config)

    def with_mark(self, config: TunnelConfig) -> TunnelConfig:
        """With the mark that its outer packets need, whether it is configured or not."""
        mark = self._routing.choose_mark(config)
        return replace(config, interface=replace(config.interface, fwmark=mark))

    async def set_up(
        self, host: TunnelHost, config: TunnelConfig, endpoints: Iterable[bytes]
    ) -> None:
        """MTU, link up, addresses, routes, name servers.

        Args:
            config: with its mark.
            endpoints: addresses where peers may be.

        Raises:
            PlatformError: the host refused.
        """
        self._host = host
        hosted = self._hosted(host, config)
        settings = HostSettings.of(hosted)
        self._adapt_mtu(config, endpoints)
        host.raise_link()
        host.extend(settings)
        host.reduce(settings)
        self._undo.callback(self._routing.withdraw, keep_guard=True)
        # Also what IPv6 is not to be had of: it must not go past the tunnel instead.
        self._routing.apply(config, host.link, mark=config.interface.fwmark)
        netns = config.interface.netns
        self._name_service = NameService(host.link, self._leftovers, warn=self._warn, netns=netns)
        self._undo.push_async_callback(self._name_service.unset)
        await self._name_service.set(config.interface.dns)

    def extend(
        self,
        new: TunnelConfig,
        endpoints: Iterable[bytes],
        undo: contextlib.ExitStack,
    ) -> Callable[[], None]:
        """Add what is new; the function that is returned removes what is old.

        Args:
            new: with its mark.
            undo: gets what takes it back.

        Raises:
            PlatformError: the host refused; what was added before is on ``undo``.
        """
        host = self._host
        assert host is not None
        undo.callback(self._routing.go_back)
        hosted = self._hosted(host, new)
        settings, before = HostSettings.of(hosted), self._mtu
        host.extend(settings)
        undo.callback(host.withdraw, settings)
        undo.callback(self._set_mtu, before)
        self._adapt_mtu(new, endpoints)
        self._routing.guard(new)
        reroute = self._routing.change(new, host.link, mark=new.interface.fwmark)

        def finish() -> None:
            host.reduce(settings)
            reroute()

        return finish

    def settle(self) -> None:
        """Make sure that all is there: the link came up again. Never raises."""
        if self._host is not None:
            self._host.settle()
            self._routing.settle()

    async def change_name_servers(self, new: TunnelConfig) -> None:
        """The last step of a reload. Never raises."""
        if self._name_service is not None:
            await self._name_service.set(new.interface.dns)

    def follow_network(self) -> None:
        """The host's addresses or routes are others now."""
        self._routing.network_changed()

    def follow_paths(self, config: TunnelConfig, endpoints: Iterable[bytes]) -> None:
        """Peers may be reached another way. Raises PlatformError."""
        if self._mtu:
            self._adapt_mtu(config, endpoints)

    def _hosted(self, host: TunnelHost, config: TunnelConfig) -> TunnelConfig:
        """What this host can have of it, with a warning about the rest, once."""
        if self._namespaces.at_home(lambda: has_ipv6(host.link.name)):
            self._lack_told = ""
            return config
        hosted, sentence = without_ipv6(config)
        if sentence and sentence != self._lack_told:
            self._warn(sentence)
        self._lack_told = sentence
        return hosted

    def _adapt_mtu(self, config: TunnelConfig, endpoints: Iterable[bytes]) -> None:
        """Set the MTU where what it should be has changed; one that people set stays."""
        assert self._host is not None
        self._set_mtu(self._host.mtu_for(HostSettings.of(config), endpoints))

    def _set_mtu(self, mtu: int) -> None:
        if mtu != self._mtu and self._host is not None:
            self._host.set_mtu(mtu)
            self._on_mtu(mtu)
            self._mtu = mtu
