from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.channel.messages import (
    Done,
    Enrol,
    Enrolled,
    Failure,
    Goodbye,
    Hello,
    LeaseRequest,
    MalformedMessage,
    Message,
    OtherServer,
    Release,
    Settings,
    answer_of,
    decode,
    encode,
)
from nvpn.channel.schema import MAX_BODY, Between, MaxLength, message
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix, parse_address

KEY = PublicKey(bytes(range(32)))
SETTINGS = Settings(
    addresses=(Interface.parse("10.8.0.7/24"), Interface.parse("fd42::7/64")),
    routes=(Prefix.parse("10.8.0.0/24"), Prefix.parse("::/0")),
    dns=(parse_address("10.8.0.1"), parse_address("fd42::1")),
    search=("vpn.example",),
    mtu=1420,
    lease_seconds=3600,
    renew_seconds=1800,
    endpoints=("vpn.example:51820", "[2001:db8::1]:51820"),
    name="Zoë's laptop",
    server="hub",
    keepalive=25,
)

TOO_LONG = Settings(
    (),
    routes=tuple(Prefix(6, 2**128 - n, 128) for n in range(1, 201)),
    search=("x" * 253,) * 8,
)

SOUTH = OtherServer(KEY, "south", ("south.example:51820", "[2001:db8::2]:51820"))
ENROLLED = Enrolled("laptop", ("vpn.example:51820",), "north", (SOUTH,))
ALL: tuple[tuple[Message, list[str]], ...] = (
    (Hello("laptop", "0.1.0", ("lease", "enrol")), ["name", "version", "capabilities"]),
    (LeaseRequest("laptop", "0.1.0", (Interface.parse("10.8.0.7"),)), ["name", "version"]),
    (SETTINGS, ["addresses"]),
    (Release(), []),
    (Done(), []),
    (Enrol(KEY, "laptop", "0.1.0"), ["public_key", "name", "version"]),
    (ENROLLED, ["name"]),
    (Goodbye("stopping"), []),
    (Failure("exhausted", "there is no address left"), ["code", "sentence"]),
)


@pytest.mark.parametrize(("value", "required"), ALL, ids=lambda one: type(one).__name__)
def test_a_message_comes_back_as_it_was(value: Message, required: list[str]) -> None:
    body = encode(value)
    assert decode(body) == value
    for name in required:
        less = json.loads(body)
        del less[name]
        with pytest.raises(MalformedMessage):
            decode(json.dumps(less).encode())


def test_this_is_what_they_look_like_on_the_wire() -> None:
    assert encode(ALL[0][0]) == (
        b'{"type":"hello","name":"laptop","version":"0.1.0","capabilities":["lease","enrol"]}'
    )
    assert (
        encode(SETTINGS)
        == (
            '{"type":"settings","addresses":["10.8.0.7/24","fd42::7/64"],'
            '"routes":["10.8.0.0/24","::/0"],"dns":["10.8.0.1","fd42::1"],'
            '"search":["vpn.example"],"mtu":1420,"lease_seconds":3600,"renew_seconds":1800,'
            '"endpoints":["vpn.example:51820","[2001:db8::1]:51820"],'
            '"name":"Zoë\'s laptop","server":"hub","servers":[],"keepalive":25}'
        ).encode()
    )
    assert encode(ALL[5][0]) == (
        b'{"type":"enrol","public_key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",'
        b'"name":"laptop","version":"0.1.0"}'
    )
    assert encode(ENROLLED) == (
        b'{"type":"enrolled","name":"laptop","endpoints":["vpn.example:51820"],'
        b'"server":"north","servers":[{"public_key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",'
        b'"name":"south","endpoints":["south.example:51820","[2001:db8::2]:51820"]}]}'
    )
    assert encode(Release()) == b'{"type":"release"}'


def test_fields_of_a_later_version_are_passed_over() -> None:
    assert decode(b'{"type":"done","since":[{"a":null}],"when":1e3}') == Done()
    assert decode(b' {"name" : "n" , "type" : "enrolled"} ') == Enrolled("n")


def test_so_they_are_in_a_part_of_one() -> None:
    body = json.loads(encode(ENROLLED))
    body["servers"][0]["of"] = {"a": "later version"}
    assert decode(json.dumps(body).encode()) == ENROLLED
    for name in ("public_key", "name", "endpoints"):
        less = json.loads(encode(ENROLLED))
        del less["servers"][0][name]
        with pytest.raises(MalformedMessage, match="enrolled: servers"):
            decode(json.dumps(less).encode())


