"""One TOML file into the draft. The schema is told in nvpn.toml(5)."""

from __future__ import annotations

from typing import Any

from nvpn.config import values
from nvpn.config.draft import Draft, InterfaceDraft, PeerDraft
from nvpn.config.files import TextFile, read_secret
from nvpn.config.findings import Findings, Place, did_you_mean, found, quote
from nvpn.config.locate import Position
from nvpn.config.model import BackendWish, HostPort
from nvpn.config.reading import add_hook
from nvpn.config.schema import EXAMPLE_KEY, HEADERS, HOOK_KEYS, KEYS, PORT_KEYS, SECTIONS
from nvpn.config.server_reader import read_metrics, read_resilience, read_server
from nvpn.config.tables import parse_table
from nvpn.config.toml_syntax import parse_document
from nvpn.config.toml_table import Document, Table
from nvpn.datapath.choice import Wish
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.ports import PortPolicy, PortSpec, parse_port_spec

_KNOWN = "known are [interface], [[peer]], [server], [metrics] and [resilience]"


def read_toml(source: TextFile, draft: Draft, findings: Findings) -> None:
    """Add what the file says to the draft, and every mistake in it to the findings."""
    document = parse_document(source, findings)
    if document is not None:
        _Reader(source, draft, findings).read(document)


