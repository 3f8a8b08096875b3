"""The language of wg(8), its words and its files, read into lines for the control socket.

``set`` is a row of words, ``setconf`` and its like take a file. Sentences about mistakes
are wg's, but for keys, which no sentence repeats. Nothing here asks a resolver or opens
a file: ``resolve`` and ``read_key`` do that.

Source: wg(8) of wireguard-tools 1.0.20260223, and the lines that it was seen to send.
"""

from __future__ import annotations

import binascii
import re
import socket
from collections.abc import Callable, Collection, Sequence

from nvpn.control.wg_endpoint import parse_port
from nvpn.control.wg_words import WgError, told

Resolve = Callable[[str], str]
"""``host:port`` as typed in, ``192.0.2.1:51820`` or ``[2001:db8::1]:51820`` out, or WgError."""

NO_KEY = "0" * 64
_KEY_LENGTH = 32
_BAD_KEY = "Key is not the correct length or format"
_SPACES = str.maketrans("", "", " \t\n\v\f\r")
# Also spelt wrong, what stands behind it may be a secret.
_SECRET_LINE = re.compile(r"[^=]*(?:key|psk|priv|presh|secret)", re.IGNORECASE)


class _Settings:
    """What is said of the device; None where nothing is. Holds keys: it has no repr."""

    __slots__ = ("fwmark", "listen_port", "private_key")

    def __init__(self) -> None:
        self.private_key: str | None = None
        self.listen_port: int | None = None
        self.fwmark: int | None = None

    def lines(self) -> list[str]:
        values = (
            ("private_key", self.private_key),
            ("listen_port", self.listen_port),
            ("fwmark", self.fwmark),
        )
        return [f"{key}={value}" for key, value in values if value is not None]


class _Peer:
    """What is said of a peer; None where nothing is. Holds keys: it has no repr."""

    __slots__ = (
        "allowed_ips",
        "endpoint",
        "is_removed",
        "persistent_keepalive",
        "preshared_key",
        "public_key",
        "replaces_allowed_ips",
    )

    def __init__(self, *, replaces_allowed_ips: bool) -> None:
        self.public_key = ""
        self.is_removed = False
        self.preshared_key: str | None = None
        self.endpoint: str | None = None
        self.persistent_keepalive: int | None = None
        self.replaces_allowed_ips = replaces_allowed_ips
        self.allowed_ips: list[str] = []

    def lines(self, *, resets: bool = False) -> list[str]:
        """``resets``: what is not said is none."""
        if self.is_removed:
            return [f"public_key={self.public_key}", "remove=true"]
        preshared_key, keepalive = self.preshared_key, self.persistent_keepalive
        if resets:
            preshared_key, keepalive = preshared_key or NO_KEY, keepalive or 0
        values = (
            ("public_key", self.public_key),
            ("preshared_key", preshared_key),
            ("endpoint", self.endpoint),
            ("persistent_keepalive_interval", keepalive),
            ("replace_allowed_ips", "true" if self.replaces_allowed_ips else None),
        )
        lines = [f"{key}={value}" for key, value in values if value is not None]
        return lines + [f"allowed_ip={prefix}" for prefix in self.allowed_ips]

    def add_allowed_ips(self, text: str, warn: Callable[[str], None]) -> None:
        """Take a list without spaces; a sign in it makes all of it an addition to what is."""
        self.replaces_allowed_ips = True
        for entry in text.split(",") if text else ():
            sign, prefix = ("", entry) if entry[:1] not in ("+", "-") else (entry[0], entry[1:])
            if sign:
                self.replaces_allowed_ips = False
            minus = "-" if sign == "-" else ""
            self.allowed_ips.append(minus + _parse_prefix(prefix, warn))


