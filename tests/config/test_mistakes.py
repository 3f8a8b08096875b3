"""What nvpn says about wrong files, sentence for sentence."""

# ruff: noqa: E501 - a file and its sentence stand side by side

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.load import examine
from nvpn.model.keys import PrivateKey

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
OWN_PUBLIC = PrivateKey.from_base64(OWN).public().base64
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
ZEROS = "A" * 43 + "="
KEY = "expected a key of 44 base64 characters, as nvpn genkey and nvpn pubkey print it"
ENDPOINT = "expected host:port, such as vpn.example.com:51820 or [2001:db8::1]:51820"
KNOWN = "known are [interface], [[peer]], [server], [metrics] and [resilience]"
NO_PATH = "expected the path of a file that holds the key"

HEAD = f"[interface]\nprivate_key = '{OWN}'\n"
PEER = f"{HEAD}[[peer]]\npublic_key = '{ALICE}'\n"
TWO = f"{PEER}allowed_ips = '10.0.0.2'\n[[peer]]\npublic_key = '{BOB}'\n"

TOML = [
    # --- not TOML
    ("", "is empty; expected an [interface] section"),
    ("# nothing\n", "is empty; expected an [interface] section"),
    (
        "[interface]\naddress = 10.0.0.1/24\n",
        ":2: is not valid TOML: expected the end of the line after the value (column 15)",
    ),
    (
        "[interface]\nfwmark = off\n",
        ":2: is not valid TOML: expected a value, such as a number or a text in quotes (column 10)",
    ),
    (
        "[interface]\nprivate_key = 'abc\n",
        ":2: is not valid TOML: expected the closing quote of a text",
    ),
    (
        "[interface]\naddress = 'a\nmtu = 'b'\n",
        ":2: is not valid TOML: expected the closing quote of a text on the same line (column 13)",
    ),
    ("[interface]\nx = \"\"\"a\n\n\n", ":2: is not valid TOML: expected the closing quote of a text"),
    ("[interface\n", ":1: is not valid TOML: expected ] at the end of the section's name (column 11)"),
    ("[interface]\nmtu 1420\n", ":2: is not valid TOML: expected = after the key (column 5)"),
    ("[interface]\nmtu = 1\nmtu = 2\n", ":3: is not valid TOML: the same key stands there twice (column 8)"),
    ("[interface]\n[interface]\n", ":2: is not valid TOML: the same section stands there twice (column 11)"),
    ("[interface]\naddress = ['10.0.0.1/24'\n", ":3: is not valid TOML: expected a comma or ] in a list"),
    ("[interface]\naddress = \"C:\\x\"\n", ":2: is not valid TOML: expected hexadecimal digits in an escape (column 16)"),
    ("a = " + "[" * 5000, ": is nested too deeply"),
    # --- sections
    ("[Interface]\nmtu = 1420\n", ":1: Interface: is an unknown section; did you mean [interface]?"),
    (f"{HEAD}[[peers]]\n", ":3: peers: is an unknown section; did you mean [[peer]]?"),
    (f"{HEAD}[wormhole]\n", f":3: wormhole: is an unknown section; {KNOWN}"),
    (f"{HEAD}[peer]\npublic_key = '{ALICE}'\n", ":3: peer: expected a list of tables, found one table; write [[peer]] for each peer"),
    ("[[interface]]\n", ":1: interface: expected one table, found a list; write [interface] in single brackets, once"),
    ("interface = 1\n", ":1: interface: expected a table, found 1; write [interface]"),
    (f"peer = 'x'\n{HEAD}", ":1: peer: expected a list of tables, found \"x\"; write [[peer]] for each peer"),
    (f"peer = ['x']\n{HEAD}", ":1: peer[1]: expected a table, found a text; write [[peer]] for each peer"),
    (f"mtu = 1420\n{HEAD}", ":1: mtu: stands outside of any section; put it below [interface]"),
    (f"version = 1\n{HEAD}", f":1: version: stands outside of any section; {KNOWN}"),
    # --- keys
    (f"{HEAD}listenport = 1\n", ":3: interface.listenport: is unknown; did you mean \"listen_port\"?"),
    (f"{HEAD}ListenPort = 1\n", ":3: interface.ListenPort: is unknown; did you mean \"listen_port\"?"),
    (f"{HEAD}port = 1\n", ":3: interface.port: is unknown; did you mean \"listen_port\"?"),
    (f"{HEAD}adress = '10.0.0.1'\n", ":3: interface.adress: is unknown; did you mean \"address\"?"),
    (f"{HEAD}colour = 'red'\n", ":3: interface.colour: is unknown; known are private_key, private_key_file, address, listen_port, mtu, fwmark, datapath, workers, queues, dns, dns_search, table, kill_switch, pre_up, post_up, pre_down, post_down, save_config, netns, birth_netns, backend, channel, allowed_ports, disallowed_ports, on_connect, on_disconnect"),
    (f"{PEER}psk = 'x'\n", ":5: peer[1].psk: is unknown; did you mean \"preshared_key\"?"),
    (f"{PEER}AllowedIPs = 'x'\n", ":5: peer[1].AllowedIPs: is unknown; did you mean \"allowed_ips\"?"),
    (f"{HEAD}allowed_ips = '10.0.0.0/8'\n", ":3: interface.allowed_ips: is unknown here; it belongs to [[peer]]"),
    (f"{PEER}listen_port = 1\n", ":5: peer[1].listen_port: is unknown here; it belongs to [interface]"),
    # --- types
    (f"{HEAD}listen_port = '51820'\n", ":3: interface.listen_port: expected a port from 0 to 65535, found \"51820\"; write it without quotes"),
    (f"{HEAD}listen_port = 65536\n", ":3: interface.listen_port: expected a port from 0 to 65535, found 65536"),
    (f"{HEAD}listen_port = true\n", ":3: interface.listen_port: expected a port from 0 to 65535, found true"),
    (f"{HEAD}listen_port = 1.5\n", ":3: interface.listen_port: expected a port from 0 to 65535, found a number with a point"),
    (f"{HEAD}listen_port = 0x{'f' * 64}\n", ":3: interface.listen_port: expected a port from 0 to 65535, found a huge number"),
    (f"{HEAD}mtu = 100\n", ":3: interface.mtu: expected bytes from 576 to 65475, found 100"),
    (f"{HEAD}mtu = 1979-05-27\n", ":3: interface.mtu: expected bytes from 576 to 65475, found a date or time"),
    (f"{HEAD}mtu = 1200\naddress = 'fd00::1/64'\n", ":3: interface.mtu: expected at least 1280, which the IPv6 address needs, found 1200"),
    (f"{HEAD}fwmark = -1\n", ":3: interface.fwmark: expected a mark from 0 to 4294967295, such as \"0xca6c\", or \"off\", found -1"),
    (f"{HEAD}fwmark = 'blue'\n", ":3: interface.fwmark: expected a mark from 0 to 4294967295, such as \"0xca6c\", or \"off\", found \"blue\""),
    (f"{HEAD}address = 10\n", ":3: interface.address: expected a text or a list of texts, found 10"),
    (f"{HEAD}address = ['10.0.0.1/24',\n  7]\n", ":4: interface.address[2]: expected a text in quotes, found 7"),
    (f"{HEAD}address = {{ ip = '10.0.0.1' }}\n", ":3: interface.address: expected a text or a list of texts, found a table"),
    (f"{HEAD}datapath = 'rust'\n", ":3: interface.datapath: expected \"auto\", \"native\" or \"python\", found \"rust\""),
    (f"{HEAD}datapath = true\n", ":3: interface.datapath: expected a text in quotes, found true"),
    (f"{PEER}datapath = 'auto'\n", ":5: peer[1].datapath: is unknown here; it belongs to [interface]"),
    (f"{HEAD}workers = 0\n", ":3: interface.workers: expected workers from 1 to 64, found 0"),
    (f"{HEAD}workers = 65\n", ":3: interface.workers: expected workers from 1 to 64, found 65"),
    (f"{HEAD}workers = '4'\n", ":3: interface.workers: expected workers from 1 to 64, found \"4\"; write it without quotes"),
    (f"{HEAD}workers = 'auto'\n", ":3: interface.workers: expected workers from 1 to 64, found \"auto\""),
    (f"{HEAD}queues = 17\n", ":3: interface.queues: expected queues from 1 to 16, found 17"),
    (f"{HEAD}queues = true\n", ":3: interface.queues: expected queues from 1 to 16, found true"),
    (f"{HEAD}threads = 4\n", ":3: interface.threads: is unknown; did you mean \"workers\"?"),
    (f"{HEAD}multi_queue = 4\n", ":3: interface.multi_queue: is unknown; did you mean \"queues\"?"),
    (f"{PEER}workers = 4\n", ":5: peer[1].workers: is unknown here; it belongs to [interface]"),
    # --- the host
    (f"{HEAD}dns = '10.0.0.256'\n", ":3: interface.dns: expected an address like 10.0.0.1 or fd00::1, found \"10.0.0.256\""),
    (f"{HEAD}dns = ['10.0.0.1',\n'fe80::1%eth0']\n", ":4: interface.dns[2]: expected an address like 10.0.0.1 or fd00::1, found \"fe80::1%eth0\""),
    (f"{HEAD}dns = '10.0.0.1, 10.0.0.2'\n", ":3: interface.dns: expected an address like 10.0.0.1, or a domain like example.com, found \"10.0.0.1, 10.0.0.2\"; write several as a list"),
    (f"{HEAD}dns = false\n", ":3: interface.dns: expected a text or a list of texts, found false"),
    (f"{HEAD}dns_search = ['a..b']\n", ":3: interface.dns_search: expected an address like 10.0.0.1, or a domain like example.com, found \"a..b\""),
    (f"{HEAD}nameservers = ['10.0.0.1']\n", ":3: interface.nameservers: is unknown; did you mean \"dns\"?"),
    (f"{HEAD}PostUp = 'true'\n", ":3: interface.PostUp: is unknown; did you mean \"post_up\"?"),
    (f"{HEAD}namespace = 'x'\n", ":3: interface.namespace: is unknown; did you mean \"netns\"?"),
    (f"{HEAD}killswitch = true\n", ":3: interface.killswitch: is unknown; did you mean \"kill_switch\"?"),
    (f"{HEAD}table = 0\n", ":3: interface.table: expected \"auto\", \"off\", a routing table from 1 to 4294967295, or its name, found 0"),
    (f"{HEAD}table = 4294967296\n", ":3: interface.table: expected \"auto\", \"off\", a routing table from 1 to 4294967295, or its name, found 4294967296"),
    (f"{HEAD}table = 'no such table'\n", ":3: interface.table: expected \"auto\", \"off\", a routing table from 1 to 4294967295, or its name, found \"no such table\""),
    (f"{HEAD}table = 'local'\n", ":3: interface.table: expected a table other than 255, which holds the addresses of this host, found \"local\""),
    (f"{HEAD}table = true\n", ":3: interface.table: expected \"auto\", \"off\", a routing table from 1 to 4294967295, or its name, found true"),
    (f"{HEAD}kill_switch = 'true'\n", ":3: interface.kill_switch: expected true or false without quotes, found \"true\""),
    (f"{HEAD}save_config = 1\n", ":3: interface.save_config: expected true or false without quotes, found 1"),
    (f"{HEAD}post_up = ['echo secret',\n' ']\n", ":4: interface.post_up[2]: expected a command, found an empty text"),
    (f"{HEAD}pre_down = \"\"\"echo secret\nrm x\"\"\"\n", ":3: interface.pre_down: expected a command on one line"),
    (f"{HEAD}pre_up = 7\n", ":3: interface.pre_up: expected a text or a list of texts, found 7"),
    (f"{HEAD}netns = '..'\n", ":3: interface.netns: expected the name of a network namespace, or a path from / on, found \"..\""),
    (f"{HEAD}birth_netns = 'run/netns/a'\n", ":3: interface.birth_netns: expected the name of a network namespace, or a path from / on, found \"run/netns/a\""),
    (f"{HEAD}backend = 'linux'\n", ":3: interface.backend: expected \"userspace\", \"kernel\" or \"auto\", found \"linux\""),
    (f"{HEAD}workers = 2\nbackend = 'kernel'\n", ":3: interface.workers: is about nvpn's own datapath, and the backend is the kernel; remove it, or set backend = \"userspace\""),
    (f"{PEER}kill_switch = true\n", ":5: peer[1].kill_switch: is unknown here; it belongs to [interface]"),
    (f"{PEER}endpoint = 'a:1'\nendpoints = ['b:1']\n", ":6: peer[1].endpoints: peer[1].endpoint on line 5 gives the same thing; keep one of them"),
    (f"{PEER}endpoints = ['a:1',\n'a:1']\n", ":6: peer[1].endpoints[2]: \"a:1\" is given twice; keep one of them"),
    (f"{PEER}endpoints = [{','.join(repr(f'a:{n}') for n in range(1, 10))}]\n", ":5: peer[1].endpoints[9]: expected at most 8 endpoints, and this is one more"),
    # --- addresses
    (f"{HEAD}address = '10.0.0/24'\n", ":3: interface.address: expected an address like 10.0.0.1/24 or fd00::1/64, found \"10.0.0/24\""),
    (f"{HEAD}address = '10.0.0.1/33'\n", ":3: interface.address: expected an address like 10.0.0.1/24 or fd00::1/64, found \"10.0.0.1/33\""),
    (f"{HEAD}address = ''\n", ":3: interface.address: expected an address like 10.0.0.1/24 or fd00::1/64, found an empty text"),
    (f"{HEAD}address = '0.0.0.0/0'\n", ":3: interface.address: expected an address that an interface can have, found \"0.0.0.0/0\""),
    (f"{HEAD}address = '10.0.0.1/24, 10.0.1.1/24'\n", ":3: interface.address: expected an address like 10.0.0.1/24 or fd00::1/64, found \"10.0.0.1/24, 10.0.1.1/24\"; write several as a list"),
    (f"{HEAD}address = ['10.0.0.1/24',\n'10.0.0.1/8']\n", ":4: interface.address[2]: 10.0.0.1/8 is an address on line 3 already"),
    # --- keys
    ("[interface]\nprivate_key = 'short'\n", f":2: interface.private_key: {KEY}, found 5 characters"),
    (f"[interface]\nprivate_key = '{OWN[:-1]}'\n", f":2: interface.private_key: {KEY}, found 43 characters"),
    (f"[interface]\nprivate_key = ' {OWN}'\n", f":2: interface.private_key: {KEY}, found blanks around it"),
    (f"[interface]\nprivate_key = '{'0a' * 32}'\n", f":2: interface.private_key: {KEY}, found 64 hexadecimal digits"),
    (f"[interface]\nprivate_key = '{'!' * 44}'\n", f":2: interface.private_key: {KEY}, found 44 characters that are not a key"),
    (f"[interface]\nprivate_key = '{ZEROS}'\n", ":2: interface.private_key: expected a key, found one of zeros only"),
    (f"{HEAD}private_key_file = 'x'\n", ":3: interface.private_key_file: interface.private_key on line 2 gives the same thing; keep one of them"),
    ("[interface]\nprivate_key_file = '~/key'\n", ":2: interface.private_key_file: ~ is not expanded here; write the whole path"),
    ("[interface]\nprivate_key_file = ''\n", f":2: interface.private_key_file: {NO_PATH}"),
    (f"{HEAD}[[peer]]\nname = 'bob'\n", ":3: peer[1]: has no public_key; every peer needs one"),
    (f"{HEAD}[[peer]]\npublic_key = 7\n", ":4: peer[1].public_key: expected a text in quotes, found 7"),
    (f"{HEAD}[[peer]]\npublic_key = '{ZEROS}'\n", ":4: peer[1].public_key: expected a key, found one of zeros only"),
    (f"{HEAD}[[peer]]\npublic_key = '{OWN_PUBLIC}'\n", ":4: peer[1].public_key: is the public key of this interface itself; expected the key of the other side"),
    (f"{PEER}[[peer]]\npublic_key = '{ALICE}'\n", ":6: peer[2].public_key: is the key of the peer on line 4 already"),
    # --- peers
    (f"{PEER}endpoint = 'example.com'\n", f":5: peer[1].endpoint: {ENDPOINT}, found \"example.com\""),
    (f"{PEER}endpoint = 'example.com:0'\n", ":5: peer[1].endpoint: expected a port from 1 to 65535, found \"example.com:0\""),
    (f"{PEER}endpoint = 'example.com:99999'\n", ":5: peer[1].endpoint: expected a port from 0 to 65535, found \"example.com:99999\""),
    (f"{PEER}endpoint = '2001:db8::1:51820'\n", ":5: peer[1].endpoint: expected brackets around an IPv6 address, such as [2001:db8::1]:51820, found \"2001:db8::1:51820\""),
    (f"{PEER}endpoint = '[2001:db8::g]:1'\n", ":5: peer[1].endpoint: expected an IPv6 address between the brackets, found \"[2001:db8::g]:1\""),
    (f"{PEER}endpoint = '192.0.2:1'\n", ":5: peer[1].endpoint: expected an IPv4 address of four numbers, or a name, found \"192.0.2:1\""),
    (f"{PEER}endpoint = 'http://example.com:1'\n", ":5: peer[1].endpoint: expected brackets around an IPv6 address, such as [2001:db8::1]:51820, found \"http://example.com:1\""),
    (f"{PEER}endpoint = ['a:1']\n", ":5: peer[1].endpoint: expected a text in quotes, found a list"),
    (f"{PEER}allowed_ips = '10.0.0/24'\n", ":5: peer[1].allowed_ips: expected a prefix like 10.0.0.0/24 or fd00::/64, found \"10.0.0/24\""),
    (f"{PEER}allowed_ips = ['::/0',\n'',\n]\n", ":6: peer[1].allowed_ips[2]: expected a prefix like 10.0.0.0/24 or fd00::/64, found an empty text"),
    (f"{PEER}allowed_ips = '10.0.0.0/8\\u001b[31m'\n".replace("'10", '"10').replace("m'\n", 'm"\n'), ":5: peer[1].allowed_ips: expected a prefix like 10.0.0.0/24 or fd00::/64, found \"10.0.0.0/8\\x1b[31m\""),
    (f"{TWO}allowed_ips = ['10.0.0.2/32']\n", ":8: peer[2].allowed_ips: 10.0.0.2/32 belongs to the peer on line 5 already; a prefix leads to one peer"),
    (f"{PEER}persistent_keepalive = 70000\n", ":5: peer[1].persistent_keepalive: expected seconds from 0 to 65535, or \"off\", found 70000"),
    (f"{PEER}persistent_keepalive = '25s'\n", ":5: peer[1].persistent_keepalive: expected seconds from 0 to 65535, or \"off\", found \"25s\""),
    (f"{PEER}persistent_keepalive = false\n", ":5: peer[1].persistent_keepalive: expected seconds from 0 to 65535, or \"off\", found false"),
    (f"{PEER}name = ''\n", ":5: peer[1].name: expected a name of 1 to 64 printable characters, found an empty text"),
    (f"{PEER}name = '{BOB}'\n", ":5: peer[1].name: expected a name for people, found a text that may be a key (not shown)"),
    (f"{PEER}name='a'\n[[peer]]\npublic_key='{BOB}'\nname='a'\n", ":8: peer[2].name: \"a\" is a peer on line 5 already"),
]  # fmt: skip

