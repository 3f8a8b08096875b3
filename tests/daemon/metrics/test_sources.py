"""What is served, read back by the parsers of Prometheus' own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest
from prometheus_client.metrics_core import Metric as Parsed
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from nvpn import __version__
from nvpn.daemon.connections import Connections
from nvpn.daemon.events import Admitted, EventBus
from nvpn.daemon.metrics.collection import Collection
from nvpn.daemon.metrics.exposition import Format, Kind, Metric, expose
from nvpn.errors import DropReason
from nvpn.model.changes import Owner
from nvpn.model.clock import SECOND, Now
from nvpn.model.guest_name import guest_name
from nvpn.model.keys import PublicKey
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.model.snapshot import PeerSnapshot
from nvpn.registry.model import Client, Invitation, Origin
from nvpn.resilience.policy import BreakerPolicy, Policies
from nvpn.resilience.registry import Breakers
from tests.support.scenarios import ELSEWHERE, A, B, C

GUEST = PublicKey(b"g" * 32)
PEERS = {
    A: PeerSnapshot(
        A,
        name='my "laptop"\\\n',
        endpoint=ELSEWHERE,
        last_handshake=1_795_521_600 * SECOND + 5,
        rx_bytes=1 << 60,
        tx_bytes=7,
        allowed_ips=(Prefix.parse("10.8.0.2/32"), Prefix.parse("fd42::2/128")),
    ),
    B: PeerSnapshot(B),
    GUEST: PeerSnapshot(GUEST, guest_name("b"), Owner.LEASE),
}


class Tunnel:
    """Two peers, an invitation, and one peer that is removed while it is looked at."""

    def peers(self) -> list[PublicKey]:
        return [A, C, GUEST, B]

    def peer(self, peer: PublicKey) -> PeerSnapshot | None:
        return PEERS.get(peer)

    def drops(self) -> Mapping[DropReason, int]:
        return {DropReason.NO_ROUTE: 4, DropReason.BAD_TAG: 0}

    def subscribe(self, listener: object) -> None:
        pass


class Registry:
    def clients(self) -> tuple[Client, ...]:
        return (
            Client(A, "a", Origin.JOINED, 0),
            Client(B, "b", Origin.JOINED, 0, revoked_at=1),
            Client(C, "c", Origin.FILE, 0),
        )

    def invitations(self) -> tuple[Invitation, ...]:
        return (
            Invitation(A, "a", 0, 10),
            Invitation(B, "b", 0, 10, enrolled=(A,)),
            Invitation(C, "c", 0, 5),
        )

    def holders(self) -> tuple[PublicKey, ...]:
        return (A,)

    def leased_addresses(self) -> tuple[bytes, ...]:
        return parse_address("10.8.0.2"), parse_address("fd42::2")


def everything(*, is_server: bool = True) -> list[Metric]:
    async def collect() -> list[Metric]:
        tunnel, events = Tunnel(), EventBus()
        events.publish(Admitted(A))
        breakers = Breakers(Policies(breaker=BreakerPolicy(failure_threshold=1)))
        breakers.get("etcd")
        attempt = breakers.get("dns vpn.example").attempt(1)
        assert attempt is not None
        attempt.failed(1)
        connections = Connections(tunnel, events, asyncio.get_running_loop())
        statistics = {"requests_sent": 3, "dropped_too_long": 2, "questions_open": 1}
        collection = Collection(
            "wg0",
            tunnel,
            connections,
            events,
            breakers,
            registry=lambda: Registry() if is_server else None,
            channel=lambda: statistics if is_server else None,
            clocks=lambda: Now(7, 7),
        )
        metrics = await collection()
        connections.close()
        return metrics

    return asyncio.run(collect())


def text(form: Format) -> str:
    return "".join(expose(everything(), form))


def by_name(metrics: Iterable[Parsed]) -> dict[str, Parsed]:
    return {metric.name: metric for metric in metrics}


def values(metric: Parsed, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in metric.samples}


@pytest.fixture(scope="module")
def read() -> dict[str, Parsed]:
    return by_name(openmetrics.text_string_to_metric_families(text(Format.OPENMETRICS)))


def test_openmetrics_is_read_by_its_strict_parser_and_ends_as_it_has_to(
    read: dict[str, Parsed],
) -> None:
    assert text(Format.OPENMETRICS).endswith("\n# EOF\n")
    types = {name: (metric.type, metric.unit) for name, metric in read.items()}
    assert types == {
        "nvpn_build": ("info", ""),
        "wireguard_sent_bytes": ("counter", "bytes"),
        "wireguard_received_bytes": ("counter", "bytes"),
        "wireguard_latest_handshake_seconds": ("gauge", "seconds"),
        "nvpn_peers": ("gauge", ""),
        "nvpn_connected_peers": ("gauge", ""),
        "nvpn_handshakes": ("counter", ""),
        "nvpn_dropped_packets": ("counter", "packets"),
        "nvpn_events": ("counter", ""),
        "nvpn_breaker_state": ("gauge", ""),
        "nvpn_breaker_openings": ("counter", ""),
        "nvpn_clients": ("gauge", ""),
        "nvpn_leases": ("gauge", ""),
        "nvpn_leased_addresses": ("gauge", ""),
        "nvpn_invitations": ("gauge", ""),
        "nvpn_channel_messages": ("counter", ""),
        "nvpn_channel_dropped": ("counter", ""),
        "nvpn_channel_questions_open": ("gauge", ""),
    }
    assert all(metric.documentation for metric in read.values())


def test_both_formats_have_the_same_samples() -> None:
    def samples(metrics: Iterable[Parsed]) -> list[tuple[str, dict[str, str], float]]:
        return [(one.name, one.labels, one.value) for metric in metrics for one in metric.samples]

    old = text(Format.PROMETHEUS)
    assert "# EOF" not in old
    assert "# UNIT" not in old
    assert samples(text_string_to_metric_families(old)) == samples(
        openmetrics.text_string_to_metric_families(text(Format.OPENMETRICS))
    )


def test_the_older_format_is_that_of_the_exporter_word_for_word() -> None:
    lines = text(Format.PROMETHEUS).splitlines()
    where = lines.index("# HELP wireguard_sent_bytes_total Bytes sent to the peer")
    one = (
        f'interface="wg0",public_key="{A}",allowed_ips="10.8.0.2/32,fd42::2/128"'
        ',friendly_name="my \\"laptop\\"\\\\\\n"'
    )
    other = f'interface="wg0",public_key="{B}",allowed_ips="(none)"'
    assert lines[where + 1 : where + 10] == [
        "# TYPE wireguard_sent_bytes_total counter",
        f"wireguard_sent_bytes_total{{{one}}} 7",
        f"wireguard_sent_bytes_total{{{other}}} 0",
        "# HELP wireguard_received_bytes_total Bytes received from the peer",
        "# TYPE wireguard_received_bytes_total counter",
        f"wireguard_received_bytes_total{{{one}}} {1 << 60}",
        f"wireguard_received_bytes_total{{{other}}} 0",
        "# HELP wireguard_latest_handshake_seconds Unix time of the last handshake; 0 for never",
        "# TYPE wireguard_latest_handshake_seconds gauge",
    ]
    assert f"wireguard_latest_handshake_seconds{{{one}}} 1795521600" in lines


def test_names_come_back_as_they_were(read: dict[str, Parsed]) -> None:
    (sample, _) = read["wireguard_sent_bytes"].samples
    assert sample.labels["friendly_name"] == PEERS[A].name


def test_an_invitation_is_no_peer_to_watch(read: dict[str, Parsed]) -> None:
    for name in ("sent_bytes", "received_bytes", "latest_handshake_seconds"):
        told = values(read[f"wireguard_{name}"], "public_key")
        assert set(told) == {A.base64, B.base64}


def test_the_numbers_are_those_of_their_sources(read: dict[str, Parsed]) -> None:
    (build,) = read["nvpn_build"].samples
    assert build.labels["version"] == __version__
    assert values(read["nvpn_peers"], "interface") == {"wg0": 2}
    assert values(read["nvpn_connected_peers"], "interface") == {"wg0": 0}
    assert values(read["nvpn_handshakes"], "result") == {
        "completed": 0,
        "unanswered": 0,
        "given-up": 0,
    }
    assert values(read["nvpn_dropped_packets"], "reason") == {"no-route": 4, "bad-tag": 0}
    happened = values(read["nvpn_events"], "event")
    assert (happened.pop("admitted"), set(happened.values())) == (1, {0})
    assert values(read["nvpn_clients"], "interface") == {"wg0": 1}
    assert values(read["nvpn_leases"], "interface") == {"wg0": 1}
    assert values(read["nvpn_leased_addresses"], "family") == {"ipv4": 1, "ipv6": 1}
    assert values(read["nvpn_invitations"], "interface") == {"wg0": 1}
    assert values(read["nvpn_channel_messages"], "what") == {"requests-sent": 3}
    assert values(read["nvpn_channel_dropped"], "reason") == {"too-long": 2}
    states = {
        (sample.labels["breaker"], sample.labels["state"])
        for sample in read["nvpn_breaker_state"].samples
        if sample.value
    }
    assert states == {("dns vpn.example", "open"), ("etcd", "closed")}
    assert len(read["nvpn_breaker_state"].samples) == 6
    assert values(read["nvpn_breaker_openings"], "breaker") == {"dns vpn.example": 1, "etcd": 0}


def test_who_is_no_server_tells_of_no_leases_and_no_channel() -> None:
    names = {metric.name for metric in everything(is_server=False)}
    assert "nvpn_peers" in names
    assert not {name for name in names if "lease" in name or "channel" in name}


def test_long_metrics_come_in_pieces() -> None:
    metric = Metric("many", Kind.GAUGE, "Many")
    for number in range(2000):
        metric.add({"number": str(number)}, number)
    pieces = list(expose([metric], Format.OPENMETRICS))
    assert len(pieces) == 1 + 4 + 1
    assert "".join(pieces).count("\n") == 2000 + 3
