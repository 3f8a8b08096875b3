"""Turns messages into JSON and back, by the types that their fields have.

A message is a frozen dataclass with a word of its own (:func:`message`). Its annotations are
its schema: what is missing, of another type, too long or out of range is refused as a whole;
what is *unknown* is ignored, so that later versions may add fields, and a field with a default
may be left out, so that they may add some here.

Text is printable: names that a peer chose end up in terminals and logs.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Final, ForwardRef, Generic, TypeVar, get_args, get_origin

from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix, format_address, parse_address

MAX_BODY: Final = 8192
"""Bytes of a message."""

_TYPE: Final = "type"
_MAX_KEY_TEXT: Final = 44
_MAX_PREFIX_TEXT: Final = 49  # an IPv6 address with an IPv4 one in it, and /128


class MalformedMessage(Exception):  # noqa: N818 - what it is, not that it is an error
    """Bytes that are no message of ours. The peer's fault: counted, never shown."""


class Message:
    """Base of all messages; its subclasses are declared by :func:`message`."""

    __slots__ = ()


Answer = TypeVar("Answer", bound=Message)


class Request(Message, Generic[Answer]):
    """A message that is answered, by one of the type in brackets, or by a Failure."""

    __slots__ = ()


class Part:
    """Base of what stands in a message several times: frozen dataclasses without a word."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class MaxLength:
    """Of a text, in characters."""

    characters: int


@dataclass(frozen=True, slots=True)
class MaxCount:
    """Of a tuple, in items."""

    items: int


@dataclass(frozen=True, slots=True)
class Between:
    """An integer's bounds, both included."""

    low: int
    high: int


class _AddressText:
    """Marks bytes that are an IP address."""


Address = Annotated[bytes, _AddressText]
"""4 or 16 bytes; their text on the wire."""