CONF_HEAD = f"[Interface]\nPrivateKey = {OWN}\n"
CONF_PEER = f"{CONF_HEAD}[Peer]\nPublicKey = {ALICE}\n"

CONF = [
    ("", "is empty; expected an [interface] section"),
    ("PrivateKey = x\nListenPort = 1\n[Interface]\n", ":1: stands before any section; expected [Interface] or [Peer] first"),
    ("[Interfaces]\nMTU = 1\n", ":1: \"[Interfaces]\" is an unknown section; did you mean [Interface]?"),
    ("[Server]\nPool = 10.8.0.0/24\n", ":1: \"[Server]\" is an unknown section; it is of a .toml: turn this file into one with nvpn import, and put it there"),
    ("[wormhole]\n", ":1: \"[wormhole]\" is an unknown section; known are [Interface] and [Peer]"),
    (f"{CONF_HEAD}hello world\n", ":3: [Interface]: expected Key = value"),
    (f"{CONF_HEAD}Adress = 10.0.0.1\n", ":3: [Interface] Adress: is unknown; did you mean \"Address\"?"),
    (f"{CONF_HEAD}listen_port = 1\n", ":3: [Interface] listen_port: is unknown; did you mean \"ListenPort\"?"),
    (f"{CONF_HEAD}Jc = 4\n", ":3: [Interface] Jc: is unknown; known are PrivateKey, Address, ListenPort, MTU, FwMark, DNS, Table, PreUp, PostUp, PreDown, PostDown, SaveConfig"),
    (f"{CONF_HEAD}AllowedIPs = ::/0\n", ":3: [Interface] AllowedIPs: is unknown here; it belongs to [Peer]"),
    (f"{CONF_PEER}DNS = 1.1.1.1\n", ":5: [Peer] DNS: is unknown here; it belongs to [Interface]"),
    (f"{CONF_HEAD}PreUp = \n", ":3: [Interface] PreUp: expected a command, found an empty text"),
    (f"{CONF_HEAD}Table = of\n", ":3: [Interface] Table: expected \"auto\", \"off\", a routing table from 1 to 4294967295, or its name, found \"of\""),
    (f"{CONF_HEAD}SaveConfig = yes\n", ":3: [Interface] SaveConfig: \"yes\" is neither true nor false"),
    (f"{CONF_HEAD}DNS = 10.0.0.1, 10.0.0\n", ":3: [Interface] DNS: expected an address like 10.0.0.1 or fd00::1, found \"10.0.0\""),
    (f"{CONF_HEAD}# nvpn: kill_switch = on\n", ":3: [Interface] nvpn: kill_switch: \"on\" is neither true nor false"),
    (f"{CONF_HEAD}# nvpn: killswitch = true\n", ":3: [Interface] nvpn: killswitch: is unknown; did you mean \"kill_switch\"?"),
    (f"{CONF_HEAD}# nvpn: netns = a\n#nvpn: netns=b\n", ":4: [Interface] nvpn: netns: is given twice, on line 3 and here; keep one of them"),
    (f"{CONF_HEAD}# nvpn: workers = 0\n", ":3: [Interface] nvpn: workers: expected workers from 1 to 64, found \"0\""),
    (f"{CONF_HEAD}# nvpn: dns = 10.0.0.1\n", ":3: [Interface] nvpn: dns: expected \"off\", found \"10.0.0.1\"; or write DNS = …"),
    (f"{CONF_PEER}# nvpn: endpoint = a:1\n", ":3: [Peer]: has other endpoints, and no Endpoint"),
    (f"{CONF_PEER}Endpoint = b:1\n# nvpn: endpoint = a:1\n# nvpn: endpoint = a:1\n", ":7: [Peer] nvpn: endpoint: \"a:1\" is given twice; keep one of them"),
    (f"{CONF_HEAD}ListenPort = no-such-service\n", ":3: [Interface] ListenPort: expected a port from 0 to 65535, found \"no-such-service\""),
    (f"{CONF_HEAD}ListenPort = 1\nListenPort = 2\n", ":4: [Interface] ListenPort: is given twice, on line 3 and here; keep one of them"),
    (f"{CONF_HEAD}MTU = 9\n", ":3: [Interface] MTU: expected bytes from 576 to 65475, found \"9\""),
    (f"{CONF_HEAD}FwMark = 0xfffffffff\n", ":3: [Interface] FwMark: expected a mark from 0 to 4294967295, such as \"0xca6c\", or \"off\", found \"0xfffffffff\""),
    (f"{CONF_HEAD}Address = 10.0.0.1/24, ten\n", ":3: [Interface] Address: expected an address like 10.0.0.1/24 or fd00::1/64, found \"ten\""),
    (f"{CONF_HEAD}Address =\n", ":3: [Interface] Address: expected an address like 10.0.0.1/24 or fd00::1/64, found an empty text"),
    ("[Interface]\nPrivateKey = \n", f":2: [Interface] PrivateKey: {KEY}, found 0 characters"),
    (f"{CONF_HEAD}[Peer]\nEndpoint = a:1\n", ":3: [Peer]: has no PublicKey; every peer needs one"),
    (f"{CONF_PEER}[peer]\npublickey = {ALICE}\n", ":6: [Peer] PublicKey: is the key of the peer on line 4 already"),
    (f"{CONF_PEER}AllowedIPs = 10.0.0.0/8, +10.1.0.0/16\n", ":5: [Peer] AllowedIPs: expected a prefix like 10.0.0.0/24 or fd00::/64, found \"+10.1.0.0/16\""),
    (f"{CONF_PEER}Endpoint = vpn.example.com\n", f":5: [Peer] Endpoint: {ENDPOINT}, found \"vpn.example.com\""),
    (f"{CONF_PEER}PersistentKeepalive = -1\n", ":5: [Peer] PersistentKeepalive: expected seconds from 0 to 65535, or \"off\", found \"-1\""),
    (f"{CONF_PEER}PresharedKey = {BOB}x\n", f":5: [Peer] PresharedKey: {KEY}, found 45 characters"),
]  # fmt: skip


