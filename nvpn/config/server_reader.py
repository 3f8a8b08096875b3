"""The sections ``[server]``, ``[metrics]`` and ``[resilience]`` of a TOML file into the draft."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import urlsplit

from nvpn.config import values
from nvpn.config.draft import MetricsDraft, ReservationDraft, ResilienceDraft, ServerDraft
from nvpn.config.files import find_file, read_password
from nvpn.config.findings import Place, may_hold_key
from nvpn.config.locate import Position
from nvpn.config.model import DAY, AddressRange, MetricsConfig, StoreKind
from nvpn.config.toml_table import Document, Table
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.model.secret import SecretText

MAX_ETCD: Final = 8
MIN_TIME: Final = 60
MAX_LEASE_TIME: Final = 30 * DAY
MAX_TIME: Final = 365 * DAY
MAX_TOLD_MTU: Final = 9200
MAX_INTERVAL: Final = 86_400

POOL_HINT: Final = 'every server needs one, such as pool = ["10.8.0.0/24", "fd42::/64"]'

_URL: Final = "expected http or https, a host and a port, such as http://127.0.0.1:2379"
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9_.=@:-]{1,64}){1,8}", re.ASCII)
_USER: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}", re.ASCII)
# A network that many hosts may not be in, or that is no place for a tunnel.
_NO_POOLS: Final = tuple(
    map(Prefix.parse, ("127.0.0.0/8", "224.0.0.0/4", "0.0.0.0/8", "fe80::/10", "ff00::/8"))
)


def read_server(section: dict[str, Any], server: ServerDraft, document: Document) -> None:
    """Add what one file says in ``[server]`` to the draft."""
    server.place = server.place or document.place(("server",))
    table = Table(section, ("server",), server.claims, document, "server")
    for text, place in table.texts("pool"):
        pool = document.parse(_parse_pool, text, place)
        if pool is not None:
            server.pools.append((pool, place))
    if section.get("pool") == []:
        document.findings.error(table.place("pool"), "is empty", POOL_HINT)
    _read_endpoints(table, server, document)
    server.lease_time = table.duration("lease_time", MIN_TIME, MAX_LEASE_TIME) or server.lease_time
    for text, place in table.texts("reserved"):
        span = document.parse(_parse_range, text, place)
        if span is not None:
            server.reserved.append((span, place))
    server.routes += table.prefixes("routes")
    table.name_servers(server.servers, server.search)
    server.mtu = table.number("mtu", values.MIN_MTU, MAX_TOLD_MTU, "bytes") or server.mtu
    server.forward |= table.flag("forward")
    server.nat |= table.flag("nat")
    idle = table.duration("idle_timeout", MIN_TIME, MAX_TIME, may_be_off=True)
    server.idle_timeout = idle or server.idle_timeout
    invited = table.duration("invitation_time", MIN_TIME, MAX_TIME)
    server.invitation_time = invited or server.invitation_time
    server.store = table.parsed("store", StoreKind.parse) or server.store
    _read_etcd(table, server, document)
    if "reservation" in section:
        position = ("server", "reservation")
        for one, index in document.tables(section["reservation"], position):
            _read_reservation(one, (*position, index), server, document)


def read_metrics(section: dict[str, Any], metrics: MetricsDraft, document: Document) -> None:
    """Add what one file says in ``[metrics]`` to the draft."""
    metrics.place = metrics.place or document.place(("metrics",))
    table = Table(section, ("metrics",), metrics.claims, document, "metrics")
    metrics.listen = table.number_or_text("listen", _parse_listen) or metrics.listen


def read_resilience(
    section: dict[str, Any], resilience: ResilienceDraft, document: Document
) -> None:
    """Add what one file says in ``[resilience]`` to the draft."""
    table = Table(section, ("resilience",), resilience.claims, document, "resilience")
    figures: dict[str, float | None] = {
        "max_attempts": table.number("max_attempts", 0, 1000, "attempts"),
        "initial_interval": table.fraction("initial_interval", 0.01, 3600, "seconds"),
        "max_interval": table.fraction("max_interval", 0.01, MAX_INTERVAL, "seconds"),
        "jitter": table.fraction("jitter", 0, 1, "a part"),
        "failure_threshold": table.number("failure_threshold", 1, 1000, "failures"),
        "reset_timeout": table.fraction("reset_timeout", 0.1, MAX_INTERVAL, "seconds"),
        "success_threshold": table.number("success_threshold", 1, 1000, "successes"),
    }
    resilience.figures.update(
        {key: figure for key, figure in figures.items() if figure is not None}
    )


def _read_endpoints(table: Table, server: ServerDraft, document: Document) -> None:
    for text, place in table.texts("endpoint"):
        endpoint = document.parse(values.parse_place, text, place)
        if endpoint is None:
            continue
        if len(server.endpoints) == values.MAX_ENDPOINTS:
            message = f"expected at most {values.MAX_ENDPOINTS} endpoints, and this is one more"
            document.findings.error(place, message)
        server.endpoints.append((*endpoint, place))


def _read_etcd(table: Table, server: ServerDraft, document: Document) -> None:
    for text, place in table.texts("etcd"):
        url = _parse_url(text, place, document)
        if url and len(server.etcd) == MAX_ETCD:
            message = f"expected at most {MAX_ETCD} addresses, and this is one more"
            document.findings.error(place, message)
        if url:
            server.etcd.append((url, place))
    server.etcd_prefix = table.parsed("etcd_prefix", _parse_prefix) or server.etcd_prefix
    server.etcd_user = table.parsed("etcd_user", _parse_user) or server.etcd_user
    named = table.text("etcd_password_file")
    if named is not None:
        password = read_password(named[0], document.source, named[1], document.findings)
        server.etcd_password = SecretText(password or "")
    for key in ("etcd_ca", "etcd_cert", "etcd_key"):
        named = table.text(key)
        is_secret = key == "etcd_key"
        path = named and find_file(*named, document.source, document.findings, is_secret=is_secret)
        if path:
            server.etcd_files[key] = path


def _read_reservation(
    section: dict[str, Any], position: Position, server: ServerDraft, document: Document
) -> None:
    each = ReservationDraft(document.place(position))
    server.reservations.append(each)
    table = Table(section, position, each.claims, document, "reservation")
    key = table.text("public_key")
    if key is not None:
        try:
            each.public_key = PublicKey(values.decode_key(key[0]))
        except ValueError as error:
            document.findings.error(key[1], str(error))
    each.name = table.parsed("name", values.check_name) or ""
    for text, place in table.texts("address"):
        address = document.parse(_parse_reserved, text, place)
        if address is not None:
            each.addresses.append((address, place))


def _parse_pool(text: str) -> Prefix:
    try:
        pool = Prefix.parse(text)
    except ValueError:
        raise ValueError("expected a network like 10.8.0.0/24 or fd42::/64") from None
    if values.has_host_bits(text, pool):
        raise ValueError(f"expected a network such as {pool}, without an address in it")
    if pool.length < 8 or any(one.covers(pool) or pool.covers(one) for one in _NO_POOLS):
        raise ValueError("expected a network that clients can have addresses of")
    return pool


def _parse_range(text: str) -> AddressRange:
    """An address, ``first-last``, or a prefix."""
    first, minus, last = (part.strip() for part in text.partition("-"))
    try:
        if minus:
            span = AddressRange(parse_address(first), parse_address(last))
        else:
            prefix = Prefix.parse(text.strip(), default_length=True)
            end = prefix.network | ((1 << (prefix.bits - prefix.length)) - 1)
            span = AddressRange(prefix.packed, end.to_bytes(prefix.bits // 8, "big"))
    except ValueError:
        raise ValueError(
            "expected an address, a range like 10.8.0.200-10.8.0.254, or a prefix"
        ) from None
    if len(span.first) != len(span.last) or span.first > span.last:
        raise ValueError("expected a range whose first address comes before its last")
    return span


def _parse_reserved(text: str) -> bytes:
    try:
        return parse_address(text)
    except ValueError:
        raise ValueError(
            "expected an address like 10.8.0.50 or fd42::50, without a length"
        ) from None


def _parse_listen(text: str) -> MetricsConfig:
    wanted = "expected an address and a port, such as 127.0.0.1:9586 or [::1]:9586"
    try:
        host, port = values.split_endpoint(text)
        endpoint = values.make_endpoint(host, values.parse_port(port))
    except ValueError:
        raise ValueError(wanted) from None
    if endpoint.host == "localhost":
        return MetricsConfig("127.0.0.1", endpoint.port)
    if endpoint.address is None or "%" in endpoint.host:
        raise ValueError(wanted)
    return MetricsConfig(*endpoint)


def _parse_url(text: str, place: Place, document: Document) -> str:
    """Without the slash at its end; empty, with a mistake, if it is none."""
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        url, port = urlsplit(""), None
    if "@" in url.netloc:
        # What was found may hold a password.
        hint = "use etcd_user and etcd_password_file"
        document.findings.error(place, "expected no name and no password in it", hint)
    elif (
        url.scheme not in ("http", "https")
        or not url.hostname
        or not port
        or url.path not in ("", "/")
        or url.query
        or url.fragment
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        document.parse(_refuse_url, text, place)
    else:
        return text.rstrip("/")
    return ""


def _refuse_url(text: str) -> None:
    raise ValueError(_URL)


def _parse_prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if may_hold_key(prefix) or not _PREFIX.fullmatch(prefix):
        raise ValueError("expected words after slashes, such as /nvpn/office")
    return prefix


def _parse_user(text: str) -> str:
    if may_hold_key(text) or not _USER.fullmatch(text):
        raise ValueError("expected a name of letters, digits or any of _.@-")
    return text