@dataclass(frozen=True, slots=True)
class _Codec:
    """One type's way into JSON and out of it; both raise ValueError or TypeError."""

    to_json: Callable[[Any], Any]
    from_json: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Fields:
    """Those of a dataclass, as members of an object."""

    codecs: Mapping[str, _Codec]
    required: frozenset[str]

    @classmethod
    def of(cls, kind: type) -> _Fields:
        hints = typing.get_type_hints(kind, include_extras=True)
        own = fields(typing.cast(Any, kind))
        return cls(
            {field.name: _codec(hints[field.name]) for field in own},
            frozenset(
                field.name
                for field in own
                if field.default is MISSING and field.default_factory is MISSING
            ),
        )

    def to_json(self, value: object) -> dict[str, Any]:
        """Raises ValueError: which field, and what is wrong with it."""
        members = {}
        for name, codec in self.codecs.items():
            try:
                members[name] = codec.to_json(getattr(value, name))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name}: {error}") from None
        return members

    def from_json(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ValueError: which field."""
        values = {}
        for name, codec in self.codecs.items():
            if name in members:
                try:
                    values[name] = codec.from_json(members[name])
                except (TypeError, ValueError):
                    raise ValueError(name) from None
            elif name in self.required:
                raise ValueError(f"no {name}")
        return values


@dataclass(frozen=True, slots=True)
class _Schema:
    word: str
    kind: type[Message]
    fields: _Fields
    answer: type[Message] | None


_BY_WORD: Final[dict[str, _Schema]] = {}
_BY_KIND: Final[dict[type[Message], _Schema]] = {}

_M = TypeVar("_M", bound=Message)


def message(word: str) -> Callable[[type[_M]], type[_M]]:
    """Declare a frozen dataclass to be the message that ``word`` names on the wire.

    Raises:
        TypeError: a field of a type, or without a bound, that has no place on the wire.
    """

    def declare(kind: type[_M]) -> type[_M]:
        if word in _BY_WORD:
            raise TypeError(f"there is a message {word!r} already")
        schema = _Schema(word, kind, _Fields.of(kind), _answer(kind))
        _BY_WORD[word] = _BY_KIND[kind] = schema
        return kind

    return declare


def answer_of(kind: type[Request[Answer]]) -> type[Answer]:
    """The type of message that answers a declared request."""
    answer = _BY_KIND[kind].answer
    assert answer is not None, f"{kind.__name__} is not declared as a Request"
    return typing.cast("type[Answer]", answer)


def encode(value: Message) -> bytes:
    """The body of a message: a JSON object, at most MAX_BODY bytes.

    Raises:
        ValueError: a value is out of the bounds of its field, or all together too long.
    """
    schema = _BY_KIND[type(value)]
    try:
        body = {_TYPE: schema.word, **schema.fields.to_json(value)}
    except ValueError as error:
        raise ValueError(f"{schema.word}: {error}") from None
    encoded = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    if len(encoded) > MAX_BODY:
        raise ValueError(f"{schema.word}: a message has at most {MAX_BODY} bytes")
    return encoded


def decode(body: bytes) -> Message:
    """The message that a peer sent.

    Raises:
        MalformedMessage: and nothing else, whatever the bytes are.
    """
    if len(body) > MAX_BODY:
        raise MalformedMessage("too long")
    try:
        given = json.loads(body.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise MalformedMessage("not JSON") from None
    if not isinstance(given, dict):
        raise MalformedMessage("not an object")
    word = given.get(_TYPE)
    schema = _BY_WORD.get(word) if isinstance(word, str) else None
    if schema is None:
        raise MalformedMessage("of an unknown type")
    try:
        return schema.kind(**schema.fields.from_json(given))
    except ValueError as error:
        raise MalformedMessage(f"{schema.word}: {error}") from None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _answer(kind: type[Message]) -> type[Message] | None:
    for base in getattr(kind, "__orig_bases__", ()):
        if get_origin(base) is Request:
            (answer,) = get_args(base)
            # A message may be the answer to its own kind, which has no name yet where its
            # bases are written.
            if isinstance(answer, ForwardRef):
                assert answer.__forward_arg__ == kind.__name__
                return kind
            return typing.cast("type[Message]", answer)
    return None


# --- types on the wire ----------------------------------------------------------------


def _codec(hint: Any) -> _Codec:
    bounds: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        bounds = tuple(rest)
    if get_origin(hint) is tuple:
        item, dots = get_args(hint)
        assert dots is Ellipsis
        return _tuple_codec(_codec(item), _bound(bounds, MaxCount, hint).items)
    if hint is str:
        return _text_codec(_bound(bounds, MaxLength, hint).characters)
    if hint is int:
        limits = _bound(bounds, Between, hint)
        return _integer_codec(limits.low, limits.high)
    if hint is bytes and _AddressText in bounds:
        return _spelled_codec(bytes, format_address, parse_address, _MAX_PREFIX_TEXT)
    if hint is Prefix:
        return _spelled_codec(Prefix, str, Prefix.parse, _MAX_PREFIX_TEXT)
    if hint is Interface:
        return _spelled_codec(Interface, str, Interface.parse, _MAX_PREFIX_TEXT)
    if hint is PublicKey:
        return _spelled_codec(PublicKey, str, PublicKey.from_base64, _MAX_KEY_TEXT)
    if isinstance(hint, type) and issubclass(hint, Part):
        return _part_codec(hint)
    raise TypeError(f"{hint!r} has no place in a message")


_B = TypeVar("_B")


def _bound(bounds: tuple[Any, ...], kind: type[_B], hint: Any) -> _B:
    for bound in bounds:
        if isinstance(bound, kind):
            return bound
    raise TypeError(f"{hint!r} needs a {kind.__name__} in a message")


def _text_codec(length: int) -> _Codec:
    def check(value: Any) -> str:
        if type(value) is not str or len(value) > length or not value.isprintable():
            raise ValueError(f"expected printable text of at most {length} characters")
        return value

    return _Codec(check, check)


def _integer_codec(low: int, high: int) -> _Codec:
    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}")
        return value

    return _Codec(check, check)


def _tuple_codec(item: _Codec, count: int) -> _Codec:
    def check(value: Any, is_list: bool) -> Any:
        if not is_list or len(value) > count:
            raise ValueError(f"expected a list of at most {count}")
        return value

    return _Codec(
        lambda value: [item.to_json(each) for each in check(value, type(value) is tuple)],
        lambda value: tuple(item.from_json(each) for each in check(value, type(value) is list)),
    )


def _part_codec(kind: type[Part]) -> _Codec:
    members = _Fields.of(kind)

    def to_json(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}")
        return members.to_json(value)

    def from_json(value: Any) -> Any:
        if type(value) is not dict:
            raise ValueError("expected an object")
        return kind(**members.from_json(value))

    return _Codec(to_json, from_json)


def _spelled_codec(
    kind: type, to_text: Callable[[Any], str], parse: Callable[[str], Any], length: int
) -> _Codec:
    def to_json(value: Any) -> str:
        if not isinstance(value, kind):
            raise TypeError(f"expected {kind.__name__}")
        return to_text(value)

    def from_json(value: Any) -> Any:
        if type(value) is not str or len(value) > length:
            raise ValueError("expected a short text")
        return parse(value)

    return _Codec(to_json, from_json)