def test_each_request_says_what_answers_it() -> None:
    assert answer_of(Hello) is Hello
    assert answer_of(LeaseRequest) is Settings
    assert answer_of(Release) is Done
    assert answer_of(Enrol) is Enrolled


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'"hello"',
        b"{}",
        b'{"type":"nobody knows"}',
        b'{"type":["hello"]}',
        b'{"type":"done"} trailing',
        b'{"type":"goodbye","reason":1}',
        b'{"type":"goodbye","reason":"tw\\no"}',
        b'{"type":"goodbye","reason":"\\ud800"}',
        b'{"type":"goodbye","reason":"\\u202e"}',
        b'{"type":"goodbye","reason":"' + b"x" * 65 + b'"}',
        b'{"type":"settings","addresses":[],"keepalive":65536}',
        b'{"type":"settings","addresses":[],"keepalive":-1}',
        b'{"type":"settings","addresses":[],"keepalive":true}',
        b'{"type":"settings","addresses":[],"keepalive":1.0}',
        b'{"type":"settings","addresses":[],"keepalive":NaN}',
        b'{"type":"settings","addresses":[],"keepalive":' + b"9" * 5000 + b"}",
        b'{"type":"enrolled","name":"n","endpoints":"a:1"}',
        b'{"type":"enrolled","name":"n","endpoints":[1]}',
        b'{"type":"enrolled","name":"n","endpoints":["a:1"' + b',"a:1"' * 8 + b"]}",
        b'{"type":"enrolled","name":"n","servers":{}}',
        b'{"type":"enrolled","name":"n","servers":[null]}',
        b'{"type":"enrolled","name":"n","servers":[["public_key","name","endpoints"]]}',
        json.dumps({**json.loads(encode(ENROLLED)), "servers": [{"name": "n"}]}).encode(),
        json.dumps(
            {"type": "enrolled", "name": "n"}
            | {"servers": json.loads(encode(ENROLLED))["servers"] * 8}
        ).encode(),
        b'{"type":"settings","addresses":["10.0.0.1/33"]}',
        b'{"type":"settings","addresses":["10.0.0.1/-1"]}',
        b'{"type":"settings","addresses":["fe80::1%eth0/64"]}',
        b'{"type":"settings","addresses":[],"routes":["10.0.0.1"]}',
        b'{"type":"settings","addresses":[],"dns":["vpn.example"]}',
        b'{"type":"enrol","public_key":"AAAA","name":"","version":""}',
        b'{"type":"done"' + b" " * MAX_BODY + b"}",
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_what_does_not_fit_is_refused_whole(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(body)


def test_however_deep_a_message_is_nothing_else_is_raised() -> None:
    for depth in (10, 900, 4000):
        body = b'{"type":"done","x":' + b"[" * depth + b"]" * depth + b"}"
        # How deep is too deep depends on the Python.
        with contextlib.suppress(MalformedMessage):
            assert decode(body) == Done()
    with pytest.raises(MalformedMessage):
        decode(b"[" * MAX_BODY)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = [
    "name", "version", "capabilities", "wanted", "addresses", "routes", "dns", "search", "mtu",
    "lease_seconds", "endpoints", "public_key", "keepalive", "servers", "reason", "code",
    "sentence",
]  # fmt: skip
_WORDS = [json.loads(encode(value))["type"] for value, _ in ALL]


@given(
    st.binary(max_size=300)
    | st.builds(
        lambda word, fields: json.dumps({"type": word, **fields}).encode(),
        st.sampled_from(_WORDS),
        st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6),
    )
)
def test_no_bytes_raise_anything_else_and_what_is_read_can_be_written(body: bytes) -> None:
    try:
        value = decode(body)
    except MalformedMessage:
        return
    assert decode(encode(value)) == value


@given(st.sampled_from([encode(value) for value, _ in ALL]), st.data())
def test_broken_messages_raise_nothing_else(body: bytes, data: Any) -> None:
    at = data.draw(st.integers(0, len(body)))
    broken = body[:at] + data.draw(st.binary(max_size=3)) + body[at + 1 :]
    try:
        decode(broken)
    except MalformedMessage:
        pass
    else:
        assert broken.lstrip().startswith(b"{")


@pytest.mark.parametrize(
    "value",
    [
        Goodbye("x" * 65),
        Goodbye("two\nlines"),
        Goodbye(7),  # type: ignore[arg-type]
        Settings((), keepalive=-1),
        Enrolled("n", endpoints=["a:1"]),  # type: ignore[arg-type]
        Enrolled("n", servers=(SOUTH,) * 8),
        Enrolled("n", servers=(KEY,)),  # type: ignore[arg-type]
        Enrolled("n", servers=(dataclasses.replace(SOUTH, name="two\nlines"),)),
        TOO_LONG,
        Settings(("10.0.0.1/24",)),  # type: ignore[arg-type]
    ],
    ids=lambda value: str(value)[:40],
)
def test_nor_do_we_say_what_does_not_fit(value: Message) -> None:
    with pytest.raises(ValueError, match=r"^(goodbye|enrolled|settings): "):
        encode(value)


def test_a_message_is_added_by_writing_it_down() -> None:
    @message("test-probe")
    @dataclass(frozen=True, slots=True)
    class Probe(Message):
        """A message of this test."""

        path: Annotated[str, MaxLength(8)]
        hops: Annotated[int, Between(1, 9)] = 1

    assert decode(b'{"type":"test-probe","path":"left"}') == Probe("left")
    assert encode(Probe("right", 2)) == b'{"type":"test-probe","path":"right","hops":2}'

    with pytest.raises(TypeError, match="already"):
        message("test-probe")(Probe)


def test_what_has_no_bound_or_place_is_no_message() -> None:
    @dataclass(frozen=True, slots=True)
    class Unbounded(Message):
        """Text without end."""

        text: str

    @dataclass(frozen=True, slots=True)
    class Placeless(Message):
        """A float."""

        number: float

    with pytest.raises(TypeError, match="MaxLength"):
        message("test-unbounded")(Unbounded)
    with pytest.raises(TypeError, match="no place"):
        message("test-placeless")(Placeless)
