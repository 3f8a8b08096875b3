"""Links, addresses and routes of Linux, by rtnetlink.

Routes go into the main table with the protocol "static". The kernel removes addresses
and routes together with the interface, so nothing here needs to be undone at exit.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from typing import Final

from nvpn.errors import PlatformError
from nvpn.model.prefixes import Interface, Prefix
from nvpn.netconf import rtnetlink as rt
from nvpn.netconf.api import Link, Path
from nvpn.netconf.linux_monitor import LinuxMonitor, parse_link

_IFLA_IFNAME: Final = 3
_IFLA_MTU: Final = 4
_IFLA_TXQLEN: Final = 13
_IFLA_LINKINFO: Final = 18
_IFLA_NET_NS_FD: Final = 28
_IFLA_AF_SPEC: Final = 26
_IFLA_GSO_MAX_SEGS: Final = 40
_IFLA_INET6_ADDR_GEN_MODE: Final = 8
_IN6_ADDR_GEN_MODE_NONE: Final = 1
_IFLA_INFO_KIND: Final = 1
_IFLA_INFO_DATA: Final = 2
_VETH_INFO_PEER: Final = 1
_IFF_UP: Final = 0x1

_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_F_PERMANENT: Final = 0x80

_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTA_METRICS: Final = 8
_RTA_MARK: Final = 16
_RTAX_MTU: Final = 2
_RT_TABLE_MAIN: Final = 254
_RTPROT_STATIC: Final = 4
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_NOWHERE: Final = 255
_RTN_UNICAST: Final = 1

_NO_LINK_LOCAL: Final = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL})
_GONE: Final = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT})
_NEEDS_ADMIN: Final = "needs CAP_NET_ADMIN; try again as root, with sudo"


class LinuxNetconf:
    """The network configuration of the network namespace this was made in."""

    def __init__(self) -> None:
        self._connection = rt.Connection()

    def close(self) -> None:
        """Let go of the descriptor."""
        self._connection.close()

    def find_link(self, name: str) -> Link | None:
        """The interface of that name, if there is one."""
        body = rt.LINK.pack(0, 0, 0, 0, 0) + rt.pack_attribute(_IFLA_IFNAME, name)
        try:
            answer = self._connection.ask(rt.Request(rt.RTM_GETLINK, 0, body))
        except rt.Refusal as refusal:
            # ERANGE, EINVAL: a name that no interface can have.
            if refusal.errno in (errno.ENODEV, errno.ERANGE, errno.EINVAL):
                return None
            raise _translate(refusal, f"look up interface {name}") from None
        return parse_link(answer.body)

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
            (_IFLA_MTU, mtu),
            (_IFLA_GSO_MAX_SEGS, gso_max_segs),
            (_IFLA_TXQLEN, tx_queue_length),
        )
        attributes = [
            rt.pack_attribute(kind, value) for kind, value in wanted if value is not None
        ]
        flags = _IFF_UP if is_up else 0
        mask = 0 if is_up is None else _IFF_UP
        told = [f"MTU {mtu}"] if mtu is not None else []
        if is_up is not None:
            told.append("up" if is_up else "down")
        self._execute(
            f"set interface {link.name} {' and '.join(told) or 'up for batches'}",
            [_link_request(link, flags, mask, attributes)],
        )

    def forbid_link_local(self, link: Link) -> None:
        """No automatic IPv6 link-local address, as befits a tunnel. Before it is up.

        Without it the kernel sends router solicitations and multicast reports into the
        tunnel. A kernel without IPv6 has nothing to forbid.
        """
        mode = rt.pack_attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_IN6_ADDR_GEN_MODE_NONE]))
        family = rt.pack_attribute(socket.AF_INET6, [mode])
        specification = rt.pack_attribute(_IFLA_AF_SPEC, [family])
        self._execute(
            f"turn off link-local addresses of {link.name}",
            [_link_request(link, 0, 0, [specification])],
            ignored=_NO_LINK_LOCAL,
        )

    def addresses(self, link: Link) -> frozenset[Interface]:
        """Its addresses, those the kernel chose by itself left out."""
        body = rt.ADDRESS.pack(0, 0, 0, 0, link.index)
        answers = self._dump(f"list addresses of {link.name}", rt.RTM_GETADDR, body)
        found = set()
        for answer in answers:
            family, length, flags, _, index = rt.ADDRESS.unpack_from(answer)
            attributes = rt.parse_attributes(answer[rt.ADDRESS.size :])
            packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if index != link.index or not packed or not flags & _IFA_F_PERMANENT:
                continue
            if family == socket.AF_INET6 and packed[:2] == b"\xfe\x80" and length == 64:
                continue
            found.add(Interface(packed, length))
        return frozenset(found)

    def add_address(self, link: Link, address: Interface) -> None:
        """Give it an address; one it has already is no error. Raises PlatformError."""
        self._execute(
            f"give address {address} to {link.name}",
            [_address_request(rt.RTM_NEWADDR, link, address)],
            ignored=frozenset({errno.EEXIST}),
            hints=_ADDRESS_HINTS,
        )

    def remove_address(self, link: Link, address: Interface) -> None:
        """Take an address away; one it does not have is no error. Raises PlatformError."""
        self._execute(
            f"take address {address} from {link.name}",
            [_address_request(rt.RTM_DELADDR, link, address)],
            ignored=_GONE,
        )

    def routes(self, link: Link) -> frozenset[Prefix]:
        """The prefixes that the main table sends there, connected networks included."""
        found = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            body = rt.ROUTE.pack(family, 0, 0, 0, _RT_TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
            body += rt.pack_attribute(_RTA_OIF, link.index)
            for answer in self._dump(f"list routes of {link.name}", rt.RTM_GETROUTE, body):
                _, length, _, _, table, *_ = rt.ROUTE.unpack_from(answer)
                attributes = rt.parse_attributes(answer[rt.ROUTE.size :])
                if table != _RT_TABLE_MAIN or _u32(attributes.get(_RTA_OIF)) != link.index:
                    continue
                size = 4 if family == socket.AF_INET else 16
                found.add(Prefix.of(attributes.get(_RTA_DST, bytes(size)), length))
        return frozenset(found)

    def add_routes(self, link: Link, prefixes: Collection[Prefix]) -> None:
        """Send the prefixes there, longest first; a route that it has already is no error.

        Raises:
            PlatformError: another interface has such a route, the link is down, …; those
                that were added before are taken back.
        """
        missing = set(prefixes) - self.routes(link) if prefixes else set()
        ordered = sorted(missing, key=lambda prefix: (-prefix.length, prefix))
        requests = [_route_request(rt.RTM_NEWROUTE, link, prefix) for prefix in ordered]
        try:
            self._connection.execute(requests, ignored=frozenset())
        except rt.Refusal as refusal:
            self.remove_routes(link, ordered)
            prefix = ordered[refusal.index]
            hint = _ROUTE_HINTS.get(refusal.errno, "")
            raise _translate(
                refusal, f"add route {prefix} to {link.name}", hint.format(prefix=prefix)
            ) from None

    def remove_routes(self, link: Link, prefixes: Collection[Prefix]) -> None:
        """Take routes away; those that are not there are no error. Raises PlatformError."""
        self._execute(
            f"remove routes from {link.name}",
            [_route_request(rt.RTM_DELROUTE, link, prefix) for prefix in prefixes],
            ignored=_GONE,
        )

    def path_to(self, address: bytes, *, fwmark: int = 0) -> Path | None:
        """How an address (4 or 16 bytes) is reached now; None when it is not."""
        family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
        body = rt.ROUTE.pack(family, len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        body += rt.pack_attribute(_RTA_DST, address)
        if fwmark:
            body += rt.pack_attribute(_RTA_MARK, fwmark)
        try:
            answer = self._connection.ask(rt.Request(rt.RTM_GETROUTE, 0, body))
        except rt.Refusal:
            return None
        attributes = rt.parse_attributes(answer.body[rt.ROUTE.size :])
        index = _u32(attributes.get(_RTA_OIF))
        metrics = rt.parse_attributes(attributes.get(_RTA_METRICS, b""))
        mtu = _u32(metrics.get(_RTAX_MTU))
        if not mtu and (link := self._link_by_index(index)):
            mtu = link.mtu
        return Path(index, mtu)

    def monitor(self, link: Link) -> LinuxMonitor:
        """Watch the interface and the host's addresses from now on. Raises PlatformError."""
        return LinuxMonitor(link)

    def create_veth(self, name: str, peer_name: str, *, peer_namespace: int) -> None:
        """A cable to another network namespace: ``name`` here, ``peer_name`` there.

        Args:
            peer_namespace: an open descriptor of the other namespace.

        Raises:
            PlatformError: no permission, a name that is taken, no veth in this kernel.
        """
        peer = rt.LINK.pack(0, 0, 0, 0, 0)
        peer += rt.pack_attribute(_IFLA_IFNAME, peer_name)
        peer += rt.pack_attribute(_IFLA_NET_NS_FD, peer_namespace)
        kind = rt.pack_attribute(_IFLA_INFO_KIND, "veth")
        data = rt.pack_attribute(_IFLA_INFO_DATA, [rt.pack_attribute(_VETH_INFO_PEER, peer)])
        body = rt.LINK.pack(0, 0, 0, 0, 0) + rt.pack_attribute(_IFLA_IFNAME, name)
        body += rt.pack_attribute(_IFLA_LINKINFO, [kind, data])
        self._execute(
            f"create veth pair {name}, {peer_name}",
            [rt.Request(rt.RTM_NEWLINK, rt.NLM_F_CREATE | rt.NLM_F_EXCL, body)],
        )

    def _link_by_index(self, index: int) -> Link | None:
        body = rt.LINK.pack(0, 0, index, 0, 0)
        try:
            return parse_link(self._connection.ask(rt.Request(rt.RTM_GETLINK, 0, body)).body)
        except rt.Refusal:
            return None

    def _dump(self, operation: str, kind: int, body: bytes) -> list[bytes]:
        try:
            return [message.body for message in self._connection.dump(rt.Request(kind, 0, body))]
        except rt.Refusal as refusal:
            if refusal.errno in _GONE:
                return []
            raise _translate(refusal, operation) from None

    def _execute(
        self,
        operation: str,
        requests: Collection[rt.Request],
        *,
        ignored: frozenset[int] = frozenset(),
        hints: dict[int, str] | None = None,
    ) -> None:
        try:
            self._connection.execute(list(requests), ignored=ignored)
        except rt.Refusal as refusal:
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


