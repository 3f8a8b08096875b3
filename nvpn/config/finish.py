"""The parts of a configuration checked against each other, and frozen."""

from __future__ import annotations

from pathlib import Path

from nvpn.config.draft import Draft, InterfaceDraft, PeerDraft
from nvpn.config.findings import Findings, Place, quote
from nvpn.config.finish_server import finish_server
from nvpn.config.finish_services import finish_metrics, finish_resilience
from nvpn.config.model import BackendWish, Hooks, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.config.schema import PORT_KEYS
from nvpn.config.values import MAX_SERVERS, MIN_MTU_IPV6
from nvpn.model.keys import PublicKey
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import Prefix, format_address


def finish(draft: Draft, name: str, path: Path, findings: Findings) -> TunnelConfig:
    """Check the parts against each other and freeze them.

    The result is of use only if ``findings`` has no problems; its warnings are put in.
    """
    _check_interface(draft.interface, findings)
    _check_ports(draft, findings)
    _check_keys(draft, findings)
    _check_names(draft, findings)
    _check_allowed_ips(draft.peers, findings)
    for peer in draft.peers:
        _warn_about(peer, draft.interface, findings)
    interface = draft.interface
    server = finish_server(draft, name, findings)
    return TunnelConfig(
        name=name,
        path=path,
        interface=InterfaceConfig(
            private_key=interface.private_key,
            addresses=tuple(address for address, _ in interface.addresses),
            listen_port=interface.listen_port,
            mtu=interface.mtu,
            fwmark=interface.fwmark,
            datapath=interface.datapath,
            workers=interface.workers,
            queues=interface.queues,
            dns=_freeze_servers(interface),
            table=interface.table,
            kill_switch=interface.kill_switch,
            hooks=Hooks(**{key: tuple(commands) for key, commands in interface.hooks.items()}),
            save_config=interface.save_config,
            netns=interface.netns,
            birth_netns=interface.birth_netns,
            backend=interface.backend,
            channel=interface.channel,
            ports=interface.ports,
        ),
        peers=tuple(
            _freeze(peer, peer.public_key) for peer in draft.peers if peer.public_key is not None
        ),
        server=server,
        metrics=finish_metrics(draft.metrics, findings),
        resilience=finish_resilience(draft.resilience, findings),
        warnings=findings.warnings,
    )


def _freeze_servers(interface: InterfaceDraft) -> NameServers | None:
    servers = tuple(dict.fromkeys(server for server, _ in interface.servers))
    search = tuple(dict.fromkeys(interface.search))
    return NameServers(servers, search) if servers or search else None


def _freeze(peer: PeerDraft, public_key: PublicKey) -> PeerConfig:
    return PeerConfig(
        public_key=public_key,
        name=peer.name,
        preshared_key=peer.preshared_key,
        endpoint=peer.endpoint,
        other_endpoints=peer.other_endpoints,
        allowed_ips=tuple(dict.fromkeys(prefix for prefix, _ in peer.allowed_ips)),
        persistent_keepalive=peer.persistent_keepalive,
        server=peer.server,
        ports=peer.ports,
        file=peer.place.file,
        line=peer.place.line,
    )


def _check_interface(interface: InterfaceDraft, findings: Findings) -> None:
    first_at: dict[bytes, Place] = {}
    for address, place in interface.addresses:
        first = first_at.get(address.address)
        if first is None:
            first_at[address.address] = place
        else:
            findings.error(place, f"{address} is an address on {first.seen_from(place)} already")
    has_ipv6 = any(len(address.address) == 16 for address, _ in interface.addresses)
    if has_ipv6 and interface.mtu is not None and interface.mtu < MIN_MTU_IPV6:
        findings.error(
            interface.claims["mtu"],
            f"expected at least {MIN_MTU_IPV6}, which the IPv6 address needs,"
            f" found {interface.mtu}",
        )
    if interface.queues > interface.workers:
        findings.warn(
            interface.claims["queues"],
            f"{interface.queues} queues are more than the workers, {interface.workers};"
            " those beyond gain nothing",
            f"set workers = {interface.queues}, or queues = {interface.workers}",
        )

    for server, place in interface.servers[MAX_SERVERS:][:1]:
        findings.warn(
            place,
            f"{format_address(server)} is name server {MAX_SERVERS + 1}; most programs ask"
            f" only the first {MAX_SERVERS}",
        )
    if interface.backend is BackendWish.KERNEL:
        for key in ("datapath", "workers", "queues"):
            if key in interface.claims:
                findings.error(
                    interface.claims[key],
                    "is about nvpn's own datapath, and the backend is the kernel",
                    'remove it, or set backend = "userspace"',
                )


def _check_ports(draft: Draft, findings: Findings) -> None:
    """The kernel's WireGuard looks into no packet."""
    if draft.interface.backend is BackendWish.KERNEL:
        for claims in (draft.interface.claims, *(peer.claims for peer in draft.peers)):
            for key in PORT_KEYS:
                if key in claims:
                    findings.error(
                        claims[key],
                        "needs nvpn's own datapath, and the backend is the kernel",
                        'set backend = "userspace", or let a firewall see to it',
                    )


def _check_keys(draft: Draft, findings: Findings) -> None:
    private_key = draft.interface.private_key
    own = private_key.public() if private_key is not None and draft.peers else None
    first_at: dict[PublicKey, Place] = {}
    for peer in draft.peers:
        if peer.public_key is None:
            continue
        place = peer.claims["public_key"]
        first = first_at.get(peer.public_key)
        if first is None:
            first_at[peer.public_key] = place
        else:
            findings.error(place, f"is the key of the peer on {first.seen_from(place)} already")
        if peer.public_key == own:
            findings.error(
                place,
                "is the public key of this interface itself",
                "expected the key of the other side",
            )


def _check_names(draft: Draft, findings: Findings) -> None:
    first_at: dict[str, Place] = {}
    for peer in draft.peers if draft.unique_names else ():
        if peer.name:
            place = peer.claims["name"]
            first = first_at.get(peer.name)
            if first is None:
                first_at[peer.name] = place
            else:
                message = f"{quote(peer.name)} is a peer on {first.seen_from(place)} already"
                findings.error(place, message)


def _check_allowed_ips(peers: list[PeerDraft], findings: Findings) -> None:
    first_at: dict[Prefix, tuple[PeerDraft, Place]] = {}
    for peer in peers:
        for prefix, place in peer.allowed_ips:
            if prefix not in first_at:
                first_at[prefix] = peer, place
                continue
            first_peer, first = first_at[prefix]
            if first_peer is not peer:
                findings.error(
                    place,
                    f"{prefix} belongs to the peer on {first.seen_from(place)} already",
                    "a prefix leads to one peer",
                )
            else:
                findings.warn(place, f"{prefix} is given twice")


def _warn_about(peer: PeerDraft, interface: InterfaceDraft, findings: Findings) -> None:
    if peer.server and peer.endpoint is None:
        findings.warn(
            peer.claims["server"],
            "the peer has no endpoint, so that it cannot be asked before it speaks first",
        )
    if interface.table is not None or interface.netns != interface.birth_netns:
        return  # The routes of the packets that carry the tunnel are others.
    for endpoint in (peer.endpoint, *peer.other_endpoints):
        address = endpoint.address if endpoint else None
        if address is None:
            continue
        outside = Prefix.of(address, len(address) * 8)
        for prefix, place in peer.allowed_ips:
            if prefix.covers(outside) and not prefix.is_default:
                findings.warn(
                    place,
                    f"{prefix} contains the peer's own endpoint {endpoint}",
                    "its packets would be routed into the tunnel that they carry",
                )
