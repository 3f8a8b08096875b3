"""Single values from their text, for both file formats.

Each function raises ValueError with what was expected ("expected a prefix like
10.0.0.0/24"); the caller adds where, and what was found when that may be shown.
"""

from __future__ import annotations

import re
from typing import Final

from nvpn.config.findings import may_hold_key
from nvpn.config.model import HostPort
from nvpn.model.interface_name import is_interface_name
from nvpn.model.keys import decode_base64_key
from nvpn.model.prefixes import Interface, Prefix, parse_address

MIN_MTU: Final = 576
MAX_MTU: Final = 65475
"""The largest UDP payload over IPv4 (65507) less WireGuard's 32 bytes."""
MIN_MTU_IPV6: Final = 1280
MAX_PORT: Final = 0xFFFF
MAX_KEEPALIVE: Final = 0xFFFF
MAX_FWMARK: Final = 0xFFFF_FFFF
MAX_NAME: Final = 64
MAX_WORKERS: Final = 64
MAX_QUEUES: Final = 16
MAX_SERVERS: Final = 3
"""How many name servers the C library asks; others take more."""
MAX_ENDPOINTS: Final = 8

_KEY: Final = "expected a key of 44 base64 characters, as nvpn genkey and nvpn pubkey print it"
_ENDPOINT: Final = "expected host:port, such as vpn.example.com:51820 or [2001:db8::1]:51820"
_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def decode_key(text: str) -> bytes:
    """The 32 bytes of a key. The message never repeats the text."""
    try:
        return decode_base64_key(text)
    except ValueError:
        pass
    if re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError(f"{_KEY}, found 64 hexadecimal digits")
    if text.strip() != text:
        raise ValueError(f"{_KEY}, found blanks around it")
    if len(text) == 44:
        raise ValueError(f"{_KEY}, found 44 characters that are not a key")
    raise ValueError(f"{_KEY}, found {len(text)} characters")


def is_example_key(text: str) -> bool:
    """Whether a key is one of those in the example files, which everybody knows."""
    return text.startswith("EXAMPLE+")


def parse_prefix(text: str) -> Prefix:
    """An allowed IP; a bare address stands for itself alone, host bits are dropped."""
    try:
        return Prefix.parse(text, default_length=True)
    except ValueError:
        raise ValueError("expected a prefix like 10.0.0.0/24 or fd00::/64") from None


def parse_interface(text: str) -> Interface:
    """An address of our own, with the length of its network."""
    try:
        interface = Interface.parse(text)
    except ValueError:
        raise ValueError("expected an address like 10.0.0.1/24 or fd00::1/64") from None
    packed = interface.address
    is_multicast = packed[0] == 0xFF if len(packed) == 16 else 224 <= packed[0] <= 239
    if is_multicast or not any(packed):
        raise ValueError("expected an address that an interface can have")
    return interface


def has_host_bits(text: str, prefix: Prefix) -> bool:
    """Whether parsing ``text`` into ``prefix`` dropped something."""
    return parse_address(text.partition("/")[0]) != prefix.packed


def split_endpoint(text: str, *, bare_ipv6: bool = False) -> tuple[str, str]:
    """Host and port of an endpoint, both still to be checked.

    Args:
        bare_ipv6: take ``::1:51820`` as ``wg`` does: the port follows the last colon.
    """
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        if not bracket or tail[:1] != ":" or ":" not in host:
            raise ValueError(_ENDPOINT)
        return host, tail[1:]
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise ValueError(_ENDPOINT)
    if ":" in host and not bare_ipv6:
        raise ValueError("expected brackets around an IPv6 address, such as [2001:db8::1]:51820")
    return host, port


def parse_endpoint(text: str) -> HostPort:
    """``vpn.example:51820``, ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``."""
    host, port = split_endpoint(text)
    return make_endpoint(host, parse_port(port))


def parse_place(text: str) -> tuple[str, int | None]:
    """Host and port of an endpoint; the port may be missing, as may then the brackets."""
    if "/" in text:
        raise ValueError("expected a host, or one with its port, such as vpn.example.com:51820")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if ":" in bare:
        try:
            parse_address(bare)
        except ValueError:
            bare = ""
    if bare:
        return make_endpoint(bare, 1).host, None
    return parse_endpoint(text)


