"""The store in a real etcd: shared, killed, cut off, compacted; nothing is given twice."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nvpn.errors import PlatformError, Refused, Unavailable
from nvpn.model.clock import MILLISECOND, SECOND, read_clocks
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix
from nvpn.model.secret import SecretText
from nvpn.registry.etcd_gateway import decode, encode
from nvpn.registry.etcd_store import EtcdStore
from nvpn.registry.model import LeaseEnded, LeaseGiven, RegistryChange
from nvpn.registry.registry import Registry
from nvpn.registry.store import Changes, Condition, Delete, Put
from nvpn.resilience.breaker import BreakerState
from nvpn.resilience.registry import Breakers
from tests.support.etcd import Etcd, needs_etcd
from tests.support.etcd_store import HASTY, store_at, until
from tests.support.ports import free_ports
from tests.support.registry import admit_all, key_of, settings_of
from tests.support.tcp_relay import Relay

pytestmark = needs_etcd


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    server = Etcd(tmp_path_factory.mktemp("etcd"))
    server.start()
    server.wait()
    yield server
    server.kill()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return f"/nvpn/{request.node.name}"


def run(*stores: Callable[[], EtcdStore], story: Callable[..., Awaitable[None]]) -> None:
    async def tell() -> None:
        opened = [store() for store in stores]
        try:
            await story(*opened)
        finally:
            for store in opened:
                await store.close()

    asyncio.run(tell())


def test_a_commit_is_done_once_and_told_to_everybody(etcd: Etcd, prefix: str) -> None:
    async def story(one: EtcdStore, two: EtcdStore) -> None:
        assert (await one.load()).records == ()
        await two.load()
        told: list[Changes] = []
        two.watch(told.append)
        first = await one.commit([Condition("a/ä", 0)], [Put("a/ä", b"1"), Put("b", b"2")])
        assert first.done
        await until(lambda: told)  # one answer of the watch may tell of several commits
        second = await two.commit([Condition("a/ä", 0)], [Put("a/ä", b"other")])
        assert not second.done
        assert [record.value for record in second.changes.records] == [b"1"]
        assert second.changes.records[0].revision == first.changes.revision
        gone = await one.commit(
            [Condition("a/ä", first.changes.revision)], [Delete("a/ä"), Put("b", b"3")]
        )
        third = await two.commit([Condition("a/ä", 7), Condition("b", 7)], [Delete("b")])
        assert third.changes.missing == ("a/ä",)
        await until(lambda: told and told[-1].revision == gone.changes.revision)
        assert told[0].records == first.changes.records
        assert told[-1].missing == ("a/ä",) and told[-1].records[0].value == b"3"
        whole = await one.load()
        assert whole.whole and [record.key for record in whole.records] == ["b"]

    at = lambda: store_at(etcd.url, prefix=prefix)  # noqa: E731
    run(at, at, story=story)


def test_a_prefix_sees_nothing_of_another_that_begins_like_it(etcd: Etcd, prefix: str) -> None:
    async def story(one: EtcdStore, longer: EtcdStore) -> None:
        await longer.commit((), [Put("a", b"1")])
        await one.commit((), [Put("b", b"1")])
        assert [record.key for record in (await one.load()).records] == ["b"]

    run(
        lambda: store_at(etcd.url, prefix=prefix),
        lambda: store_at(etcd.url, prefix=f"{prefix}0"),
        story=story,
    )


def test_what_ends_is_under_a_lease_of_etcd_and_many_share_one(etcd: Etcd, prefix: str) -> None:
    async def story(store: EtcdStore) -> None:
        wall = read_clocks().wall
        for number in range(50):
            end = wall + 3600 * SECOND + number * MILLISECOND
            await store.commit((), [Put(f"lease/{number}", b"{}", end)])
        await store.commit((), [Put("client/a", b"{}")])
        kvs = etcd.ask("/v3/kv/range", {"key": b64(prefix), "range_end": b64(prefix + "0")})["kvs"]
        leases = {kv.get("lease", "") for kv in kvs if b"/lease/" in decode(kv["key"])}
        assert 1 <= len(leases) <= 2 and "" not in leases
        assert [kv for kv in kvs if "lease" not in kv]
        for lease in leases:
            left = int(etcd.ask("/v3/kv/lease/timetolive", {"ID": lease})["TTL"])
            assert 3600 + 250 <= left <= 3600 + 300 + 128

        # Somebody takes them away: records go, and new ones get another.
        await store.load()
        told: list[Changes] = []
        store.watch(told.append)
        await asyncio.sleep(0.1)
        for lease in leases:
            etcd.ask("/v3/kv/lease/revoke", {"ID": lease})
        await until(lambda: sum(len(one.missing) for one in told) == 50)
        await store.commit((), [Put("lease/1", b"{}", wall + 3600 * SECOND)])

    run(lambda: store_at(etcd.url, prefix=prefix), story=story)


def test_the_next_server_is_asked_where_one_is_dead(etcd: Etcd, prefix: str) -> None:
    async def story(store: EtcdStore) -> None:
        assert (await store.commit((), [Put("a", b"1")])).done
        told: list[Changes] = []
        await store.load()
        store.watch(told.append)
        await store.commit((), [Put("a", b"2")])
        await until(lambda: told)

    (dead,) = free_ports(1, socket.SOCK_STREAM)
    run(lambda: store_at(f"http://127.0.0.1:{dead}", etcd.url, prefix=prefix), story=story)


def test_an_answer_that_is_lost_was_still_only_one_commit(etcd: Etcd, prefix: str) -> None:
    async def story(store: EtcdStore) -> None:
        async with Relay(etcd.port, store_port) as relay:
            before = (await store.load()).revision
            # The request arrives, and the line is cut before the answer is through.
            for edits in ([Put("lease/10.8.0.2", b"mine")], [Delete("lease/10.8.0.2")]):
                there = {record.key: record.revision for record in (await store.load()).records}
                condition = Condition("lease/10.8.0.2", there.get("lease/10.8.0.2", 0))
                relay.answers_to_lose = 1
                commit = await store.commit([condition], edits)
                assert commit.done and relay.answers_to_lose == 0
            assert (await store.load()).revision == before + 2

            # And when somebody else was faster, that is told, not taken for ours.
            await store.commit((), [Put("lease/10.8.0.3", b"theirs")])
            relay.answers_to_lose = 1
            commit = await store.commit(
                [Condition("lease/10.8.0.3", 0)], [Put("lease/10.8.0.3", b"mine")]
            )
            assert not commit.done
            assert commit.changes.records[0].value == b"theirs"

    (store_port,) = free_ports(1, socket.SOCK_STREAM)
    run(lambda: store_at(f"http://127.0.0.1:{store_port}", prefix=prefix), story=story)


@pytest.mark.once
def test_after_a_gap_that_was_compacted_everything_is_told(etcd: Etcd, prefix: str) -> None:
    async def story(store: EtcdStore, other: EtcdStore) -> None:
        async with Relay(etcd.port, store_port) as relay:
            await other.commit((), [Put("a", b"1"), Put("b", b"1")])
            await store.load()
            told: list[Changes] = []
            store.watch(told.append)
            await other.commit((), [Put("a", b"2")])
            await until(lambda: told)
            relay.cut()
            await other.commit((), [Delete("b")])
            last = await other.commit((), [Put("c", b"1")])
            etcd.ask("/v3/kv/compaction", {"revision": str(last.changes.revision)})
            relay.join()
            await until(lambda: told[-1].whole)
            assert {record.key for record in told[-1].records} == {"a", "c"}
            await other.commit((), [Put("d", b"1")])
            await until(lambda: told[-1].records[0].key == "d")

    (store_port,) = free_ports(1, socket.SOCK_STREAM)
    run(
        lambda: store_at(f"http://127.0.0.1:{store_port}", prefix=prefix),
        lambda: store_at(etcd.url, prefix=prefix),
        story=story,
    )


def test_where_nobody_answers_one_is_told_so_and_soon_without_asking(prefix: str) -> None:
    breakers = Breakers(HASTY)

    async def story(store: EtcdStore) -> None:
        with pytest.raises(Unavailable, match=rf"etcd at http://127.0.0.1:{dead} does not answer"):
            await store.load()
        commits = [store.commit((), [Put("a", b"1")]) for _ in range(100)]
        results = await asyncio.gather(*commits, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in results)
        (snapshot,) = breakers.snapshots(read_clocks().boot)
        assert (snapshot.name, snapshot.state) == ("etcd", BreakerState.OPEN)

    (dead,) = free_ports(1, socket.SOCK_STREAM)
    run(lambda: store_at(f"http://127.0.0.1:{dead}", breakers=breakers), story=story)


# --- who is let in -----------------------------------------------------------------------------


@pytest.mark.once
def test_a_password_lets_us_in_also_after_a_restart(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path / "etcd")
    etcd.start()
    etcd.wait()
    for path, body in (
        ("user/add", {"name": "root", "password": "s3cret"}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("user/add", {"name": "guest", "password": "gu3ss"}),
        ("enable", {}),
    ):
        etcd.ask(f"/v3/auth/{path}", body)

    async def right(store: EtcdStore) -> None:
        await store.load()
        told: list[Changes] = []
        store.watch(told.append)
        assert (await store.commit((), [Put("a", b"1")])).done
        # Its tokens are in memory only: the new process knows none of them.
        etcd.kill()
        etcd.start()
        etcd.wait()
        while True:
            try:
                await store.commit((), [Put("a", b"2")])
                break
            except Unavailable:
                await asyncio.sleep(0.02)
        await until(lambda: told and told[-1].records[0].value == b"2")

    async def wrong(store: EtcdStore) -> None:
        with pytest.raises(Refused, match="authentication failed") as caught:
            await store.load()
        assert "gu3ss" not in str(caught.value)
        assert "see etcd_user, which is 'root', and etcd_password_file" in str(caught.value)

    async def without_leave(store: EtcdStore) -> None:
        with pytest.raises(Refused, match="'guest' has to be let read and write everything under"):
            await store.load()

    async def nobody(store: EtcdStore) -> None:
        with pytest.raises(Refused, match="etcd_user"):
            await store.load()

    try:
        secret, guess = SecretText("s3cret"), SecretText("gu3ss")
        run(lambda: store_at(etcd.url, user="root", password=secret), story=right)
        run(lambda: store_at(etcd.url, user="root", password=guess), story=wrong)
        run(lambda: store_at(etcd.url, user="guest", password=guess), story=without_leave)
        run(lambda: store_at(etcd.url), story=nobody)
    finally:
        etcd.kill()


def test_certificates_are_asked_for_and_shown(tmp_path: Path) -> None:
    ca, cert, key = make_certificates(tmp_path)
    etcd = Etcd(
        tmp_path / "etcd",
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={ca}",
        "--client-cert-auth",
        scheme="https",
    )
    etcd.start()
    etcd.wait()

    async def known(store: EtcdStore) -> None:
        assert (await store.commit((), [Put("a", b"1")])).done

    async def unknown(store: EtcdStore) -> None:
        with pytest.raises(Unavailable):
            await store.load()

    try:
        run(lambda: store_at(etcd.url, ca=ca, cert=cert, key=key), story=known)
        run(lambda: store_at(etcd.url, ca=ca), story=unknown)
        run(lambda: store_at(etcd.url), story=unknown)
    finally:
        etcd.kill()
    with pytest.raises(PlatformError, match=r"nothing\.pem"):
        store_at(etcd.url, ca=tmp_path / "nothing.pem")


def test_nothing_of_it_tells_the_password() -> None:
    store = store_at("http://user:pw@192.0.2.1:2379", user="root", password=SecretText("s3cret"))
    assert store.describe() == "etcd at http://192.0.2.1:2379, under /nvpn/wg0/"


@pytest.mark.once
def test_without_httpx_the_remedy_is_told() -> None:
    script = (
        "import sys; sys.modules['httpx'] = None\n"
        "from nvpn.errors import PlatformError\n"
        "try: import nvpn.registry.etcd_store\n"
        "except PlatformError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    expected = "cannot load httpx, which store = \"etcd\" needs; try: pip install 'nvpn[etcd]'\n"
    assert done.stdout == expected


# --- the storm --------------------------------------------------------------------------------


class Watcher:
    """What a server makes of what it is told: who may send from where."""

    def __init__(self) -> None:
        self.holders: dict[Prefix, PublicKey] = {}
        self.mistakes: list[RegistryChange] = []

    def __call__(self, change: RegistryChange) -> None:
        if isinstance(change, LeaseGiven):
            self.mistakes += [change for one in change.prefixes if one in self.holders]
            self.holders.update(dict.fromkeys(change.prefixes, change.key))
        elif isinstance(change, LeaseEnded):
            for prefix in change.prefixes:
                del self.holders[prefix]


@pytest.mark.once
def test_an_etcd_killed_in_a_storm_gives_no_address_twice(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path / "etcd")
    etcd.start()
    etcd.wait()
    try:
        asyncio.run(asyncio.wait_for(storm(etcd, clients=500), 240))
    finally:
        etcd.kill()


async def storm(etcd: Etcd, *, clients: int) -> None:
    keys = [key_of(number) for number in range(clients)]
    store = store_at(etcd.url)
    await admit_all(store, keys)
    await store.close()
    watchers = [Watcher(), Watcher()]
    registries = [
        Registry(
            store_at(etcd.url),
            settings_of("10.8.0.0/22", server=name),
            file_peers={},
            clocks=read_clocks,
            random=os.urandom,
            on_change=watcher,
        )
        for name, watcher in zip(("east", "west"), watchers, strict=True)
    ]
    for registry in registries:
        await registry.open()
    leased: dict[PublicKey, tuple[Any, ...]] = {}

    async def come(number: int) -> None:
        # As clients do: another try, and the other server, when one cannot answer now.
        for attempt in itertools.count(number):
            try:
                lease = await registries[attempt % 2].lease(keys[number])
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                leased[keys[number]] = lease.addresses
                return

    coming = [asyncio.ensure_future(come(number)) for number in range(clients)]
    await until(lambda: len(leased) >= clients // 5)
    assert len(leased) < clients
    etcd.kill()
    await asyncio.sleep(0.1)
    etcd.start()
    await asyncio.gather(*coming)

    assert len({address for addresses in leased.values() for address in addresses}) == clients
    held = what_etcd_has(etcd)
    assert len(held) == clients
    for registry, watcher in zip(registries, watchers, strict=True):
        await until(lambda watcher=watcher: len(watcher.holders) == clients)  # type: ignore[misc]
        assert watcher.mistakes == []
        assert {str(one).split("/")[0]: key.hex for one, key in watcher.holders.items()} == held
        assert {one.client: one.addresses for one in registry.leases()} == leased
        await registry.close()


def what_etcd_has(etcd: Etcd) -> dict[str, str]:
    """Each leased address, and the key of who holds it."""
    begin = "/nvpn/wg0/lease/"
    kvs = etcd.ask("/v3/kv/range", {"key": b64(begin), "range_end": b64(begin[:-1] + "0")})["kvs"]
    return {
        decode(kv["key"]).decode()[len(begin) :]: json.loads(decode(kv["value"]))["client"]
        for kv in kvs
    }


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """A certificate of 127.0.0.1 which is its own authority, for server and client."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "etcd")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    paths = [directory / name for name in ("ca.pem", "cert.pem", "key.pem")]
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    for path in paths[:2]:
        path.write_bytes(pem)
    paths[2].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths[0], paths[1], paths[2]


def b64(text: str) -> str:
    return encode(text.encode())