def sentences(path: Path, directory: Path) -> list[str]:
    return [str(problem).replace(f"{directory}/", "") for problem in examine(path).problems]


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [("wg0.toml", *case) for case in TOML] + [("wg0.conf", *case) for case in CONF],
)
def test_a_mistake_is_told_in_one_sentence(
    file: str, text: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.write_text(text)
    expected = f"{file}{sentence}" if sentence.startswith(":") else f"{file}: {sentence}"
    assert sentences(path, tmp_path) == [expected]


def test_all_mistakes_of_all_files_are_told_at_once_in_their_order(tmp_path: Path) -> None:
    main, fragments = tmp_path / "wg0.toml", tmp_path / "wg0.d"
    fragments.mkdir()
    main.write_text(f"{HEAD}listen_port = 51820\nmtu = 1\n[[peer]]\nname = 'a'\nhost = 'b'\n")
    (fragments / "20.toml").write_text("[[peer]]\nallowed_ips = ['x']\npublic_key = ''\n")
    (fragments / "10.toml").write_text(f"[interface]\nlisten_port = 1\nfwmark = 'x'\n{ALICE}\n")
    (fragments / "15.toml").write_text("[interface]\nlisten_port = 1\n[[peer]]\nname = 'a'\n")
    (fragments / "30.toml").write_bytes(b"[[peer]]\n# caf\xe9\n")
    assert sentences(main, tmp_path) == [
        "wg0.toml:4: interface.mtu: expected bytes from 576 to 65475, found 1",
        "wg0.toml:5: peer[1]: has no public_key; every peer needs one",
        'wg0.toml:7: peer[1].host: is unknown; did you mean "endpoint"?',
        "wg0.d/10.toml:4: is not valid TOML: expected a value, such as a number or a text in"
        " quotes (column 45)",
        "wg0.d/15.toml:2: interface.listen_port: is given twice, on wg0.toml:3 and here;"
        " keep one of them",
        "wg0.d/15.toml:3: peer[1]: has no public_key; every peer needs one",
        'wg0.d/15.toml:4: peer[1].name: "a" is a peer on wg0.toml:6 already',
        "wg0.d/20.toml:2: peer[1].allowed_ips: expected a prefix like 10.0.0.0/24 or fd00::/64,"
        ' found "x"',
        f"wg0.d/20.toml:3: peer[1].public_key: {KEY}, found 0 characters",
        "wg0.d/30.toml:2: expected UTF-8 text, found other bytes",
    ]
