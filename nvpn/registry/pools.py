"""Which addresses may be leased at all: arithmetic on pools, and no memory of who holds what.

A pool is what is left of its prefix without what nobody may have: a network's and a broadcast
address (IPv4, unless /31 or /32), the subnet-router anycast address (IPv6, RFC 4291 section
2.6.1, unless /127 or /128), our own addresses, the ranges that the configuration keeps out,
what peers of the file have, and what is reserved for somebody. It is kept as spans, so that a
/64 costs no more than a /24.

Prefixes of file peers which cover a pool whole take nothing out of it: a lease is a single
address, and of two routes the longer one is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from nvpn.config.model import AddressRange
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Interface, Prefix
from nvpn.registry.model import RegistrySettings

_LABEL: Final = b"nvpn lease v1"


class Span(NamedTuple):
    """Addresses as integers, both ends included."""

    first: int
    last: int


class Pools:
    """What may be leased, under one configuration.

    Args:
        fixed: what peers of the file have.
    """

    def __init__(self, settings: RegistrySettings, fixed: Iterable[Prefix] = ()) -> None:
        self._reserved_by_key: dict[PublicKey, tuple[bytes, ...]] = {}
        self._reserved_by_name: dict[str, tuple[bytes, ...]] = {}
        for one in settings.reservations:
            if one.public_key is not None:
                known = self._reserved_by_key.get(one.public_key, ())
                self._reserved_by_key[one.public_key] = known + one.addresses
            else:
                known = self._reserved_by_name.get(one.name, ())
                self._reserved_by_name[one.name] = known + one.addresses
        taken = list(_kept_out(settings, fixed))
        self._pools: Final = tuple(_Pool(prefix, taken) for prefix in settings.pools)

    @property
    def families(self) -> tuple[int, ...]:
        """4, 6, or both: of each a client gets one address."""
        return tuple(sorted({pool.prefix.version for pool in self._pools}))

    def size(self, version: int) -> int:
        """How many addresses of the family anybody may get."""
        return sum(pool.size for pool in self._pools if pool.prefix.version == version)

    def is_leasable(self, address: bytes) -> bool:
        """Whether anybody may get it."""
        return any(pool.has(address) for pool in self._pools)

    def reserved_for(self, client: PublicKey, name: str) -> tuple[bytes, ...]:
        """What this client gets and nobody else; its key counts more than its name."""
        by_name = self._reserved_by_name.get(name, ()) if name else ()
        return self._reserved_by_key.get(client) or by_name

    def interface(self, address: bytes) -> Interface:
        """The address with the length of its pool, so that clients reach each other by us."""
        value, bits = int.from_bytes(address, "big"), len(address) * 8
        lengths = [pool.prefix.length for pool in self._pools if pool.covers(value, bits)]
        return Interface(address, max(lengths, default=bits))

    def walk(self, version: int, client: PublicKey) -> Iterator[bytes]:
        """Every address of the family once, pool by pool.

        Where it begins in a pool follows from the key: so a client that we forgot is likely
        to get what it had, and servers that share a pool seldom try the same address.
        """
        digest = hashlib.blake2s(_LABEL + bytes(client), digest_size=16).digest()
        start = int.from_bytes(digest, "big")
        for pool in self._pools:
            if pool.prefix.version == version:
                yield from pool.walk(start)


class _Pool:
    """One prefix without what nobody may have."""

    def __init__(self, prefix: Prefix, taken: Iterable[tuple[int, Span]]) -> None:
        self.prefix: Final = prefix
        self._bits: Final = prefix.bits
        whole = _span(prefix)
        self._whole: Final = whole
        ends = (
            (whole.first, whole.last)
            if prefix.version == 4 and prefix.length < 31
            else (whole.first,)
            if prefix.version == 6 and prefix.length < 127
            else ()
        )
        out = [Span(end, end) for end in ends]
        out += [
            span
            for version, span in taken
            if version == prefix.version and span.first <= whole.last and span.last >= whole.first
        ]
        self._spans: Final = tuple(_subtract(whole, out))
        self.size: Final = sum(span.last - span.first + 1 for span in self._spans)

    def covers(self, value: int, bits: int) -> bool:
        return bits == self._bits and self._whole.first <= value <= self._whole.last

    def has(self, address: bytes) -> bool:
        value = int.from_bytes(address, "big")
        return self.covers(value, len(address) * 8) and any(
            span.first <= value <= span.last for span in self._spans
        )

    def walk(self, start: int) -> Iterator[bytes]:
        if not self.size:
            return
        start %= self.size
        count = self.prefix.bits // 8
        later, earlier = [], []
        passed = 0
        for span in self._spans:
            size = span.last - span.first + 1
            cut = span.first + min(max(start - passed, 0), size)
            if cut > span.first:
                earlier.append(Span(span.first, cut - 1))
            if cut <= span.last:
                later.append(Span(cut, span.last))
            passed += size
        for span in (*later, *earlier):
            value = span.first
            while value <= span.last:  # a range of 2**64 has no length that Python can say
                yield value.to_bytes(count, "big")
                value += 1


def _kept_out(settings: RegistrySettings, fixed: Iterable[Prefix]) -> Iterator[tuple[int, Span]]:
    for own in settings.own:
        yield _single(own.address)
    for one in settings.reserved:
        yield _range(one)
    for reservation in settings.reservations:
        for address in reservation.addresses:
            yield _single(address)
    for prefix in fixed:
        if not any(prefix.covers(pool) for pool in settings.pools):
            yield prefix.version, _span(prefix)


def _single(address: bytes) -> tuple[int, Span]:
    return _range(AddressRange(address, address))


def _range(one: AddressRange) -> tuple[int, Span]:
    version = 4 if len(one.first) == 4 else 6
    return version, Span(int.from_bytes(one.first, "big"), int.from_bytes(one.last, "big"))


def _span(prefix: Prefix) -> Span:
    return Span(prefix.network, prefix.network + (1 << prefix.bits - prefix.length) - 1)


def _subtract(whole: Span, out: list[Span]) -> Iterator[Span]:
    """What is left of a span, in order."""
    first = whole.first
    for span in sorted(out):
        if span.first > first:
            yield Span(first, min(span.first - 1, whole.last))
        first = max(first, span.last + 1)
    if first <= whole.last:
        yield Span(first, whole.last)
