"""One ``.conf`` file, as wg(8) and wg-quick(8) have it, into the draft.

The syntax is theirs to the letter: sections and keys in any case, blanks inside a line
dropped, ``#`` begins a comment anywhere, Address and AllowedIPs may be given often and
take several values. What those tools would do and nvpn does not yet is refused, so that
nothing that a file asks for is silently left out.

Stricter than they are in what is certainly a mistake: a key given twice, of which they
would take the last, and what :mod:`nvpn.config.draft` checks between peers.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from nvpn.config import values
from nvpn.config.draft import Draft, PeerDraft, claim
from nvpn.config.files import TextFile
from nvpn.config.findings import Findings, Place, did_you_mean, found, label, may_hold_key, quote
from nvpn.config.model import HostPort
from nvpn.config.schema import EXAMPLE_KEY, LATER, unknown_key
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey

_T = TypeVar("_T")

_INTERFACE_KEYS: Final = {
    "PrivateKey": "private_key",
    "Address": "address",
    "ListenPort": "listen_port",
    "MTU": "mtu",
    "FwMark": "fwmark",
}
_PEER_KEYS: Final = {
    "PublicKey": "public_key",
    "PresharedKey": "preshared_key",
    "Endpoint": "endpoint",
    "AllowedIPs": "allowed_ips",
    "PersistentKeepalive": "persistent_keepalive",
}
_LATER_KEYS: Final = {
    "DNS": "dns",
    "Table": "table",
    "PreUp": "pre_up",
    "PostUp": "post_up",
    "PreDown": "pre_down",
    "PostDown": "post_down",
    "SaveConfig": "save_config",
}
# Asking for what nvpn does anyway is no reason to refuse.
_HARMLESS: Final = {"Table": "auto", "SaveConfig": "false"}

# A comment by which other programs name a peer: "# Name = laptop".
_NAME: Final = re.compile(r"\s*#\s*(?:friendly[_ ]?)?name\s*=\s*(.+?)\s*", re.IGNORECASE)
_SECTIONS: Final = {"[interface]": "Interface", "[peer]": "Peer"}


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
        self._section: str | None = None
        self._before_sections = True
        self._peer: PeerDraft | None = None
        self._holds_secret = False

    def read_line(self, line: str, number: int) -> None:
        code, _, _ = line.partition("#")
        text = "".join(code.split())
        if not text:
            self._read_comment(line)
        elif text.startswith("["):
            self._begin_section(text, number)
        elif self._section is not None:
            self._read_pair(self._section, code, number)
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

    def _read_comment(self, line: str) -> None:
        match = _NAME.fullmatch(line)
        if match is None or self._peer is None or self._peer.name:
            return
        try:
            self._peer.name = values.check_name(match[1])
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
                meant or "known are [Interface] and [Peer]",
            )
        elif self._section == "Peer":
            self._peer = PeerDraft(place._replace(key="[Peer]"))
            self._draft.peers.append(self._peer)

    def _end_section(self) -> None:
        if self._peer is not None and "public_key" not in self._peer.claims:
            self._findings.error(self._peer.place, "has no PublicKey", "every peer needs one")
        self._peer = None
        self._section = None

    def _read_pair(self, section: str, code: str, number: int) -> None:
        name, equals, rest = code.partition("=")
        name = "".join(name.split())
        keys = _PEER_KEYS if section == "Peer" else {**_INTERFACE_KEYS, **_LATER_KEYS}
        key = next((known for known in keys if known.lower() == name.lower()), None)
        place = Place(self._source.name, number, f"[{section}] {key or label(name)}")
        if not equals:
            self._findings.error(place._replace(key=f"[{section}]"), "expected Key = value")
        elif key is None:
            self._refuse(name, section, place)
        elif key in _LATER_KEYS:
            if rest.strip().lower() != _HARMLESS.get(key):
                self._findings.error(place, *LATER[_LATER_KEYS[key]])
        elif key == "Address":
            self._read_addresses(rest, place)
        elif key == "AllowedIPs" and self._peer is not None:
            self._peer.claims.setdefault("allowed_ips", place)
            self._read_allowed_ips(self._peer, "".join(rest.split()), place)
        else:
            self._read_single(keys[key], "".join(rest.split()), place)

    def _refuse(self, name: str, section: str, place: Place) -> None:
        if section == "Peer":
            there = "[Interface]", (*_INTERFACE_KEYS, *_LATER_KEYS)
            verdict = unknown_key(name, _PEER_KEYS, (), there)
        else:
            verdict = unknown_key(name, _INTERFACE_KEYS, _LATER_KEYS, ("[Peer]", _PEER_KEYS))
        self._findings.error(place, *verdict)

    def _read_addresses(self, text: str, place: Place) -> None:
        interface = self._draft.interface
        interface.claims.setdefault("address", place)
        # The halves of a key with a blank in it do not look like one.
        whole = text if may_hold_key(text) else None
        for word in re.split(r"[\s,]+", text.strip()):
            address = self._parse(values.parse_interface, word, place, shown=whole)
            if address is not None:
                interface.addresses.append((address, place))

    def _read_allowed_ips(self, peer: PeerDraft, text: str, place: Place) -> None:
        for word in text.split(","):
            # `wg` reads the length by strtoul, so 10.0.0.0/08 is 10.0.0.0/8.
            plain = re.sub(r"/0+(?=[0-9])", "/", word)
            prefix = self._parse(values.parse_prefix, plain, place)
            if prefix is None:
                continue
            peer.allowed_ips.append((prefix, place))
            if values.has_host_bits(plain, prefix):
                self._findings.warn(place, f"{quote(word)} is taken as {prefix}")

    def _read_single(self, key: str, text: str, place: Place) -> None:
        interface, peer = self._draft.interface, self._peer
        claims = interface.claims if peer is None else peer.claims
        if not claim(claims, key, place, self._findings):
            return
        if key in ("private_key", "public_key", "preshared_key"):
            self._read_key(key, text, place)
        elif peer is None and key == "listen_port":
            interface.listen_port = self._parse(_parse_port, text, place)
        elif peer is None and key == "mtu":
            interface.mtu = self._parse(values.parse_mtu, text, place)
        elif peer is None:
            interface.fwmark = self._parse(values.parse_fwmark, text, place) or 0
        elif key == "endpoint":
            peer.endpoint = self._parse(_parse_endpoint, text, place)
        else:
            peer.persistent_keepalive = self._parse(values.parse_keepalive, text, place) or 0

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

    def _parse(
        self, parse: Callable[[str], _T], text: str, place: Place, *, shown: str | None = None
    ) -> _T | None:
        try:
            return parse(text)
        except ValueError as error:
            self._findings.error(place, f"{error}, {found(text if shown is None else shown)}")
            return None


def _parse_port(text: str) -> int:
    if not text.isdigit():
        try:
            return socket.getservbyname(text, "udp")
        except (OSError, UnicodeError, ValueError):
            pass
    return values.parse_port(text)


def _parse_endpoint(text: str) -> HostPort:
    host, port = values.split_endpoint(text, bare_ipv6=True)
    return values.make_endpoint(host, _parse_port(port))
