"""What a file says of a server, of its clients, and of what serves the daemon."""

# ruff: noqa: E501 - a section and its sentences stand side by side

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.load import examine, load
from nvpn.config.model import (
    AddressRange,
    HostPort,
    MetricsConfig,
    Reservation,
    ServerConfig,
    StoreConfig,
    StoreKind,
    TunnelConfig,
)
from nvpn.model.keys import PublicKey
from nvpn.model.ports import PortPolicy, PortSpec
from nvpn.model.prefixes import Prefix, parse_address
from nvpn.model.secret import SecretText
from nvpn.resilience.policy import BreakerPolicy, Policies, RetryPolicy

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
HEAD = f"""\
[interface]
private_key = "{OWN}"
address = ["10.8.0.1/24", "fd42::1/64"]
listen_port = 51820
"""
SECOND = 1_000_000_000


def write(directory: Path, text: str, name: str = "wg0.toml") -> Path:
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def read(directory: Path, text: str) -> TunnelConfig:
    config = load(write(directory, text))
    assert config.warnings == ()
    return config


def warnings(directory: Path, text: str) -> list[str]:
    path = write(directory, text)
    examination = examine(path)
    assert examination.problems == ()
    return [warning.replace(f"{path}:", "") for warning in examination.warnings]


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


def span(first: str, last: str) -> AddressRange:
    return AddressRange(parse_address(first), parse_address(last))


def test_a_pool_is_all_that_a_server_needs(tmp_path: Path) -> None:
    config = read(tmp_path, f'{HEAD}[server]\npool = "10.8.0.0/24"\n')
    pool = prefixes("10.8.0.0/24")
    assert config.server == ServerConfig(pools=pool, routes=pool)
    assert (config.server.lease_time, config.server.invitation_time) == (86_400, 86_400)
    assert config.metrics is None
    assert config.resilience == Policies()


