from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.daemon.metrics.exposition import Format
from nvpn.daemon.metrics.http import (
    BAD_REQUEST,
    NOT_ALLOWED,
    NOT_FOUND,
    Refusal,
    Scrape,
    choose_format,
    format_refusal,
    parse_request,
)

OPENMETRICS, PROMETHEUS = Format.OPENMETRICS, Format.PROMETHEUS


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", PROMETHEUS),
        ("*/*", PROMETHEUS),
        ("text/html,application/xhtml+xml,*/*;q=0.8", PROMETHEUS),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; version=1.0.0 ; q=0.5, text/plain; q=0.3", OPENMETRICS),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
            "application/openmetrics-text;version=0.0.1;q=0.4,"
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
            "text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
            OPENMETRICS,
        ),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.1", PROMETHEUS),
        ("application/openmetrics-text;q=0", PROMETHEUS),
        ("application/openmetrics-text;q=much", PROMETHEUS),
    ],
)
def test_who_asks_for_openmetrics_gets_it(accept: str, form: Format) -> None:
    assert choose_format(accept) is form


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a:1", Scrape(PROMETHEUS, True)),
        (b"GET /metrics?name=x HTTP/1.0", Scrape(PROMETHEUS, True)),
        (b"HEAD /metrics HTTP/1.1", Scrape(PROMETHEUS, False)),
        (
            b"GET /metrics HTTP/1.1\r\naccept: text/html\r\nACCEPT: application/openmetrics-text",
            Scrape(OPENMETRICS, True),
        ),
        (b"GET http://host:9586/metrics?name=x HTTP/1.1", Scrape(PROMETHEUS, True)),
        (b"GET http://metrics HTTP/1.1", NOT_FOUND),
        (b"GET / HTTP/1.1", NOT_FOUND),
        (b"GET /metricsx HTTP/1.1", NOT_FOUND),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 5", NOT_ALLOWED),
        (b"GET /metrics HTTP/2", BAD_REQUEST),
        (b"GET /metrics", BAD_REQUEST),
        (b"", BAD_REQUEST),
        (b"GET /metrics HTTP/1.1\r\nno colon", BAD_REQUEST),
        (b"GET /metrics HTTP/1.1\r\nHost : a", BAD_REQUEST),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n folded: b", BAD_REQUEST),
        (b"GET /m\xc3\xa9trics HTTP/1.1", BAD_REQUEST),
        (b"\x16\x03\x01\x02\x00\x01\x00", BAD_REQUEST),
    ],
)
def test_a_request_is_understood_or_refused(head: bytes, answer: Scrape | Refusal) -> None:
    assert parse_request(head) == answer


@given(st.binary(max_size=200))
def test_no_request_raises(head: bytes) -> None:
    assert isinstance(parse_request(head), Scrape | Refusal)
    assert isinstance(parse_request(b"GET /metrics HTTP/1.1\r\nAccept: " + head), Scrape | Refusal)


def test_a_refusal_is_a_whole_answer() -> None:
    head, _, body = format_refusal(NOT_ALLOWED).partition(b"\r\n\r\n")
    assert head.decode().split("\r\n") == [
        "HTTP/1.1 405 Method Not Allowed",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 33",
        "Connection: close",
        "Cache-Control: no-store",
        "Allow: GET, HEAD",
    ]
    assert body == b"only GET and HEAD are understood\n"


def test_a_refused_head_has_no_body() -> None:
    refusal = parse_request(b"HEAD / HTTP/1.1")
    assert isinstance(refusal, Refusal)
    answer = format_refusal(refusal)
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert answer.endswith(b"\r\n\r\n")
