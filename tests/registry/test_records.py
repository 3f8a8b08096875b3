"""Records: written and read again, and whatever else lies in a store."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.config.model import HostPort
from nvpn.model.clock import SECOND
from nvpn.registry.mirror import Mirror
from nvpn.registry.model import Client, Invitation, Origin, Server
from nvpn.registry.records import (
    AddressLease,
    AnnouncedServer,
    NameHolder,
    ServerAddress,
    Value,
    put_client,
    put_invitation,
    put_lease,
    put_name,
    put_server,
    put_server_address,
    read,
)
from nvpn.registry.store import Changes, Put, Record
from tests.support.registry import address, key_of

KEY = key_of(1)
CLIENT = Client(KEY, 'a "b"/ä', Origin.JOINED, 1, "host", 2, (address("fd42::1"),), key_of(2), 3)
INVITATION = Invitation(KEY, "x", 1, 2, 3, (key_of(2), key_of(3)), 4)
LEASE = AddressLease(address("10.8.0.2"), KEY, 1, 60, 2, "server")
SERVER = AnnouncedServer(
    Server(KEY, "nörd", (HostPort("vpn.example", 51820), HostPort("2001:db8::1", 443))), 5
)
WRITTEN: list[tuple[Value, Put]] = [
    (CLIENT, put_client(CLIENT)),
    (INVITATION, put_invitation(INVITATION)),
    (LEASE, put_lease(LEASE)),
    (NameHolder(KEY), put_name('a "b"/ä', KEY)),
    (
        ServerAddress(address("10.8.0.1"), "server"),
        put_server_address(ServerAddress(address("10.8.0.1"), "server")),
    ),
    (SERVER, put_server(SERVER, expires_at=9)),
]


@pytest.mark.parametrize(("value", "put"), WRITTEN, ids=lambda one: type(one).__name__)
def test_what_is_written_is_read_again(value: Value, put: Put) -> None:
    assert read(put.key, put.value) == value
    later = {**json.loads(put.value), "of": "a later version"}
    assert read(put.key, json.dumps(later).encode()) == value


@pytest.mark.parametrize(("value", "put"), WRITTEN, ids=lambda one: type(one).__name__)
def test_what_lacks_something_is_not_read(value: Value, put: Put) -> None:
    for name in json.loads(put.value):
        for change in ({}, {name: None}, {name: [1]}, {name: {}}, {name: True}):
            fields = {**json.loads(put.value), **change}
            if not change:
                del fields[name]
            assert read(put.key, json.dumps(fields).encode()) is None, (name, change)


@pytest.mark.parametrize(
    "strange", ["a\nb", "\x1b[2J", "\ud800", "\u202e", "x" * 1025, -1, 2**63, 10**400]
)
@pytest.mark.parametrize(("value", "put"), WRITTEN, ids=lambda one: type(one).__name__)
def test_what_nobody_here_writes_is_not_read(value: Value, put: Put, strange: str | int) -> None:
    fields = json.loads(put.value)
    for name in [name for name, before in fields.items() if type(before) is type(strange)]:
        odd = json.dumps({**fields, name: strange}).encode()
        assert read(put.key, odd) is None, name


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * 65},
        {"endpoints": []},
        {"endpoints": ["vpn.example:51820"] * 9},
        {"endpoints": ["vpn.example"]},
        {"endpoints": ["vpn example:51820"]},
        {"endpoints": ["vpn.example:0"]},
        {"endpoints": ["\x1b[2J:51820"]},
    ],
    ids=str,
)
def test_a_server_that_nobody_could_be_told_of_is_not_read(fields: dict[str, object]) -> None:
    put = put_server(SERVER, expires_at=9)
    assert read(put.key, json.dumps({**json.loads(put.value), **fields}).encode()) is None


def test_a_lease_of_ten_thousand_years_is_not_read() -> None:
    put = put_lease(LEASE)
    endless = {**json.loads(put.value), "seconds": 2**33}
    assert read(put.key, json.dumps(endless).encode()) is None


def test_a_key_in_another_spelling_is_another_record() -> None:
    put = put_lease(LEASE)
    assert read(put_client(CLIENT).key.replace("a", "A"), put_client(CLIENT).value) is None
    for spelling in ("lease/010.8.0.2", "lease/10.8.0.2/32", "lease/", "lease/fd42::0:2"):
        assert read(spelling, put.value) is None


KEYS = st.sampled_from([put.key for _, put in WRITTEN]) | st.text(max_size=20).map(
    lambda tail: f"client/{tail}"
)
VALUES = st.sampled_from([put.value for _, put in WRITTEN]) | st.binary(max_size=30)


@given(st.lists(st.tuples(KEYS, VALUES, st.booleans(), st.booleans()), max_size=20))
def test_whatever_comes_the_mirror_follows(news: list[tuple[str, bytes, bool, bool]]) -> None:
    mirror = Mirror()
    there: dict[str, Record] = {}
    for revision, (key, value, is_gone, is_watched) in enumerate(news, 1):
        if is_gone:
            there.pop(key, None)
            changes = Changes(revision, missing=(key,))
        else:
            there[key] = Record(key, value, revision)
            changes = Changes(revision, (there[key],))
        mirror.apply(changes, watched=is_watched)
    fresh = Mirror()
    fresh.apply(Changes(len(news), tuple(there.values()), whole=True), watched=True)
    assert (mirror.clients, mirror.leases) == (fresh.clients, fresh.leases)
    assert (mirror.invitations, mirror.servers) == (fresh.invitations, fresh.servers)
    assert mirror.apply(Changes(len(news) + 1, tuple(there.values()), whole=True)) == []


@pytest.mark.parametrize(("seconds", "hold"), [(30, 60), (60, 60), (3600, 3600)])
def test_a_lease_stays_in_the_store_for_as_long_as_others_must_wait(
    seconds: int, hold: int
) -> None:
    lease = AddressLease(address("10.8.0.2"), KEY, 1, seconds, seconds * SECOND, "server")
    assert put_lease(lease).expires_at == (seconds + hold) * SECOND
    assert put_lease(replace(lease, seconds=0, expires_at=0)).expires_at is None