def _translate(refusal: rt.Refusal, operation: str, hint: str = "") -> PlatformError:
    if refusal.errno in (errno.EPERM, errno.EACCES) and not hint:
        hint = _NEEDS_ADMIN
    elif refusal.reason and not hint:
        hint = refusal.reason
    return PlatformError(operation, errno=refusal.errno, hint=hint)


def _link_request(link: Link, flags: int, mask: int, attributes: list[bytes]) -> rt.Request:
    body = rt.LINK.pack(0, 0, link.index, flags, mask)
    return rt.Request(rt.RTM_SETLINK, 0, body + b"".join(attributes))


def _address_request(kind: int, link: Link, address: Interface) -> rt.Request:
    family = socket.AF_INET if len(address.address) == 4 else socket.AF_INET6
    body = rt.ADDRESS.pack(family, address.length, 0, _RT_SCOPE_UNIVERSE, link.index)
    body += rt.pack_attribute(_IFA_LOCAL, address.address)
    body += rt.pack_attribute(_IFA_ADDRESS, address.address)
    flags = rt.NLM_F_CREATE | rt.NLM_F_EXCL if kind == rt.RTM_NEWADDR else 0
    return rt.Request(kind, flags, body)


def _route_request(kind: int, link: Link, prefix: Prefix) -> rt.Request:
    family = socket.AF_INET if prefix.version == 4 else socket.AF_INET6
    if kind == rt.RTM_DELROUTE:
        flags, scope, protocol = 0, _RT_SCOPE_NOWHERE, _RTPROT_STATIC
    else:
        flags, protocol = rt.NLM_F_CREATE | rt.NLM_F_EXCL, _RTPROT_STATIC
        scope = _RT_SCOPE_LINK if prefix.version == 4 else _RT_SCOPE_UNIVERSE
    body = rt.ROUTE.pack(
        family, prefix.length, 0, 0, _RT_TABLE_MAIN, protocol, scope, _RTN_UNICAST, 0
    )
    body += rt.pack_attribute(_RTA_DST, prefix.packed)
    body += rt.pack_attribute(_RTA_OIF, link.index)
    return rt.Request(kind, flags, body)


def _u32(value: bytes | None) -> int:
    if value is None or len(value) != 4:
        return 0
    number: int = struct.unpack("=I", value)[0]
    return number