class WgConfig:
    """A file for setconf, addconf or syncconf. It holds keys, and so it has no repr."""

    __slots__ = ("_peers", "_replaces_peers", "_settings")

    def __init__(self, settings: _Settings, peers: list[_Peer], *, replaces_peers: bool) -> None:
        self._settings = settings
        self._peers = peers
        self._replaces_peers = replaces_peers

    @property
    def peers(self) -> tuple[str, ...]:
        """Their public keys in hexadecimal, in the file's order."""
        return tuple(peer.public_key for peer in self._peers)

    def lines(self) -> list[str]:
        """The ``set`` that makes it so."""
        lines = self._settings.lines()
        if self._replaces_peers:
            lines.append("replace_peers=true")
        for peer in self._peers:
            lines += peer.lines()
        return lines

    def sync_lines(self, running: Collection[str]) -> list[str]:
        """The ``set`` that makes it so and leaves the sessions of peers that stay alone.

        Args:
            running: the public keys, in hexadecimal, of the peers there are now.
        """
        if not self._peers or not running:
            return self.lines()
        lines = self._settings.lines()
        staying = set(self.peers)
        for public_key in running:
            if public_key not in staying:
                lines += (f"public_key={public_key}", "remove=true")
        for peer in self._peers:
            lines += peer.lines(resets=True)
        return lines


def parse_set_arguments(
    words: Sequence[str],
    *,
    read_key: Callable[[str], str],
    resolve: Resolve,
    warn: Callable[[str], None],
) -> list[str]:
    """The lines of a ``set`` for what follows ``wg set INTERFACE``.

    Args:
        read_key: the key in the file of that name, 64 hexadecimal digits; may raise WgError.
        resolve: looks up an endpoint.
        warn: called with a sentence about what is odd but done.

    Raises:
        WgError: the first word that makes no sense.
    """
    settings = _Settings()
    peers: list[_Peer] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        peer = peers[-1] if peers else None
        if word == "remove" and peer is not None:
            peer.is_removed = True
            continue
        if not rest or not _takes(word, peer):
            raise WgError(_unknown_argument(word))
        value = rest.pop()
        if word == "peer":
            peers.append(_Peer(replaces_allowed_ips=False))
            peers[-1].public_key = _parse_key(value, "peer")
        elif peer is None:
            _set_device_word(settings, word, value, read_key)
        elif word == "preshared-key":
            peer.preshared_key = read_key(value)
        elif word == "endpoint":
            peer.endpoint = resolve(value)
        elif word == "persistent-keepalive":
            peer.persistent_keepalive = _parse_keepalive(value)
        else:
            peer.add_allowed_ips(value.translate(_SPACES), warn)
    lines = settings.lines()
    for one in peers:
        lines += one.lines()
    return lines


_DEVICE_WORDS = frozenset({"listen-port", "fwmark", "private-key"})
_PEER_WORDS = frozenset({"preshared-key", "endpoint", "persistent-keepalive", "allowed-ips"})


def _takes(word: str, peer: _Peer | None) -> bool:
    """Whether the word may stand here, with a value behind it."""
    return word == "peer" or word in (_DEVICE_WORDS if peer is None else _PEER_WORDS)


def _set_device_word(
    settings: _Settings, word: str, value: str, read_key: Callable[[str], str]
) -> None:
    if word == "listen-port":
        settings.listen_port = parse_port(value)
    elif word == "fwmark":
        settings.fwmark = _parse_fwmark(value)
    else:
        settings.private_key = read_key(value)


def _unknown_argument(word: str) -> str:
    quoted = told(word)
    return f"Invalid argument: {word}" if quoted else "Invalid argument"


def parse_config(
    text: str, *, append: bool, resolve: Resolve, warn: Callable[[str], None]
) -> WgConfig:
    """A file of setconf and syncconf, or with ``append`` one of addconf.

    Args:
        resolve: looks up an endpoint.
        warn: called with a sentence about what is odd but done.

    Raises:
        WgError: the first bad line, and what it means for the file, in two lines.
    """
    reader = _Reader(resolve, warn)
    if not append:
        # What the file does not say is none, too.
        reader.settings.private_key = NO_KEY
        reader.settings.listen_port = 0
        reader.settings.fwmark = 0
    for number, line in enumerate(text.split("\n"), 1):
        try:
            reader.read(line, number)
        except WgError as error:
            raise WgError(f"{error}\nConfiguration parsing error") from None
    if not all(peer.public_key for peer in reader.peers):
        raise WgError("A peer is missing a public key\nInvalid configuration")
    return WgConfig(reader.settings, reader.peers, replaces_peers=not append)


