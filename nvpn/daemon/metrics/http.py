"""As much of HTTP/1.1 as a scrape needs: one request a connection, bytes in and bytes out.

Source: RFC 9112 (messages) and RFC 9110, sections 12.4.2 and 12.5.1 (what is accepted).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from nvpn.daemon.metrics.exposition import Format

MAX_HEAD: Final = 8192
"""Bytes of a request line and its headers."""

END_OF_HEAD: Final = b"\r\n\r\n"
_PATH: Final = "/metrics"


class Refusal(NamedTuple):
    """An answer without numbers."""

    status: str
    text: str
    headers: tuple[str, ...] = ()
    has_body: bool = True


BAD_REQUEST: Final = Refusal("400 Bad Request", "this is no request of HTTP/1.1")
TOO_LONG: Final = Refusal("431 Request Header Fields Too Large", "the request is too long")
TOO_SLOW: Final = Refusal("408 Request Timeout", "the request took too long")
NOT_FOUND: Final = Refusal("404 Not Found", f"there is only {_PATH}")
NOT_ALLOWED: Final = Refusal(
    "405 Method Not Allowed", "only GET and HEAD are understood", ("Allow: GET, HEAD",)
)
BROKEN: Final = Refusal("500 Internal Server Error", "an internal error, see the log")


class Scrape(NamedTuple):
    """A request for the numbers. Without ``has_body`` only the head of the answer is wanted."""

    form: Format
    has_body: bool


def parse_request(head: bytes) -> Scrape | Refusal:
    """What is asked for.

    Args:
        head: up to and without the empty line.
    """
    try:
        request, *lines = head.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        return BAD_REQUEST
    words = request.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return BAD_REQUEST
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return BAD_REQUEST
        name = name.lower()
        # Several headers of a name are one, with commas.
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    method, target, _ = words
    has_body = method != "HEAD"
    if _path_of(target) != _PATH:
        return NOT_FOUND._replace(has_body=has_body)
    if method not in ("GET", "HEAD"):
        return NOT_ALLOWED
    return Scrape(choose_format(headers.get("accept", "")), has_body)


def choose_format(accept: str) -> Format:
    """OpenMetrics for those who ask for it and like nothing better, else the older one."""
    wishes = dict(map(_read_wish, accept.split(",")))
    wish = wishes.get("application/openmetrics-text", 0.0)
    return (
        Format.OPENMETRICS
        if wish > 0 and wish >= wishes.get("text/plain", 0.0)
        else (Format.PROMETHEUS)
    )


def format_refusal(refusal: Refusal) -> bytes:
    """The whole answer."""
    text = f"{refusal.text}\n".encode()
    head = format_head(
        refusal.status, "text/plain; charset=utf-8", len(text), extra=refusal.headers
    )
    return head + text if refusal.has_body else head


def format_head(status: str, kind: str, length: int, *, extra: tuple[str, ...] = ()) -> bytes:
    """Status line and headers of an answer with so many bytes."""
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "Connection: close",
        "Cache-Control: no-store",
        *extra,
    )
    return "\r\n".join(lines).encode("ascii") + END_OF_HEAD


def _path_of(target: str) -> str:
    """Without the query; a proxy's client names the host, too (RFC 9112, section 3.2.2)."""
    if target.startswith("http://"):
        target = "/" + target.removeprefix("http://").partition("/")[2]
    return target.partition("?")[0]


def _read_wish(text: str) -> tuple[str, float]:
    kind, *parameters = (part.strip() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return kind.lower(), quality