def test_everything_about_a_server_can_be_said(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""{HEAD}
[server]
pool = ["10.8.0.0/24", "fd42::/64"]
endpoint = ["vpn.example", "192.0.2.1:443", "2001:db8::1", "[2001:db8::2]", "[2001:db8::3]:53"]
lease_time = "12h"
reserved = ["10.8.0.2", "10.8.0.200 - 10.8.0.254", "10.8.0.64/28", "fd42::/120"]
routes = ["10.8.0.0/24", "192.168.7.0/24"]
dns = ["10.8.0.1", "corp.example"]
dns_search = "lab.example"
mtu = 1380
nat = true
idle_timeout = "30m"
invitation_time = 3600

[[server.reservation]]
public_key = "{ALICE}"
address = ["10.8.0.65", "fd42::50"]

[[server.reservation]]
name = "printer"
address = "10.8.0.51"
""",
    )
    assert config.server == ServerConfig(
        pools=prefixes("10.8.0.0/24", "fd42::/64"),
        endpoints=(
            HostPort("vpn.example", 51820),
            HostPort("192.0.2.1", 443),
            HostPort("2001:db8::1", 51820),
            HostPort("2001:db8::2", 51820),
            HostPort("2001:db8::3", 53),
        ),
        lease_time=43_200,
        reserved=(
            span("10.8.0.2", "10.8.0.2"),
            span("10.8.0.200", "10.8.0.254"),
            span("10.8.0.64", "10.8.0.79"),
            span("fd42::", "fd42::ff"),
        ),
        routes=prefixes("10.8.0.0/24", "192.168.7.0/24"),
        dns=(parse_address("10.8.0.1"),),
        search=("corp.example", "lab.example"),
        mtu=1380,
        forward=True,
        nat=True,
        idle_timeout=1800,
        invitation_time=3600,
        reservations=(
            Reservation(
                PublicKey.from_base64(ALICE),
                addresses=(parse_address("10.8.0.65"), parse_address("fd42::50")),
            ),
            Reservation(name="printer", addresses=(parse_address("10.8.0.51"),)),
        ),
    )


def test_leases_may_be_kept_in_an_etcd_that_several_servers_share(tmp_path: Path) -> None:
    write(tmp_path, "hunter 2\n", "etcd.password")
    for name in ("ca.pem", "our.pem", "our.key"):
        write(tmp_path, "-----BEGIN X-----\n", name)
    config = read(
        tmp_path,
        f"""{HEAD}
[server]
pool = "10.8.0.0/24"
store = "etcd"
etcd = ["https://etcd1.example:2379/", "https://[2001:db8::1]:2379"]
etcd_prefix = "/vpn/office/"
etcd_user = "nvpn"
etcd_password_file = "etcd.password"
etcd_ca = "ca.pem"
etcd_cert = "our.pem"
etcd_key = "our.key"
""",
    )
    assert config.server is not None
    assert config.server.store == StoreConfig(
        kind=StoreKind.ETCD,
        etcd=("https://etcd1.example:2379", "https://[2001:db8::1]:2379"),
        prefix="/vpn/office",
        user="nvpn",
        password=SecretText("hunter 2"),
        ca=tmp_path / "ca.pem",
        cert=tmp_path / "our.pem",
        key=tmp_path / "our.key",
    )
    assert "hunter" not in repr(config)


def test_an_etcd_without_a_prefix_has_a_place_for_each_tunnel(tmp_path: Path) -> None:
    text = "[server]\npool = '10.8.0.0/24'\nstore = 'etcd'\netcd = 'http://localhost:2379'\n"
    config = read(tmp_path, HEAD + text)
    assert config.server is not None
    assert config.server.store.prefix == "/nvpn/wg0"


def test_fragments_add_reservations_and_may_give_what_no_other_file_gives(tmp_path: Path) -> None:
    fragment = "[[server.reservation]]\nname = '{}'\naddress = '10.8.0.{}'\n"
    write(tmp_path, fragment.format("a", 7) + "[server]\nmtu = 1400\n", "wg0.d/a.toml")
    write(tmp_path, fragment.format("b", 8) + "[metrics]\nlisten = '[::1]:1'", "wg0.d/b.toml")
    main = fragment.format("c", 9)
    config = read(tmp_path, f"{HEAD}[server]\npool = '10.8.0.0/24'\n{main}")
    assert config.server is not None
    assert [each.name for each in config.server.reservations] == ["c", "a", "b"]
    assert config.server.mtu == 1400
    assert config.metrics == MetricsConfig("::1", 1)


@pytest.mark.parametrize("listen", ["127.0.0.1:9586", "localhost:9586", "127.0.0.1:09586"])
def test_metrics_are_served_to_this_host(listen: str, tmp_path: Path) -> None:
    config = read(tmp_path, f"{HEAD}[metrics]\nlisten = '{listen}'\n")
    assert config.metrics == MetricsConfig("127.0.0.1", 9586)


def test_patience_is_told_in_seconds_or_texts(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""{HEAD}
[resilience]
max_attempts = 0
initial_interval = "250ms"
max_interval = 1.5
jitter = 1
failure_threshold = 3
reset_timeout = "1m"
success_threshold = 2
""",
    )
    retry = RetryPolicy(max_attempts=0, initial=SECOND // 4, maximum=SECOND * 3 // 2, jitter=1)
    breaker = BreakerPolicy(3, reset_timeout=60 * SECOND, success_threshold=2)
    assert config.resilience == Policies(retry, breaker)


def test_a_first_wait_beyond_the_longest_stretches_that(tmp_path: Path) -> None:
    config = read(tmp_path, f"{HEAD}[resilience]\ninitial_interval = 120\n")
    assert config.resilience.retry == RetryPolicy(initial=120 * SECOND, maximum=120 * SECOND)


def test_ports_are_for_the_interface_and_for_peers_of_their_own(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"""{HEAD}
allowed_ports = ["tcp/22", 443, "icmp", "tcp/22"]
[[peer]]
public_key = "{ALICE}"
disallowed_ports = "udp/1-1023"
[[peer]]
public_key = "{BOB}"
allowed_ports = []
""",
    )
    ssh, https = PortSpec((6,), (22, 22)), PortSpec((6, 17), (443, 443))
    assert config.interface.ports == PortPolicy((ssh, https, PortSpec((1, 58))))
    alice, bob = config.peers
    assert alice.ports == PortPolicy(None, (PortSpec((17,), (1, 1023)),))
    assert bob.ports == PortPolicy(())


def test_a_client_needs_no_more_than_a_server_to_ask(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        f"[interface]\nprivate_key = '{OWN}'\nchannel = true\non_connect = ['a', 'b']\n"
        f"on_disconnect = 'c'\n[[peer]]\npublic_key = '{ALICE}'\nendpoint = 'vpn.example:51820'\n"
        "server = true\n",
    )
    assert config.peers[0].server
    assert config.interface.channel
    hooks = config.interface.hooks
    assert (hooks.on_connect, hooks.on_disconnect) == (("a", "b"), ("c",))


WARNED = [
    ("listen_port = 51820\n", "", "pool = '10.8.0.0/24'", ["4: server: the interface has no listen_port, so that the port is another one after each start; set it, such as listen_port = 51820"]),
    ("", "", "pool = ['10.9.0.0/24', 'fd42::/64']", ["6: server.pool[1]: the interface has no address in 10.9.0.0/24, so that clients do not reach this host by IPv4; give it one"]),
    ("", "", "pool = ['10.9.0.0/24', '10.8.0.0/24']", []),
    ("", f"[[peer]]\npublic_key='{ALICE}'\nallowed_ips = ['0.0.0.0/0', '10.8.0.0/16', '10.8.0.9']\n", "pool = '10.8.0.0/24'\nreservation = [{name = 'a', address = '10.8.0.8'}]", []),
    ("", "", "pool = '10.8.0.0/24'\nreserved = ['10.9.0.2-10.9.0.4', '10.8.0.0/16']", ["7: server.reserved[1]: 10.9.0.2-10.9.0.4 is in no pool, so that this changes nothing"]),
    ("", "", "pool = '10.8.0.0/24'\nroutes = ['10.8.0.0/24', '10.8.0.9/24']", ["7: server.routes[2]: \"10.8.0.9/24\" is taken as 10.8.0.0/24", "7: server.routes[2]: 10.8.0.0/24 is given twice"]),
    ("", "", "pool = '10.8.0.0/24'\nroutes = ['10.8.0.7/32', '192.168.7.0/24', '10.0.0.0/8']", ["7: server.routes[2]: clients send here what is for 192.168.7.0/24, and this host is not told to forward it; set forward = true; or false, if it forwards without being told"]),
    ("", "", "pool = '10.8.0.0/24'\nroutes = '0.0.0.0/0'\nforward = false", []),
    ("", "", "pool = '10.8.0.0/24'\nroutes = '0.0.0.0/0'\nnat = true", []),
    ("", "", "pool = '10.8.0.0/24'\nstore = 'etcd'\netcd = 'http://192.0.2.1:2379'", ["8: server.etcd: everybody on the way there may read the leases, and change them; write https, with etcd_ca"]),
    ("", "", "pool = '10.8.0.0/24'\n[metrics]\nlisten = '[::]:9586'", ["8: metrics.listen: everybody who reaches [::]:9586 may read who is connected, and when; it asks for no password; let a firewall guard it, or listen on 127.0.0.1"]),
]  # fmt: skip


@pytest.mark.parametrize(("without", "peers", "server", "sentences"), WARNED)
def test_what_is_legal_and_surprising_is_warned_about(
    without: str, peers: str, server: str, sentences: list[str], tmp_path: Path
) -> None:
    text = f"{HEAD.replace(without, '')}{peers}[server]\n{server}\n"
    assert warnings(tmp_path, text) == sentences


def test_a_server_to_ask_that_cannot_be_asked_is_warned_about(tmp_path: Path) -> None:
    said = warnings(tmp_path, f"{HEAD}[[peer]]\npublic_key = '{ALICE}'\nserver = true\n")
    assert said == [
        "7: peer[1].server: the peer has no endpoint, so that it cannot be asked before it"
        " speaks first"
    ]


def test_secrets_beside_the_file_are_looked_after(tmp_path: Path) -> None:
    write(tmp_path, "hunter2", "password").chmod(0o644)
    write(tmp_path, "-----BEGIN X-----", "our.pem").chmod(0o644)
    write(tmp_path, "-----BEGIN X-----", "our.key").chmod(0o640)
    said = warnings(
        tmp_path,
        f"{HEAD}[server]\npool = '10.8.0.0/24'\nstore = 'etcd'\netcd = 'https://localhost:1'\n"
        "etcd_user = 'nvpn'\netcd_password_file = 'password'\n"
        "etcd_cert = 'our.pem'\netcd_key = 'our.key'\n",
    )
    assert said == [
        f'10: server.etcd_password_file: "{tmp_path}/password" is accessible to everyone;'
        " try: chmod 600 on it",
        f'12: server.etcd_key: "{tmp_path}/our.key" is accessible to its group;'
        " try: chmod 600 on it",
    ]