class _Reader:
    """Reads a file line by line."""

    def __init__(self, resolve: Resolve, warn: Callable[[str], None]) -> None:
        self.settings = _Settings()
        self.peers: list[_Peer] = []
        self._resolve = resolve
        self._warn = warn
        self._section = ""

    def read(self, line: str, number: int) -> None:
        text = line.partition("#")[0].translate(_SPACES)
        if not text:
            return
        lowered = text.lower()
        if lowered in ("[interface]", "[peer]"):
            self._section = lowered
            if lowered == "[peer]":
                self.peers.append(_Peer(replaces_allowed_ips=True))
            return
        key, equals, value = text.partition("=")
        # A key with nothing behind it is none for wg(8).
        take = {"[interface]": self._set_device, "[peer]": self._set_peer}.get(self._section)
        if not (equals and value and take is not None and take(key.lower(), value, number)):
            if _SECRET_LINE.match(text) or not told(text):
                raise WgError(f"Line unrecognized (line {number})")
            raise WgError(f"Line unrecognized: `{text}'")

    def _set_device(self, key: str, value: str, number: int) -> bool:
        """Take a line of [Interface]; False for a key that it does not have."""
        if key == "privatekey":
            self.settings.private_key = _parse_key(value, f"line {number}")
        elif key == "listenport":
            self.settings.listen_port = parse_port(value)
        elif key == "fwmark":
            self.settings.fwmark = _parse_fwmark(value)
        else:
            return False
        return True

    def _set_peer(self, key: str, value: str, number: int) -> bool:
        """Take a line of [Peer]; False for a key that it does not have."""
        peer = self.peers[-1]
        if key == "publickey":
            peer.public_key = _parse_key(value, f"line {number}")
        elif key == "presharedkey":
            peer.preshared_key = _parse_key(value, f"line {number}")
        elif key == "allowedips":
            peer.add_allowed_ips(value, self._warn)
        elif key == "endpoint":
            peer.endpoint = self._resolve(value)
        elif key == "persistentkeepalive":
            peer.persistent_keepalive = _parse_keepalive(value)
        else:
            return False
        return True


# --- values -----------------------------------------------------------------------------


def parse_key_text(text: str) -> str | None:
    """A key's 44 characters of base64 as 64 hexadecimal digits; None if they are none."""
    try:
        given = text.encode("ascii")
        raw = binascii.a2b_base64(given)
    except (binascii.Error, UnicodeEncodeError):
        return None
    is_canonical = binascii.b2a_base64(raw, newline=False) == given
    return raw.hex() if len(raw) == _KEY_LENGTH and is_canonical else None


def _parse_key(text: str, where: str) -> str:
    digits = parse_key_text(text)
    if digits is None:
        raise WgError(f"{_BAD_KEY} ({where})")
    return digits


def _parse_fwmark(text: str) -> int:
    if text.lower() == "off":
        return 0
    digits, base = (text[2:], 16) if text.startswith("0x") else (text, 10)
    number = _parse_number(digits, base)
    if number is None or number > 0xFFFF_FFFF:
        raise WgError(f"Fwmark is neither 0/off nor 0-0xffffffff{told(text)}")
    return number


def _parse_keepalive(text: str) -> int:
    if text.lower() == "off":
        return 0
    number = _parse_number(text, 10)
    if number is None or number > 65535:
        raise WgError(f"Persistent keepalive interval is neither 0/off nor 1-65535{told(text)}")
    return number


def _parse_number(text: str, base: int) -> int | None:
    if not text.isascii() or not text.isalnum() or len(text) > 40:
        return None
    try:
        return int(text, base)
    except ValueError:
        return None


def _parse_prefix(text: str, warn: Callable[[str], None]) -> str:
    """``a/b`` as the socket wants it: with its host bits, which are told, and a length."""
    address, slash, length = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise WgError(f"Unable to parse IP address{told(address)}") from None
    most = len(packed) * 8
    bits = _parse_number(length, 10) if slash else most
    if bits is None or bits > most:
        raise WgError(f"AllowedIP is not in the correct format{told(text)}")
    if int.from_bytes(packed, "big") & ((1 << (most - bits)) - 1):
        warn(f"Warning: AllowedIP has nonzero host part: {address}/{length}")
    return f"{socket.inet_ntop(family, packed)}/{bits}"
