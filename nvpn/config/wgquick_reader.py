"""One ``.conf`` file, as wg(8) and wg-quick(8) have it, into the draft.

The syntax is theirs to the letter: sections and keys in any case, blanks inside a line
dropped, ``#`` begins a comment anywhere, Address and AllowedIPs may be given often and
take several values. In a hook ``#`` stays, as in today's wg-quick; the versions until 2025
cut it off, together with the rest of the command.

What nvpn has and they have not stands in comments: see :mod:`nvpn.config.conf_comments`.

Stricter than they are in what is certainly a mistake: a key given twice, of which they
would take the last, and what :mod:`nvpn.config.draft` checks between peers.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Final

from nvpn.config import values
from nvpn.config.conf_comments import CommentReader, find_comment_key, find_name
from nvpn.config.draft import Draft, PeerDraft, claim
from nvpn.config.files import TextFile
from nvpn.config.findings import Findings, Place, did_you_mean, label, may_hold_key, quote
from nvpn.config.model import HostPort
from nvpn.config.reading import add_hook, read, read_flag, warn_of_host_bits
from nvpn.config.schema import EXAMPLE_KEY, HOOK_KEYS, unknown_key
from nvpn.config.tables import parse_table
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey

_INTERFACE_KEYS: Final = {
    "PrivateKey": "private_key",
    "Address": "address",
    "ListenPort": "listen_port",
    "MTU": "mtu",
    "FwMark": "fwmark",
    "DNS": "dns",
    "Table": "table",
    "PreUp": "pre_up",
    "PostUp": "post_up",
    "PreDown": "pre_down",
    "PostDown": "post_down",
    "SaveConfig": "save_config",
}
_PEER_KEYS: Final = {
    "PublicKey": "public_key",
    "PresharedKey": "preshared_key",
    "Endpoint": "endpoint",
    "AllowedIPs": "allowed_ips",
    "PersistentKeepalive": "persistent_keepalive",
}

_SECTIONS: Final = {"[interface]": "Interface", "[peer]": "Peer"}
_OTHER_FORMAT: Final = re.compile(r"\[+(server|metrics|resilience)\b", re.IGNORECASE)


KEYS: Final = {
    "Interface": {name.lower(): key for name, key in _INTERFACE_KEYS.items()},
    "Peer": {name.lower(): key for name, key in _PEER_KEYS.items()},
}
"""By section: what is written, in lower case, and its name in nvpn.toml(5)."""
WRITTEN: Final = {
    "Interface": {key: name for name, key in _INTERFACE_KEYS.items()},
    "Peer": {key: name for name, key in _PEER_KEYS.items()},
}
"""The other way round, as people write it."""


def read_wgquick(source: TextFile, draft: Draft, findings: Findings) -> None:
    """Add what the file says to the draft, and every mistake in it to the findings."""
    draft.unique_names = False  # They come from comments, which promise nothing.
    reader = _Reader(source, draft, findings)
    for number, line in enumerate(source.text.split("\n"), 1):
        reader.read_line(line, number)
    reader.end()


class _Reader:
    def __init__(self, source: TextFile, draft: Draft, findings: Findings) -> None:
        self._source = source
        self._draft = draft
        self._findings = findings
        self._comments = CommentReader(findings, parse_endpoint)
        self._section: str | None = None
        self._before_sections = True
        self._peer: PeerDraft | None = None
        self._holds_secret = False

    def read_line(self, line: str, number: int) -> None:
        code, _, _ = line.partition("#")
        text = "".join(code.split())
        if not text:
            self._read_comment(line, number)
        elif text.startswith("["):
            self._begin_section(text, number)
        elif self._section is not None:
            self._read_pair(self._section, code, line, number)
        elif self._before_sections:
            self._before_sections = False
            self._findings.error(
                Place(self._source.name, number),
                "stands before any section",
                "expected [Interface] or [Peer] first",
            )

    def end(self) -> None:
        self._end_section()
        if self._holds_secret:
            self._source.warn_if_exposed(self._findings)
        if self._draft.interface.hooks:
            self._source.warn_if_writable(self._findings)

    def _read_comment(self, line: str, number: int) -> None:
        for_us = find_comment_key(line)
        if for_us is not None and self._section is not None:
            self._read_for_us(self._section, *for_us, number)
            return
        name = find_name(line)
        if not name or self._peer is None or self._peer.name:
            return
        try:
            self._peer.name = values.check_name(name)
        except ValueError:
            pass  # It is only a comment.

    def _begin_section(self, text: str, number: int) -> None:
        self._end_section()
        self._draft.sections += 1
        self._before_sections = False
        self._section = _SECTIONS.get(text.lower())
        place = Place(self._source.name, number)
        if self._section is None:
            meant = did_you_mean(text.strip("[]"), _SECTIONS.values(), {"peers": "Peer"})
            meant = re.sub(r'"(\w+)"', r"[\1]", meant)
            self._findings.error(
                place,
                f"{quote(text)} is an unknown section",
                meant or _where_it_belongs(text),
            )
        elif self._section == "Peer":
            self._peer = PeerDraft(place._replace(key="[Peer]"))
            self._draft.peers.append(self._peer)

    def _end_section(self) -> None:
        peer = self._peer
        if peer is not None and "public_key" not in peer.claims:
            self._findings.error(peer.place, "has no PublicKey", "every peer needs one")
        if peer is not None and peer.other_endpoints and "endpoint" not in peer.claims:
            self._findings.error(peer.place, "has other endpoints, and no Endpoint")
        if peer is not None:
            # To have been saved with the endpoint that it was last at is no mistake.
            others = tuple(other for other in peer.other_endpoints if other != peer.endpoint)
            peer.other_endpoints = others
        self._peer = None
        self._section = None

    def _read_for_us(self, section: str, key: str, text: str, number: int) -> None:
        """What nvpn.toml(5) has and the other programs have not."""
        place = Place(self._source.name, number, f"[{section}] nvpn: {label(key)}")
        if not self._comments.is_known(section, key, place):
            return
        if self._peer is None:
            self._comments.read_interface(self._draft.interface, key, text, place)
        else:
            self._comments.read_peer(self._peer, key, text, place)

    def _read_pair(self, section: str, code: str, line: str, number: int) -> None:
        name, equals, rest = code.partition("=")
        name = "".join(name.split())
        keys = _PEER_KEYS if section == "Peer" else _INTERFACE_KEYS
        written = next((known for known in keys if known.lower() == name.lower()), None)
        place = Place(self._source.name, number, f"[{section}] {written or label(name)}")
        if not equals:
            self._findings.error(place._replace(key=f"[{section}]"), "expected Key = value")
        elif written is None:
            self._refuse(name, section, place)
        elif self._peer is None:
            whole = line.partition("=")[2]
            self._read_ours(keys[written], rest, whole, place)
        elif written == "AllowedIPs":
            self._peer.claims.setdefault("allowed_ips", place)
            self._read_allowed_ips(self._peer, "".join(rest.split()), place)
        else:
            self._read_single(keys[written], "".join(rest.split()), place)

    def _read_ours(self, key: str, rest: str, whole: str, place: Place) -> None:
        """A pair of [Interface]; ``whole`` is its value if ``#`` begins no comment."""
        interface = self._draft.interface
        if key == "address":
            self._read_addresses(rest, place)
        elif key == "dns":
            self._read_servers(rest, place)
        elif key in HOOK_KEYS:
            add_hook(interface, key, whole, place, self._findings)
        elif key not in ("table", "save_config"):
            self._read_single(key, "".join(rest.split()), place)
        elif claim(interface.claims, key, place, self._findings):
            if key == "save_config":
                interface.save_config = read_flag(rest.strip(), place, self._findings)
            else:
                choice = read(parse_table, rest.strip(), place, self._findings)
                interface.table = choice and choice.table

    def _refuse(self, name: str, section: str, place: Place) -> None:
        tables: Mapping[str, Mapping[str, str]] = {
            "[Interface]": _INTERFACE_KEYS, "[Peer]": _PEER_KEYS,
        }  # fmt: skip
        here, there = ("[Peer]", "[Interface]") if section == "Peer" else ("[Interface]", "[Peer]")
        self._findings.error(place, *unknown_key(name, tables[here], [(there, tables[there])]))

    def _read_addresses(self, text: str, place: Place) -> None:
        interface = self._draft.interface
        interface.claims.setdefault("address", place)
        # The halves of a key with a blank in it do not look like one.
        whole = text if may_hold_key(text) else None
        for word in re.split(r"[\s,]+", text.strip()):
            address = read(values.parse_interface, word, place, self._findings, shown=whole)
            if address is not None:
                interface.addresses.append((address, place))

    def _read_servers(self, text: str, place: Place) -> None:
        interface = self._draft.interface
        interface.claims.setdefault("dns", place)
        whole = text if may_hold_key(text) else None
        for word in text.replace(",", " ").split():
            if values.is_server_word(word):
                server = read(values.parse_server, word, place, self._findings, shown=whole)
                if server is not None:
                    interface.servers.append((server, place))
            else:
                domain = read(values.parse_domain, word, place, self._findings, shown=whole)
                if domain is not None:
                    interface.search.append(domain)

    def _read_allowed_ips(self, peer: PeerDraft, text: str, place: Place) -> None:
        for word in text.split(","):
            # `wg` reads the length by strtoul, so 10.0.0.0/08 is 10.0.0.0/8.
            plain = re.sub(r"/0+(?=[0-9])", "/", word)
            prefix = read(values.parse_prefix, plain, place, self._findings)
            if prefix is None:
                continue
            peer.allowed_ips.append((prefix, place))
            warn_of_host_bits(word, prefix, place, self._findings)

    def _read_single(self, key: str, text: str, place: Place) -> None:
        interface, peer = self._draft.interface, self._peer
        claims = interface.claims if peer is None else peer.claims
        if not claim(claims, key, place, self._findings):
            return
        if key in ("private_key", "public_key", "preshared_key"):
            self._read_key(key, text, place)
        elif peer is None and key == "listen_port":
            interface.listen_port = read(parse_listen_port, text, place, self._findings)
        elif peer is None and key == "mtu":
            interface.mtu = read(values.parse_mtu, text, place, self._findings)
        elif peer is None:
            interface.fwmark = read(values.parse_fwmark, text, place, self._findings) or 0
        elif key == "endpoint":
            peer.endpoint = read(parse_endpoint, text, place, self._findings)
        else:
            peer.persistent_keepalive = read(values.parse_keepalive, text, place, self._findings)

    def _read_key(self, key: str, text: str, place: Place) -> None:
        self._holds_secret |= key != "public_key"
        try:
            raw = values.decode_key(text)
        except ValueError as error:
            self._findings.error(place, str(error))
            return
        if key != "public_key" and values.is_example_key(text):
            self._findings.warn(place, *EXAMPLE_KEY)
        if not any(raw):
            if key != "preshared_key":
                self._findings.error(place, "expected a key, found one of zeros only")
        elif self._peer is None:
            self._draft.interface.private_key = PrivateKey(raw)
        elif key == "public_key":
            self._peer.public_key = PublicKey(raw)
        else:
            self._peer.preshared_key = PresharedKey(raw)


def _where_it_belongs(section: str) -> str:
    if _OTHER_FORMAT.match(section):
        return "it is of a .toml: turn this file into one with nvpn import, and put it there"
    return "known are [Interface] and [Peer]"


def parse_listen_port(text: str) -> int:
    """A number, or the name of a service, as wg takes it. Raises ValueError."""
    if not text.isdigit():
        try:
            return socket.getservbyname(text, "udp")
        except (OSError, UnicodeError, ValueError):
            pass
    return values.parse_port(text)


def parse_endpoint(text: str) -> HostPort:
    """As wg takes it, whose IPv6 addresses need no brackets. Raises ValueError."""
    host, port = values.split_endpoint(text, bare_ipv6=True)
    return values.make_endpoint(host, parse_listen_port(port))
