"""What nvpn says about wrong sections of a server, sentence for sentence."""

# ruff: noqa: E501 - a section and its sentence stand side by side

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.finish_server import MAX_ROUTES
from nvpn.config.load import examine
from tests.config.test_server import ALICE, BOB, HEAD, write

POOL = "[server]\npool = ['10.8.0.0/24', 'fd42::/64']\n"
ETCD = f"{POOL}store = 'etcd'\netcd = 'https://localhost:2379'\n"
RESERVED = f"{POOL}[[server.reservation]]\nname = 'a'\n"
TIMES = 'such as "90s", "15m", "12h" or "1d"'
URL = "expected http or https, a host and a port, such as http://127.0.0.1:2379"
LISTEN = "expected an address and a port, such as 127.0.0.1:9586 or [::1]:9586"
PORTS = "expected one such as tcp/22, udp/1-1023, tcp, 22, icmp or proto/47"

MISTAKES = [
    # --- the section
    ("[server]\n", '5: server: has no pool; every server needs one, such as pool = ["10.8.0.0/24", "fd42::/64"]'),
    ("[[server]]\npool = '10.8.0.0/24'\n", "5: server: expected one table, found a list; write [server] in single brackets, once"),
    ("[servers]\n", "5: servers: is an unknown section; did you mean [server]?"),
    ("[metric]\n", "5: metric: is an unknown section; did you mean [metrics]?"),
    (f"{POOL}pools = 'x'\n", '7: server.pools: is unknown; did you mean "pool"?'),
    (f"{POOL}masquerade = true\n", '7: server.masquerade: is unknown; did you mean "nat"?'),
    (f"{POOL}etcd_password = 'x'\n", '7: server.etcd_password: is unknown; did you mean "etcd_password_file"?'),
    (f"{POOL}listen_port = 1\n", "7: server.listen_port: is unknown here; it belongs to [interface]"),
    ("pool = '10.8.0.0/24'\n", "5: interface.pool: is unknown here; it belongs to [server]"),
    # --- pools
    ("[server]\npool = 10\n", "6: server.pool: expected a text or a list of texts, found 10"),
    ("[server]\npool = '10.8.0.0'\n", '6: server.pool: expected a network like 10.8.0.0/24 or fd42::/64, found "10.8.0.0"'),
    ("[server]\npool = '10.8.0.1/24'\n", '6: server.pool: expected a network such as 10.8.0.0/24, without an address in it, found "10.8.0.1/24"'),
    ("[server]\npool = '0.0.0.0/0'\n", '6: server.pool: expected a network that clients can have addresses of, found "0.0.0.0/0"'),
    ("[server]\npool = ['127.0.0.0/24',\n'fe80::/64']\n", '6: server.pool[1]: expected a network that clients can have addresses of, found "127.0.0.0/24"', '7: server.pool[2]: expected a network that clients can have addresses of, found "fe80::/64"'),
    ("[server]\npool = ['10.8.0.0/24', '10.8.0.0/16']\n", "6: server.pool[2]: 10.8.0.0/16 overlaps with the pool 10.8.0.0/24 on line 6; keep one of them"),
    (f"[server]\npool = [{', '.join(repr(f'10.8.{n}.0/24') for n in range(17))}]\n", "6: server.pool[17]: expected at most 16 pools, and 10.8.16.0/24 is one more"),
    ("[server]\npool = []\n", '6: server.pool: is empty; every server needs one, such as pool = ["10.8.0.0/24", "fd42::/64"]'),
    # --- what clients are told
    (f"{POOL}endpoint = 'http://vpn.example'\n", '7: server.endpoint: expected a host, or one with its port, such as vpn.example.com:51820, found "http://vpn.example"'),
    (f"{POOL}endpoint = 'vpn.example:0'\n", '7: server.endpoint: expected a port from 1 to 65535, found "vpn.example:0"'),
    (f"{POOL}endpoint = ['a',\n'a:51820']\n", '8: server.endpoint[2]: "a:51820" is given twice; keep one of them'),
    (f"{POOL}endpoint = [{','.join(repr(f'a:{n}') for n in range(1, 10))}]\n", "7: server.endpoint[9]: expected at most 8 endpoints, and this is one more"),
    (f"{POOL}lease_time = '1 day'\n", f'7: server.lease_time: expected a time from 1m to 30d, {TIMES}, found "1 day"'),
    (f"{POOL}lease_time = 59\n", "7: server.lease_time: expected a time from 1m to 30d, found 59"),
    (f"{POOL}lease_time = 'off'\n", '7: server.lease_time: expected a time from 1m to 30d, found "off"'),
    (f"{POOL}lease_time = 1.5\n", f"7: server.lease_time: expected a time from 1m to 30d, {TIMES}, found a number with a point"),
    (f"{POOL}idle_timeout = '5s'\n", '7: server.idle_timeout: expected a time from 1m to 365d, or "off", found "5s"'),
    (f"{POOL}invitation_time = '400d'\n", '7: server.invitation_time: expected a time from 1m to 365d, found "400d"'),
    (f"{POOL}reserved = ['10.8.0.9-10.8.0.7']\n", '7: server.reserved: expected a range whose first address comes before its last, found "10.8.0.9-10.8.0.7"'),
    (f"{POOL}reserved = ['10.8.0.9-fd42::7']\n", '7: server.reserved: expected a range whose first address comes before its last, found "10.8.0.9-fd42::7"'),
    (f"{POOL}reserved = ['10.8.0.9-17']\n", '7: server.reserved: expected an address, a range like 10.8.0.200-10.8.0.254, or a prefix, found "10.8.0.9-17"'),
    (f"{POOL}routes = ['everything']\n", '7: server.routes: expected a prefix like 10.0.0.0/24 or fd00::/64, found "everything"'),
    (f"{POOL}routes = [{','.join(repr(f'10.{n}.0.0/16') for n in range(MAX_ROUTES + 1))}]\n", f"7: server.routes[{MAX_ROUTES + 1}]: expected at most {MAX_ROUTES} routes, and this is one more"),
    (f"{POOL}dns = [{','.join(repr(f'10.8.0.{n}') for n in range(1, 10))}]\n", "7: server.dns[9]: expected at most 8 name servers, and 10.8.0.9 is one more"),
    (f"{POOL}dns_search = [{', '.join(repr(f'{n}.example') for n in range(9))}]\n", "7: server.dns_search: expected at most 8 domains"),
    (f"{POOL}routes = [{','.join(repr(f'fd42:1234:5678:9abc:def0:1234:5678:{n:x}/128') for n in range(16, 200))}]\n", "5: server: routes, name servers, domains and endpoints take 8097 bytes, and clients can be told 7168; join routes into shorter prefixes"),
    (f"{POOL}mtu = 1200\n", "7: server.mtu: expected at least 1280, which the IPv6 addresses need, found 1200"),
    (f"{POOL}mtu = 65000\n", "7: server.mtu: expected bytes from 576 to 9200, found 65000"),
    (f"{POOL}nat = 'yes'\n", '7: server.nat: expected true or false without quotes, found "yes"'),
    (f"{POOL}nat = true\nforward = false\n", "8: server.forward: is false, and nat needs forwarding; remove it, or set nat = false"),
    # --- the store
    (f"{POOL}store = 'redis'\n", '7: server.store: expected "file" or "etcd", found "redis"'),
    (f"{POOL}store = 'etcd'\n", '7: server.store: needs etcd, the addresses of its members; such as etcd = ["http://127.0.0.1:2379"]'),
    (f"{POOL}etcd = 'http://localhost:2379'\n", '7: server.etcd: is about an etcd, and the store is a file; set store = "etcd", or remove it'),
    (f"{POOL}store = 'etcd'\netcd = 'localhost:2379'\n", f'8: server.etcd: {URL}, found "localhost:2379"'),
    (f"{POOL}store = 'etcd'\netcd = 'http://localhost'\n", f'8: server.etcd: {URL}, found "http://localhost"'),
    (f"{POOL}store = 'etcd'\netcd = 'http://localhost:2379/v3'\n", f'8: server.etcd: {URL}, found "http://localhost:2379/v3"'),
    (f"{POOL}store = 'etcd'\netcd = 'http://[::1:2379'\n", f'8: server.etcd: {URL}, found "http://[::1:2379"'),
    (f"{POOL}store = 'etcd'\netcd = 'https://nvpn:hunter2@localhost:2379'\n", "8: server.etcd: expected no name and no password in it; use etcd_user and etcd_password_file"),
    (f"{ETCD}etcd_prefix = 'nvpn'\n", '9: server.etcd_prefix: expected words after slashes, such as /nvpn/office, found "nvpn"'),
    (f"{ETCD}etcd_user = 'nvpn'\n", "9: server.etcd_user: needs etcd_password_file, too"),
    (f"{ETCD}etcd_user = 'nv pn'\netcd_password_file = 'two'\n", "9: server.etcd_user: expected a name of letters, digits or any of _.@-, found \"nv pn\"", '10: server.etcd_password_file: "{here}/two" is no text of one line; expected a password on one line'),
    (f"{ETCD}etcd_password_file = 'empty'\netcd_user = 'a'\n", '9: server.etcd_password_file: "{here}/empty" is empty; expected a password on one line'),
    (f"{ETCD}etcd_password_file = ''\netcd_user = 'a'\n", "9: server.etcd_password_file: expected the path of a file that holds the password"),
    (f"{ETCD}etcd_ca = '~/ca.pem'\n", "9: server.etcd_ca: ~ is not expanded here; write the whole path"),
    (f"{ETCD}etcd_ca = 'nosuch.pem'\n", '9: server.etcd_ca: "{here}/nosuch.pem" does not exist'),
    (f"{ETCD}etcd_ca = 'two'\n", '9: server.etcd_ca: "{here}/two" holds no PEM, which begins with -----BEGIN'),
    (f"{ETCD}etcd_cert = 'pem'\n", "9: server.etcd_cert: needs etcd_key, too"),
    (f"{ETCD.replace('https', 'http')}etcd_ca = 'pem'\n", "9: server.etcd_ca: is for https, and etcd is reached by http; write https in etcd, or remove it"),
    # --- reservations
    (f"{POOL}[server.reservation]\nname = 'a'\n", "7: server.reservation: expected a list of tables, found one table; write [[server.reservation]] for each reservation"),
    (f"{POOL}[[server.reservation]]\naddress = '10.8.0.5'\n", "7: server.reservation[1]: has neither public_key nor name; one of them tells whose it is"),
    (f"{RESERVED}public_key = '{ALICE}'\naddress = '10.8.0.5'\n", "7: server.reservation[1]: has both public_key and name; one of them tells whose it is"),
    (RESERVED, '7: server.reservation[1]: has no address; expected an address of a pool, such as address = "10.8.0.50"'),
    (f"{RESERVED}address = '10.8.0.5/24'\n", '9: server.reservation[1].address: expected an address like 10.8.0.50 or fd42::50, without a length, found "10.8.0.5/24"'),
    (f"{RESERVED}address = '10.9.0.5'\n", "9: server.reservation[1].address: 10.9.0.5 is in no pool; expected an address in 10.8.0.0/24, fd42::/64"),
    (f"{RESERVED}address = '10.8.0.255'\n", "9: server.reservation[1].address: 10.8.0.255 is the address of the network 10.8.0.0/24 itself"),
    (f"{RESERVED}address = 'fd42::'\n", "9: server.reservation[1].address: fd42:: is the address of the network fd42::/64 itself"),
    (f"{RESERVED}address = '10.8.0.1'\n", "9: server.reservation[1].address: 10.8.0.1 is an address of this interface, on line 3"),
    (f"{RESERVED}address = ['10.8.0.5', '10.8.0.6']\n", "9: server.reservation[1].address[2]: a client has one IPv4 address, and 10.8.0.6 is one more"),
    (f"{RESERVED}address = '10.8.0.5'\n[[server.reservation]]\nname = 'b'\naddress = '10.8.0.5'\n", "12: server.reservation[2].address: 10.8.0.5 is reserved on line 9 already"),
    (f"{RESERVED}address = '10.8.0.5'\n[[server.reservation]]\nname = 'a'\naddress = '10.8.0.6'\n", "11: server.reservation[2].name: has a reservation on line 7 already; give both addresses there"),
    (f"[[peer]]\npublic_key = '{BOB}'\nallowed_ips = '10.8.0.4/31'\n{RESERVED}address = '10.8.0.5'\n", "12: server.reservation[1].address: 10.8.0.5 belongs to the peer on line 7 already; it has 10.8.0.4/31"),
    (f"{RESERVED}colour = 'red'\naddress = '10.8.0.5'\n", "9: server.reservation[1].colour: is unknown; known are public_key, name, address"),
    # --- metrics and patience
    ("[metrics]\n", '5: metrics: has no listen; expected an address and a port, such as listen = "127.0.0.1:9586"'),
    ("[metrics]\nlisten = 9586\n", f"6: metrics.listen: {LISTEN}, found 9586"),
    ("[metrics]\nlisten = ':9586'\n", f'6: metrics.listen: {LISTEN}, found ":9586"'),
    ("[metrics]\nlisten = 'metrics.example:9586'\n", f'6: metrics.listen: {LISTEN}, found "metrics.example:9586"'),
    ("[metrics]\nbind = '127.0.0.1:9586'\n", '5: metrics: has no listen; expected an address and a port, such as listen = "127.0.0.1:9586"', '6: metrics.bind: is unknown; did you mean "listen"?'),
    ("[resilience]\nretries = 5\n", '6: resilience.retries: is unknown; did you mean "max_attempts"?'),
    ("[resilience]\nmax_attempts = -1\n", "6: resilience.max_attempts: expected attempts from 0 to 1000, found -1"),
    ("[resilience]\njitter = 1.5\n", "6: resilience.jitter: expected a part from 0 to 1, found 1.5"),
    ("[resilience]\njitter = '1s'\n", '6: resilience.jitter: expected a part from 0 to 1, found "1s"'),
    ("[resilience]\ninitial_interval = nan\n", "6: resilience.initial_interval: expected seconds from 0.01 to 3600, found nan"),
    ("[resilience]\nreset_timeout = 'soon'\n", '6: resilience.reset_timeout: expected seconds from 0.1 to 86400, found "soon"'),
    ("[resilience]\ninitial_interval = 2\nmax_interval = '1s'\n", "7: resilience.max_interval: is shorter than the first wait, 2 s; set initial_interval lower, or this one higher"),
    # --- ports, and the client's side
    ("allowed_ports = ['22/tcp']\n", '5: interface.allowed_ports: the protocol stands before the port: tcp/22, found "22/tcp"'),
    ("disallowed_ports = ['ssh',\n0]\n", f'5: interface.disallowed_ports[1]: not a port or a protocol; {PORTS}, found "ssh"', '6: interface.disallowed_ports[2]: ports are 1 to 65535; for all of them write the protocol alone, such as tcp, found "0"'),
    ("allowed_ports = [true]\n", "5: interface.allowed_ports: expected a text in quotes, found true"),
    ("allowed_ports = false\n", "5: interface.allowed_ports: expected a text or a list of texts, found false"),
    ("open_ports = ['tcp']\n", '5: interface.open_ports: is unknown; did you mean "allowed_ports"?'),
    (f"backend = 'kernel'\nallowed_ports = 22\n[[peer]]\npublic_key = '{ALICE}'\ndisallowed_ports = []\n", '6: interface.allowed_ports: needs nvpn\'s own datapath, and the backend is the kernel; set backend = "userspace", or let a firewall see to it', '9: peer[1].disallowed_ports: needs nvpn\'s own datapath, and the backend is the kernel; set backend = "userspace", or let a firewall see to it'),
    ("on_connect = ['']\n", "5: interface.on_connect: expected a command, found an empty text"),
    (f"[[peer]]\npublic_key = '{ALICE}'\nserver = 'vpn.example'\n", '7: peer[1].server: expected true or false without quotes, found "vpn.example"'),
    ("server = true\n", "5: interface.server: is unknown here; it belongs to [[peer]]"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentences"), [(text, told) for text, *told in MISTAKES])
def test_a_mistake_is_told_in_one_sentence(
    text: str, sentences: list[str], tmp_path: Path
) -> None:
    write(tmp_path, "two\nlines\n", "two")
    write(tmp_path, "\n", "empty")
    write(tmp_path, "-----BEGIN CERTIFICATE-----\n", "pem")
    path = write(tmp_path, HEAD + text)
    said = [str(problem).removeprefix(f"{path}:") for problem in examine(path).problems]
    assert said == [sentence.replace("{here}", str(tmp_path)) for sentence in sentences]


def test_a_host_without_any_port_is_a_mistake(tmp_path: Path) -> None:
    head = HEAD.replace("listen_port = 51820\n", "")
    path = write(tmp_path, f"{head}{POOL}endpoint = ['vpn.example', '2001:db8::1', 'a:7']\n")
    assert [str(problem).removeprefix(f"{path}:") for problem in examine(path).problems] == [
        '6: server.endpoint[1]: "vpn.example" has no port, and the interface has no listen_port;'
        ' write "vpn.example:51820", or set listen_port',
        '6: server.endpoint[2]: "2001:db8::1" has no port, and the interface has no listen_port;'
        ' write "[2001:db8::1]:51820", or set listen_port',
    ]


def test_two_files_may_not_say_the_same_thing(tmp_path: Path) -> None:
    main = write(tmp_path, HEAD + POOL)
    write(tmp_path, "[server]\npool = '10.9.0.0/24'\n", "wg0.d/a.toml")
    (problem,) = examine(main).problems
    assert str(problem) == (
        f"{tmp_path}/wg0.d/a.toml:2: server.pool: is given twice, on {main}:6 and here;"
        " keep one of them"
    )
