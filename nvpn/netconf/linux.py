"""Links, addresses and routes of Linux, by pyroute2.

Routes have the protocol "static". The kernel removes addresses and routes together with the
interface, so nothing here needs to be undone at exit.

Importing this takes pyroute2's 80 ms: for the daemon and the demonstration only.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from typing import Any, Final

from pyroute2.netlink import NLM_F_CREATE, NLM_F_EXCL, nlmsg
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_SETLINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_PERMANENT, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface, Prefix, format_address, parse_address
from nvpn.netconf.api import MAIN_TABLE, Link, Path
from nvpn.netconf.linux_monitor import LinuxMonitor, read_link
from nvpn.netconf.linux_netlink import BATCH, Connection, Refusal
from nvpn.netconf.linux_routes import list_routes, pack_gone_routes, pack_new_routes

_IN6_ADDR_GEN_MODE_NONE: Final = 1

_NO_LINK_LOCAL: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL})
_GONE: Final = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT})
_NEEDS_ADMIN: Final = "needs CAP_NET_ADMIN; try again as root, with sudo"


class LinuxNetconf:
    """The network configuration of the network namespace this was made in."""

    def __init__(self) -> None:
        self._connection = Connection()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._connection.close()

    def find_link(self, name: str) -> Link | None:
        """The interface of that name, if there is one."""
        message = _link_message(("IFLA_IFNAME", name.encode(errors="surrogateescape")))
        try:
            answer = self._connection.ask(message, RTM_GETLINK)
        except Refusal as refusal:
            # ERANGE, EINVAL: a name that no interface can have.
            if refusal.errno in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
                return None
            raise _translate(refusal, f"look up interface {name}") from None
        return read_link(answer)

    def set_link(
        self,
        link: Link,
        *,
        is_up: bool | None = None,
        mtu: int | None = None,
        gso_max_segs: int | None = None,
        tx_queue_length: int | None = None,
    ) -> None:
        """Change what is given; None leaves it alone. Raises PlatformError."""
        wanted = (
            ("IFLA_MTU", mtu),
            ("IFLA_GSO_MAX_SEGS", gso_max_segs),
            ("IFLA_TXQLEN", tx_queue_length),
        )
        message = _link_message(
            *((name, value) for name, value in wanted if value is not None), index=link.index
        )
        told = [f"MTU {mtu}"] if mtu is not None else []
        if is_up is not None:
            message["flags"] = IFF_UP if is_up else 0
            message["change"] = IFF_UP
            told.append("up" if is_up else "down")
        self._change(
            f"set interface {link.name} {' and '.join(told) or 'up for batches'}",
            message,
            RTM_SETLINK,
        )

    def forbid_link_local(self, link: Link) -> None:
        """No automatic IPv6 link-local address, as befits a tunnel. Before it is up.

        Without it the kernel sends router solicitations and multicast reports into the
        tunnel. A kernel without IPv6 has nothing to forbid.
        """
        family = _nest(("IFLA_INET6_ADDR_GEN_MODE", _IN6_ADDR_GEN_MODE_NONE))
        self._change(
            f"turn off link-local addresses of {link.name}",
            _link_message(("IFLA_AF_SPEC", _nest(("AF_INET6", family))), index=link.index),
            RTM_SETLINK,
            ignored=_NO_LINK_LOCAL,
        )

    def addresses(self, link: Link) -> frozenset[Interface]:
        """Its addresses, those the kernel chose by itself left out."""
        message = ifaddrmsg()
        message["index"] = link.index
        try:
            answers = self._connection.dump(message, RTM_GETADDR)
        except Refusal as refusal:
            if refusal.errno in _GONE:
                return frozenset()
            raise _translate(refusal, f"list addresses of {link.name}") from None
        found = set()
        for answer in answers:
            # Between two ends IFA_ADDRESS is the other one's.
            text = answer.get_attr("IFA_LOCAL") or answer.get_attr("IFA_ADDRESS")
            if answer["index"] != link.index or not answer["flags"] & IFA_F_PERMANENT:
                continue
            address = Interface(parse_address(text), answer["prefixlen"])
            if address.address[:2] != b"\xfe\x80" or address.length != 64:
                found.add(address)
        return frozenset(found)

    def add_address(self, link: Link, address: Interface) -> None:
        """Give it an address; one it has already is no error. Raises PlatformError."""
        self._change(
            f"give address {address} to {link.name}",
            _address_message(link, address),
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            ignored=frozenset({errno.EEXIST}),
            hints=_ADDRESS_HINTS,
        )

    def remove_address(self, link: Link, address: Interface) -> None:
        """Take an address away; one it does not have is no error. Raises PlatformError."""
        self._change(
            f"take address {address} from {link.name}",
            _address_message(link, address),
            RTM_DELADDR,
            ignored=_GONE,
        )

    def routes(self, link: Link, *, table: int = MAIN_TABLE) -> frozenset[Prefix]:
        """The prefixes that a table sends there; connected networks are in the main one."""
        try:
            return list_routes(self._connection, link.index, table=table)
        except Refusal as refusal:
            if refusal.errno in _GONE:
                return frozenset()
            raise _translate(refusal, f"list routes of {link.name}") from None

    def add_routes(
        self, link: Link, prefixes: Collection[Prefix], *, table: int = MAIN_TABLE
    ) -> None:
        """Send the prefixes there, longest first; a route that it has already is no error.

        Raises:
            PlatformError: another interface has such a route, the link is down, …; those
                that were added before are taken back.
        """
        missing = set(prefixes) - self.routes(link, table=table) if prefixes else set()
        ordered = sorted(missing, key=lambda prefix: (-prefix.length, prefix))
        try:
            self._connection.execute(pack_new_routes(link.index, ordered, table=table))
        except Refusal as refusal:
            self.remove_routes(link, ordered[: refusal.index + BATCH], table=table)
            prefix = ordered[refusal.index]
            hint = _ROUTE_HINTS.get(refusal.errno, "")
            raise _translate(
                refusal, f"add route {prefix} to {link.name}", hint.format(prefix=prefix)
            ) from None

    def remove_routes(
        self, link: Link, prefixes: Collection[Prefix], *, table: int = MAIN_TABLE
    ) -> None:
        """Take routes away; those that are not there are no error. Raises PlatformError."""
        try:
            self._connection.execute(
                pack_gone_routes(link.index, prefixes, table=table), ignored=_GONE
            )
        except Refusal as refusal:
            raise _translate(refusal, f"remove routes from {link.name}") from None

    def path_to(self, address: bytes, *, fwmark: int = 0) -> Path | None:
        """How an address (4 or 16 bytes) is reached now; None when it is not."""
        message = rtmsg()
        message["family"] = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        message["dst_len"] = len(address) * 8
        message["attrs"] = [("RTA_DST", format_address(address))]
        if fwmark:
            message["attrs"].append(("RTA_MARK", fwmark))
        try:
            answer = self._connection.ask(message, RTM_GETROUTE)
        except Refusal:
            return None
        index = answer.get_attr("RTA_OIF") or 0
        mtu = answer.get_nested("RTA_METRICS", "RTAX_MTU")
        return Path(index, mtu or self._mtu_of(index))

    def monitor(self, link: Link) -> LinuxMonitor:
        """Watch the interface from now on. Raises PlatformError."""
        return LinuxMonitor(link)

    def create_veth(self, name: str, peer_name: str, *, peer_namespace: int) -> None:
        """A cable to another network namespace: ``name`` here, ``peer_name`` there.

        Args:
            peer_namespace: an open descriptor of the other namespace.

        Raises:
            PlatformError: no permission, a name that is taken, no veth in this kernel.
        """
        peer = _nest(("IFLA_IFNAME", peer_name), ("IFLA_NET_NS_FD", peer_namespace))
        kind = ("IFLA_INFO_KIND", "veth")
        data = ("IFLA_INFO_DATA", _nest(("VETH_INFO_PEER", peer)))
        self._change(
            f"create veth pair {name}, {peer_name}",
            _link_message(("IFLA_IFNAME", name), ("IFLA_LINKINFO", _nest(kind, data))),
            RTM_NEWLINK,
            NLM_F_CREATE | NLM_F_EXCL,
        )

    def _mtu_of(self, index: int) -> int:
        try:
            answer = self._connection.ask(_link_message(index=index), RTM_GETLINK)
        except Refusal:
            return 0
        return read_link(answer).mtu

    def _change(
        self,
        operation: str,
        message: nlmsg,
        kind: int,
        flags: int = 0,
        *,
        ignored: frozenset[int] = frozenset(),
        hints: dict[int, str] | None = None,
    ) -> None:
        try:
            self._connection.change(message, kind, flags)
        except Refusal as refusal:
            if refusal.errno not in ignored:
                hint = (hints or {}).get(refusal.errno, "")
                raise _translate(refusal, operation, hint) from None


_ADDRESS_HINTS: Final = {
    errno.EACCES: "IPv6 is switched off here: see sysctl net.ipv6.conf.all.disable_ipv6",
    errno.EOPNOTSUPP: "this kernel has no IPv6; remove the IPv6 address",
    errno.EAFNOSUPPORT: "this kernel has no IPv6; remove the IPv6 address",
}
_ROUTE_HINTS: Final = {
    errno.EEXIST: "another interface has it; see: ip route show {prefix}",
    errno.EACCES: "IPv6 is switched off here: see sysctl net.ipv6.conf.all.disable_ipv6",
    errno.ENODEV: "IPv6 is switched off here: see sysctl net.ipv6.conf.all.disable_ipv6",
    errno.EOPNOTSUPP: "this kernel has no IPv6; remove the IPv6 prefix",
    errno.EAFNOSUPPORT: "this kernel has no IPv6; remove the IPv6 prefix",
}


def _translate(refusal: Refusal, operation: str, hint: str = "") -> PlatformError:
    if refusal.errno in (errno.EPERM, errno.EACCES) and not hint:
        hint = _NEEDS_ADMIN
    elif refusal.reason and not hint:
        hint = refusal.reason
    return PlatformError(operation, errno=refusal.errno, hint=hint)


def _link_message(*attributes: tuple[str, Any], index: int = 0) -> nlmsg:
    message = ifinfmsg()
    message["index"] = index
    message["attrs"] = list(attributes)
    return message


def _address_message(link: Link, address: Interface) -> nlmsg:
    text = format_address(address.address)
    message = ifaddrmsg()
    message["family"] = socket.AF_INET if len(address.address) == 4 else socket.AF_INET6
    message["prefixlen"] = address.length
    message["index"] = link.index
    message["attrs"] = [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]
    return message


def _nest(*attributes: tuple[str, Any]) -> dict[str, Any]:
    return {"attrs": list(attributes)}