def make_endpoint(host: str, port: int) -> HostPort:
    """An endpoint whose host can be resolved at all."""
    if not 1 <= port <= MAX_PORT:
        raise ValueError("expected a port from 1 to 65535")
    _check_host(host)
    return HostPort(host, port)


def parse_port(text: str) -> int:
    """A port number in digits, 0 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > MAX_PORT:
        raise ValueError("expected a port from 0 to 65535")
    return int(text)


def parse_mtu(text: str) -> int:
    """Bytes of the largest packet inside the tunnel."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not MIN_MTU <= int(text) <= MAX_MTU:
        raise ValueError(f"expected bytes from {MIN_MTU} to {MAX_MTU}")
    return int(text)


def parse_fwmark(text: str) -> int:
    """``off``, ``0xca6c`` or ``51820``."""
    mark = _parse_number(text, r"[0-9]{1,10}|0[xX][0-9a-fA-F]{1,8}")
    if mark is None or mark > MAX_FWMARK:
        raise ValueError('expected a mark from 0 to 4294967295, such as "0xca6c", or "off"')
    return mark


def parse_keepalive(text: str) -> int:
    """``off`` or seconds."""
    seconds = _parse_number(text, r"[0-9]{1,5}")
    if seconds is None or seconds > MAX_KEEPALIVE:
        raise ValueError('expected seconds from 0 to 65535, or "off"')
    return seconds


def check_name(text: str) -> str:
    """A peer's name: something that can be shown on one line."""
    if may_hold_key(text):
        raise ValueError("expected a name for people")
    if not text.strip() or not text.isprintable() or len(text) > MAX_NAME:
        raise ValueError(f"expected a name of 1 to {MAX_NAME} printable characters")
    return text.strip()


def is_server_word(text: str) -> bool:
    """Whether a word among name servers is meant as an address, as wg-quick tells it."""
    return ":" in text or re.fullmatch(r"[0-9.]+", text) is not None


def parse_server(text: str) -> bytes:
    """The address of a name server."""
    try:
        return parse_address(text)
    except ValueError:
        raise ValueError("expected an address like 10.0.0.1 or fd00::1") from None


def parse_domain(text: str) -> str:
    """A search domain, in ASCII and without a final dot."""
    try:
        domain = text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        domain = ""
    domain = domain.removesuffix(".")
    if (
        len(domain) > 253
        or may_hold_key(domain)
        or not all(_LABEL.fullmatch(label) for label in domain.split("."))
    ):
        raise ValueError("expected an address like 10.0.0.1, or a domain like example.com")
    return domain


def parse_netns(text: str) -> str:
    """A network namespace: its name in /run/netns, or an absolute path."""
    is_name = re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text) and text not in (".", "..")
    is_path = text.startswith("/") and text.isprintable()
    if may_hold_key(text) or not (is_name or is_path):
        raise ValueError("expected the name of a network namespace, or a path from / on")
    return text


def check_command(text: str) -> str:
    """A command for the shell. The message never repeats it: it may hold secrets."""
    command = text.strip()
    if not command:
        raise ValueError("expected a command, found an empty text")
    if "\0" in command or "\n" in command or "\r" in command:
        raise ValueError("expected a command on one line")
    return command


def _parse_number(text: str, pattern: str) -> int | None:
    if text.lower() == "off":
        return 0
    if not re.fullmatch(pattern, text):
        return None
    return int(text, 16) if text[:2] in ("0x", "0X") else int(text)


def _check_host(host: str) -> None:
    address, percent, zone = host.partition("%")
    if ":" in address:
        _check_ipv6(address, bool(percent), zone)
        return
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise ValueError(_ENDPOINT) from None
    labels = ascii_host.removesuffix(".").split(".")
    if len(ascii_host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(_ENDPOINT)
    # A resolver reads "10.1" as 10.0.0.1 and "010.0.0.1" as 8.0.0.1: nobody means that.
    if re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]*", labels[-1]):
        try:
            parse_address(ascii_host)
        except ValueError:
            raise ValueError("expected an IPv4 address of four numbers, or a name") from None


def _check_ipv6(address: str, has_zone: bool, zone: str) -> None:
    try:
        parse_address(address)
    except ValueError:
        raise ValueError("expected an IPv6 address between the brackets") from None
    if has_zone and not is_interface_name(zone):
        raise ValueError("expected an interface after the %, such as [fe80::1%eth0]:51820")
