from __future__ import annotations

import socket
from typing import Any

import pytest

from nvpn.control.wg_endpoint import parse_port, resolve_endpoint, retries_from
from nvpn.control.wg_words import WgError

FOUND = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 51820))]


class Resolver:
    """Fails as often as it is told, then answers; and a clock that nobody waits for."""

    def __init__(self, failures: int, code: int = socket.EAI_AGAIN) -> None:
        self.failures = failures
        self.code = code
        self.asked: list[tuple[bytes, bytes]] = []
        self.slept: list[float] = []
        self.told: list[str] = []

    def look_up(self, host: bytes, port: bytes, **options: Any) -> list[tuple[Any, ...]]:
        assert options == {"type": socket.SOCK_DGRAM, "proto": socket.IPPROTO_UDP}
        self.asked.append((host, port))
        if len(self.asked) <= self.failures:
            raise socket.gaierror(self.code, "No luck")
        return FOUND

    def resolve(self, text: str, retries: int | None = 15) -> str:
        return resolve_endpoint(
            text,
            retries=retries,
            sleep=self.slept.append,
            tell=self.told.append,
            look_up=self.look_up,
        )


def test_the_first_answer_is_taken() -> None:
    resolver = Resolver(0)

    assert resolver.resolve("vpn.example:service") == "192.0.2.7:51820"
    assert resolver.asked == [(b"vpn.example", b"service")]
    assert resolver.told == []


def test_what_may_change_is_tried_again_with_growing_pauses() -> None:
    resolver = Resolver(3)

    assert resolver.resolve("vpn.example:1") == "192.0.2.7:51820"
    assert resolver.slept == pytest.approx([1, 1.2, 1.44])
    assert resolver.told == [
        f"No luck: `vpn.example:1'. Trying again in {pause} seconds..."
        for pause in ("1.00", "1.20", "1.44")
    ]


def test_it_gives_up_after_the_last_retry() -> None:
    resolver = Resolver(100)

    with pytest.raises(WgError, match=r"^No luck: `vpn\.example:1'$"):
        resolver.resolve("vpn.example:1", retries=15)
    assert len(resolver.asked) == 16
    assert resolver.slept[-1] == pytest.approx(1.2**14)


def test_no_pause_is_longer_than_twenty_seconds_and_infinity_does_not_end() -> None:
    resolver = Resolver(400)

    assert resolver.resolve("vpn.example:1", retries=None) == "192.0.2.7:51820"
    assert resolver.slept[20:] == [20.0] * 380


@pytest.mark.parametrize(
    "code", [socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_NODATA, socket.EAI_SERVICE]
)
def test_what_no_waiting_would_change_is_final(code: int) -> None:
    resolver = Resolver(1, code)

    with pytest.raises(WgError, match=r"^No luck: `vpn\.example:1'$"):
        resolver.resolve("vpn.example:1")
    assert resolver.slept == []


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:9", "192.0.2.1:9"),
        ("[2001:0db8::0:1]:9", "[2001:db8::1]:9"),
        ("2001:db8::1:9", "[2001:db8::1]:9"),
        ("[192.0.2.1]:9", "192.0.2.1:9"),
        ("[fe80::1%lo]:9", "[fe80::1%lo]:9"),
        ("127.0.0.1:domain", "127.0.0.1:53"),
    ],
)
def test_addresses_need_no_name_server(text: str, address: str) -> None:
    found = resolve_endpoint(text, retries=0, sleep=pytest.fail, tell=pytest.fail)

    assert found == address


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Unable to parse empty endpoint"),
        ("x", "Unable to find port of endpoint: `x'"),
        ("x:", "Unable to find port of endpoint: `x:'"),
        ("[::1]", "Unable to find port of endpoint: `[::1]'"),
        ("[::1]9", "Unable to find port of endpoint: `[::1]9'"),
        ("[::1]:", "Unable to find port of endpoint: `[::1]:'"),
        ("[x", "Unable to find matching brace of endpoint: `[x'"),
        ("192.0.2.1:65536", "Servname not supported for ai_socktype: `192.0.2.1:65536'"),
        (
            "192.0.2.1:" + "9" * 30,
            f"Servname not supported for ai_socktype: `192.0.2.1:{'9' * 30}'",
        ),
    ],
)
def test_what_is_no_endpoint_is_not_looked_up(text: str, sentence: str) -> None:
    resolver = Resolver(0)

    with pytest.raises(WgError) as raised:
        resolver.resolve(text)
    assert str(raised.value) == sentence
    assert resolver.asked == []


def test_bytes_that_are_no_text_are_the_resolver_s_to_judge() -> None:
    resolver = Resolver(0)

    resolver.resolve("gr\udcfcn:1")
    assert resolver.asked == [(b"gr\xfcn", b"1")]


def test_a_key_in_the_place_of_an_endpoint_is_not_repeated() -> None:
    key = "aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Qga2V5ISE="
    resolver = Resolver(100)

    for text in (key, f"{key}:1", f"[{key}"):
        with pytest.raises(WgError) as raised:
            resolver.resolve(text)
        assert key[:20] not in str(raised.value)
    assert key[:20] not in "".join(resolver.told)


@pytest.mark.parametrize(
    ("text", "retries"), [(None, 15), ("0", 0), ("7", 7), ("", 0), ("infinity", None)]
)
def test_the_environment_says_how_often(text: str | None, retries: int | None) -> None:
    environment = {} if text is None else {"WG_ENDPOINT_RESOLUTION_RETRIES": text}

    assert retries_from(environment) == retries


@pytest.mark.parametrize("text", ["x", "-1", "2147483648", "1x", "Infinity", "9" * 5000])
def test_a_number_of_retries_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(WgError, match=r"^Unable to parse WG_ENDPOINT_RESOLUTION_RETRIES"):
        retries_from({"WG_ENDPOINT_RESOLUTION_RETRIES": text})


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("65535", 65535), ("domain", 53)])
def test_a_port_is_a_number_or_a_service(text: str, port: int) -> None:
    assert parse_port(text) == port


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "Unable to parse empty port"),
        ("65536", "Servname not supported for ai_socktype: `65536'"),
        ("no-such-service", "Servname not supported for ai_socktype: `no-such-service'"),
    ],
)
def test_what_is_no_port_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(WgError) as raised:
        parse_port(text)
    assert str(raised.value) == sentence