class _Reader:
    def __init__(self, source: TextFile, draft: Draft, findings: Findings) -> None:
        self._source = source
        self._draft = draft
        self._findings = findings
        self._document = Document(source, findings)

    def read(self, document: dict[str, Any]) -> None:
        for section in document:
            if section not in SECTIONS:
                self._refuse_section(section, document[section])
        interface = self._one_table(document, "interface")
        if interface is not None:
            self._read_interface(interface)
        if "peer" in document:
            self._read_peers(document["peer"])
        server = self._one_table(document, "server")
        if server is not None:
            read_server(server, self._draft.server, self._document)
        metrics = self._one_table(document, "metrics")
        if metrics is not None:
            read_metrics(metrics, self._draft.metrics, self._document)
        resilience = self._one_table(document, "resilience")
        if resilience is not None:
            read_resilience(resilience, self._draft.resilience, self._document)
        if self._document.holds_secret:
            self._source.warn_if_exposed(self._findings)

    def _refuse_section(self, name: str, value: object) -> None:
        self._draft.sections += 1
        place = self._document.place((name,))
        if not isinstance(value, (dict, list)):
            known = next((section for section in SECTIONS if name in KEYS[section]), "")
            hint = f"put it below {HEADERS[known]}" if known else _KNOWN
            self._findings.error(place, "stands outside of any section", hint)
            return
        meant = did_you_mean(name, SECTIONS, {"peers": "peer", "device": "interface"})
        for section in SECTIONS:
            meant = meant.replace(f'"{section}"', HEADERS[section])
        self._findings.error(place, "is an unknown section", meant or _KNOWN)

    def _one_table(self, document: dict[str, Any], section: str) -> dict[str, Any] | None:
        """A section of which there is one; None, with a mistake if it is something else."""
        if section not in document:
            return None
        self._draft.sections += 1
        value, place = document[section], self._document.place((section,))
        if isinstance(value, dict):
            return value
        if isinstance(value, list):
            hint = f"write [{section}] in single brackets, once"
            self._findings.error(place, f"expected one table, {found(value)}", hint)
        else:
            self._findings.error(place, f"expected a table, {found(value)}", f"write [{section}]")
        return None

    def _read_interface(self, section: dict[str, Any]) -> None:
        interface: InterfaceDraft = self._draft.interface
        table = Table(section, ("interface",), interface.claims, self._document, "interface")
        raw = self._key(table, "private_key")
        if raw is not None:
            interface.private_key = PrivateKey(raw)
        for text, place in table.texts("address"):
            address = self._document.parse(values.parse_interface, text, place)
            if address is not None:
                interface.addresses.append((address, place))
        if "listen_port" in table:
            interface.listen_port = table.number("listen_port", 0, values.MAX_PORT, "a port")
        if "mtu" in table:
            interface.mtu = table.number("mtu", values.MIN_MTU, values.MAX_MTU, "bytes")
        interface.fwmark |= table.number_or_text("fwmark", values.parse_fwmark) or 0
        datapath = table.parsed("datapath", Wish.parse)
        if datapath is not None:
            interface.datapath = datapath
        if "workers" in table:
            interface.workers = table.number("workers", 1, values.MAX_WORKERS, "workers") or 1
        if "queues" in table:
            interface.queues = table.number("queues", 1, values.MAX_QUEUES, "queues") or 1
        interface.backend = table.parsed("backend", BackendWish.parse) or interface.backend
        interface.channel |= table.flag("channel")
        interface.ports = self._read_ports(table, interface.ports)
        self._read_host(table, interface)

    def _read_host(self, table: Table, interface: InterfaceDraft) -> None:
        """What is about the host, not about the tunnel itself."""
        table.name_servers(interface.servers, interface.search)
        number = table.number_or_text("table", parse_table)
        interface.table = interface.table if number is None else number.table
        interface.kill_switch |= table.flag("kill_switch")
        interface.save_config |= table.flag("save_config")
        interface.netns = table.parsed("netns", values.parse_netns) or interface.netns
        interface.birth_netns = (
            table.parsed("birth_netns", values.parse_netns) or interface.birth_netns
        )
        for key in HOOK_KEYS:
            for text, place in table.texts(key):
                add_hook(interface, key, text, place, self._findings)
        if interface.hooks:
            self._source.warn_if_writable(self._findings)

    def _read_peers(self, peers: object) -> None:
        self._draft.sections += 1
        for section, index in self._document.tables(peers, ("peer",)):
            self._read_peer(section, ("peer", index))
        if isinstance(peers, dict):
            self._read_peer(peers, ("peer",))

    def _read_peer(self, section: dict[str, Any], position: Position) -> None:
        peer = PeerDraft(self._document.place(position))
        self._draft.peers.append(peer)
        table = Table(section, position, peer.claims, self._document, "peer")
        peer.name = table.parsed("name", values.check_name) or ""
        raw = self._key(table, "public_key")
        if raw is not None:
            peer.public_key = PublicKey(raw)
        elif "public_key" not in section:
            self._findings.error(peer.place, "has no public_key", "every peer needs one")
        raw = self._key(table, "preshared_key")
        if raw is not None and any(raw):
            peer.preshared_key = PresharedKey(raw)
        peer.endpoint = table.parsed("endpoint", _parse_endpoint)
        self._read_endpoints(table, peer)
        peer.allowed_ips += table.prefixes("allowed_ips")
        peer.persistent_keepalive = table.number_or_text(
            "persistent_keepalive", values.parse_keepalive
        )
        peer.server = table.flag("server")
        peer.ports = self._read_ports(table, peer.ports)

    def _read_ports(self, table: Table, before: PortPolicy) -> PortPolicy:
        """What this table says of ports, beside what another file has said."""
        given = {key: self._read_specs(table, key) for key in PORT_KEYS if key in table}
        return PortPolicy(
            given.get("allowed_ports", before.allowed),
            given.get("disallowed_ports", before.disallowed),
        )

    def _read_specs(self, table: Table, key: str) -> tuple[PortSpec, ...]:
        specs = (
            self._document.parse(parse_port_spec, text, place)
            for text, place in table.texts(key, numbers=True)
        )
        return tuple(dict.fromkeys(spec for spec in specs if spec is not None))

    def _read_endpoints(self, table: Table, peer: PeerDraft) -> None:
        endpoints: dict[HostPort, Place] = {}
        for text, place in table.texts("endpoints", what="endpoint"):
            endpoint = self._document.parse(_parse_endpoint, text, place)
            if endpoint is None:
                continue
            if endpoint in endpoints:
                self._findings.error(
                    place, f"{quote(str(endpoint))} is given twice", "keep one of them"
                )
            elif len(endpoints) == values.MAX_ENDPOINTS:
                self._findings.error(
                    place,
                    f"expected at most {values.MAX_ENDPOINTS} endpoints, and this is one more",
                )
            endpoints[endpoint] = place
        if endpoints:
            peer.endpoint, *others = endpoints
            peer.other_endpoints = tuple(others)

    def _key(self, table: Table, key: str) -> bytes | None:
        """The 32 bytes of a key that is given itself, or by the name of a file."""
        taken = table.text(key)
        if taken is not None and key != "public_key":
            self._document.holds_secret = True
        word, place = taken or (None, None)
        if key != "public_key":
            named = table.text(f"{key}_file", what=key)
            if named is not None:
                place = named[1]
                word = read_secret(named[0], self._source, place, self._findings)
        if word is None or place is None:
            return None
        try:
            raw = values.decode_key(word)
        except ValueError as error:
            self._findings.error(place, str(error))
            return None
        if key != "public_key" and values.is_example_key(word):
            self._findings.warn(place, *EXAMPLE_KEY)
        if key != "preshared_key" and not any(raw):
            self._findings.error(place, "expected a key, found one of zeros only")
            return None
        return raw


def _parse_endpoint(text: str) -> HostPort:
    host, port = values.split_endpoint(text)
    return values.make_endpoint(host, values.parse_port(port))
