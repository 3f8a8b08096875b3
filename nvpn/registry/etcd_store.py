"""A registry's store in etcd, which several servers share.

A commit is one transaction on the revisions of the records it read. If its answer is lost it is
sent again: either it was done, then the conditions fail and the records are what was to be
written, or it was not, then it is done now, once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, TypeVar

from nvpn.errors import Refused, ServiceError, Unavailable
from nvpn.model.clock import SECOND, Now
from nvpn.registry.etcd_gateway import EtcdGateway, LeaseNotFound, decode, encode
from nvpn.registry.etcd_leases import EtcdLeases
from nvpn.registry.store import Changes, Commit, Condition, Edit, Put, Record
from nvpn.resilience.backoff import Backoff
from nvpn.resilience.breaker import Breaker
from nvpn.resilience.calls import call
from nvpn.resilience.policy import RetryPolicy

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")

AT_ONCE: Final = 8
"""Requests under way; the others wait for their turn. More make etcd no quicker, and httpx slower:
it looks at every connection for every request."""

_CANCEL_AGAIN_SECONDS: Final = 0.1

WATCH_AGAIN: Final = RetryPolicy(max_attempts=0, initial=SECOND // 5, maximum=5 * SECOND)


class _Header(NamedTuple):
    """How far the history of an etcd had come when it answered."""

    cluster: str
    term: int
    revision: int

    def is_before(self, known: _Header | None) -> bool:
        """Whether it is not the history of which we know so much."""
        return known is not None and (
            self.cluster != known.cluster
            or self.term < known.term
            or self.revision < known.revision
        )


class EtcdStore:
    """Everything under one prefix.

    Args:
        prefix: of every key; a slash is put between it and ours.
        breaker: called for each use; the one of this etcd.
        retry: called for each use; how often a request is tried.
        clocks: both clocks.
        random: so many random bytes.
    """

    is_shared: Final = True

    def __init__(
        self,
        gateway: EtcdGateway,
        prefix: str,
        *,
        breaker: Callable[[], Breaker],
        retry: Callable[[], RetryPolicy],
        clocks: Callable[[], Now],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._gateway: Final = gateway
        self._prefix: Final = f"{prefix.rstrip('/')}/".encode()
        self._breaker: Final = breaker
        self._retry: Final = retry
        self._clocks: Final = clocks
        self._random: Final = random
        self._leases: Final = EtcdLeases(gateway, clocks)
        self._turns: Final = asyncio.Semaphore(AT_ONCE)
        self._seen = 0
        self._newest: _Header | None = None
        self._watching: asyncio.Task[None] | None = None

    def describe(self) -> str:
        """The servers and the prefix."""
        return f"etcd at {self._gateway.describe()}, under {self._prefix.decode()}"

    async def load(self) -> Changes:
        """See Store.load."""
        changes = await self._patiently(self._read_all)
        self._seen = changes.revision
        return changes

    async def commit(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        """See Store.commit."""
        try:
            return await self._patiently(lambda: self._transact(conditions, edits))
        except Refused as error:
            # It is us whom it refuses, and no client.
            raise Unavailable(str(error)) from None

    def watch(self, changed: Callable[[Changes], None]) -> None:
        """See Store.watch."""
        self._watching = asyncio.ensure_future(self._watch(changed))

    async def close(self) -> None:
        """See Store.close."""
        # Until Python 3.12, wait_for forgets a cancellation that comes together with an answer.
        while self._watching is not None and not self._watching.done():
            self._watching.cancel()
            await asyncio.wait((self._watching,), timeout=_CANCEL_AGAIN_SECONDS)
        self._leases.close()
        await self._gateway.close()

    async def _patiently(self, work: Callable[[], Awaitable[_T]]) -> _T:
        async def in_turn() -> _T:
            async with self._turns:
                return await work()

        return await call(
            in_turn,
            breaker=self._breaker(),
            retry=self._retry(),
            clock=lambda: self._clocks().boot,
            random=self._random,
        )

    # --- transactions -----------------------------------------------------------------------

    async def _transact(self, conditions: Sequence[Condition], edits: Sequence[Edit]) -> Commit:
        try:
            return await self._try_to_transact(conditions, edits)
        except LeaseNotFound:
            self._leases.forget()
        try:
            return await self._try_to_transact(conditions, edits)
        except LeaseNotFound as error:
            raise Unavailable(f"etcd forgets the leases that it grants: {error}") from None

    async def _try_to_transact(
        self, conditions: Sequence[Condition], edits: Sequence[Edit]
    ) -> Commit:
        keys = dict.fromkeys([one.key for one in conditions] + [one.key for one in edits])
        body = {
            "compare": [
                {
                    "key": self._key(key),
                    "target": "MOD",
                    "result": "EQUAL",
                    "mod_revision": str(revision),
                }
                for key, revision in conditions
            ],
            "success": [await self._operation(edit) for edit in edits],
            "failure": [{"request_range": {"key": self._key(key)}} for key in keys],
        }
        known = self._newest
        answer = await self._gateway.ask("/v3/kv/txn", body)
        try:
            header = _header(answer)
            if header.is_before(known):
                raise Unavailable("etcd was set back, and is read anew")
            self._advance(header)
            revision = header.revision
            if answer.get("succeeded"):
                return Commit(True, _written(edits, revision))
            records = tuple(
                self._record(kv)
                for response in answer["responses"]
                for kv in response["response_range"].get("kvs", ())
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unavailable("etcd answered a transaction with something else") from None
        there = {record.key for record in records}
        missing = tuple(key for key in keys if key not in there)
        return Commit(_is_done(edits, records), Changes(revision, records, missing))

    async def _operation(self, edit: Edit) -> dict[str, Any]:
        if not isinstance(edit, Put):
            return {"request_delete_range": {"key": self._key(edit.key)}}
        put = {"key": self._key(edit.key), "value": encode(edit.value)}
        if edit.expires_at is not None:
            put["lease"] = await self._leases.for_end(edit.expires_at)
        return {"request_put": put}

    # --- reading ----------------------------------------------------------------------------

    async def _read_all(self) -> Changes:
        known = self._newest
        answer = await self._gateway.ask("/v3/kv/range", self._everything())
        try:
            header = _header(answer)
            records = tuple(self._record(kv) for kv in answer.get("kvs", ()))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unavailable("etcd answered a question with something else") from None
        is_anew = header.is_before(known)
        if is_anew:
            _log.warning(
                "%s was set back, or is another one: what it has now counts", self.describe()
            )
            self._newest = header
            self._leases.forget()
        self._advance(header)
        return Changes(header.revision, records, whole=True, is_anew=is_anew)

    def _advance(self, header: _Header) -> None:
        if not header.is_before(self._newest):
            self._newest = header

    async def _watch(self, changed: Callable[[Changes], None]) -> None:
        backoff = Backoff(WATCH_AGAIN, self._random)
        is_away = False
        while True:
            known = self._newest
            try:
                async with aclosing(self._events()) as events:
                    async for result in events:
                        if is_away:
                            _log.info("%s is back", self.describe())
                            is_away = False
                        # What made others give up is over.
                        self._breaker().retry_now(self._clocks().boot)
                        backoff.reset()
                        changes = await self._changes(result, known)
                        if changes is not None:
                            self._seen = changes.revision
                            changed(changes)
                            if changes.whole:
                                break  # go on from there
            except ServiceError as error:
                if not is_away:
                    _log.warning("%s cannot be followed: %s", self.describe(), error)
                is_away = True
            except Exception:
                _log.exception("what %s told was not understood", self.describe())
            await asyncio.sleep((backoff.next_delay() or WATCH_AGAIN.maximum) / SECOND)

    def _events(self) -> AsyncGenerator[dict[str, Any], None]:
        create = {**self._everything(), "start_revision": str(self._seen + 1)}
        return self._gateway.stream("/v3/watch", {"create_request": create})

    async def _changes(self, result: dict[str, Any], known: _Header | None) -> Changes | None:
        """What one answer of the watch says; None: nothing new.

        Args:
            known: what we knew when the watch was begun.
        """
        if result.get("canceled"):
            if "compact_revision" in result:
                # What happened in between is no longer told: look at all of it.
                return await self._read_all()
            raise Unavailable(f"etcd ended the watch: {result.get('cancel_reason', 'no reason')}")
        try:
            header = _header(result)
            if not (result.get("created") and header.is_before(known)):
                self._advance(header)
                return self._read_events(result.get("events", ()))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise Unavailable("etcd told a change in a way that cannot be read") from None
        # What we wait for may never come; or only this one of its servers is behind.
        return await self._read_all()

    def _read_events(self, events: Sequence[dict[str, Any]]) -> Changes | None:
        revision = 0
        latest: dict[str, Record | None] = {}
        for event in events:
            kv = event["kv"]
            revision = max(revision, int(kv["mod_revision"]))
            if event.get("type") == "DELETE":
                latest[self._own_key(kv)] = None
            else:
                record = self._record(kv)
                latest[record.key] = record
        if not latest:
            return None
        return Changes(
            revision,
            tuple(record for record in latest.values() if record is not None),
            tuple(key for key, record in latest.items() if record is None),
        )

    # --- keys -------------------------------------------------------------------------------

    def _everything(self) -> dict[str, str]:
        # The prefix ends in a slash, and what comes after that is the digit 0.
        return {"key": encode(self._prefix), "range_end": encode(self._prefix[:-1] + b"0")}

    def _key(self, key: str) -> str:
        return encode(self._prefix + key.encode())

    def _own_key(self, kv: dict[str, Any]) -> str:
        key = decode(kv["key"])
        if not key.startswith(self._prefix):
            raise ValueError("a key that nobody asked for")
        return key[len(self._prefix) :].decode()

    def _record(self, kv: dict[str, Any]) -> Record:
        value = decode(kv.get("value", ""))
        return Record(self._own_key(kv), value, int(kv["mod_revision"]))


def _header(answer: dict[str, Any]) -> _Header:
    """Raises KeyError, TypeError, ValueError or AttributeError."""
    header = answer["header"]
    return _Header(
        str(header.get("cluster_id")), int(header.get("raft_term", 0)), int(header["revision"])
    )


def _written(edits: Sequence[Edit], revision: int) -> Changes:
    return Changes(
        revision,
        tuple(Record(one.key, one.value, revision) for one in edits if isinstance(one, Put)),
        tuple(one.key for one in edits if not isinstance(one, Put)),
    )


def _is_done(edits: Sequence[Edit], records: Sequence[Record]) -> bool:
    """Whether a transaction that failed is one of ours that had been done, unknown to us.

    What is put names who, for whom and when, in nanoseconds: the same bytes are the same
    transaction, or one to the same effect.
    """
    found = {record.key: record.value for record in records}
    return all(
        found.get(one.key) == (one.value if isinstance(one, Put) else None) for one in edits
    )
