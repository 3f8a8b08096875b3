"""What a configuration says about its host: name servers, routes, commands, namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvpn.config.load import examine, load
from nvpn.config.model import BackendWish, Hooks, HostPort, TunnelConfig
from nvpn.config.tables import parse_table
from nvpn.datapath.choice import Wish
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import parse_address

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="

TOML = f"""
[interface]
private_key = "{OWN}"
dns = ["10.0.0.1", "fd00::1", "corp.example."]
dns_search = ["example.org", "corp.example"]
table = "0x1234"
kill_switch = true
pre_up = "echo pre %i"
post_up = ["echo one # two", "  echo 'x = y'  "]
pre_down = ["echo down"]
post_down = []
save_config = true
netns = "blue"
birth_netns = "/proc/1/ns/net"
backend = "auto"
datapath = "python"
workers = 3

[[peer]]
public_key = "{ALICE}"
endpoints = ["vpn.example.com:51820", "[2001:db8::1]:443", "192.0.2.1:53"]
"""

CONF = f"""
[INTERFACE]
PrivateKey = {OWN}
dns = 10.0.0.1,fd00::1 # , 10.0.0.2
DNS = corp.example example.org,, corp.example
Table = 0x1234
# nvpn: kill_switch = true
PreUp = echo pre %i
POSTUP = echo one # two
PostUp =   echo 'x = y'\t
[interface]
PreDown=echo down\r
SaveConfig = TRUE
# nvpn: netns = blue
#nvpn:birth_netns=/proc/1/ns/net
# nvpn: backend = auto
# nvpn: datapath = python
# nvpn: workers = 3
# nvpn: see the wiki
[Peer]
# nvpn: name =   laptop
# Name = another
PublicKey = {ALICE}
Endpoint = vpn.example.com:51820
# nvpn: endpoint = [2001:db8::1]:443
# nvpn: endpoint = 192.0.2.1:53"""


def read(path: Path, text: str) -> TunnelConfig:
    path.write_text(text)
    path.chmod(0o600)
    return load(path)


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("conf", CONF)])
def test_both_kinds_of_file_say_it_all(suffix: str, text: str, tmp_path: Path) -> None:
    config = read(tmp_path / f"wg0.{suffix}", text)
    interface = config.interface
    assert interface.dns == NameServers(
        (parse_address("10.0.0.1"), parse_address("fd00::1")), ("corp.example", "example.org")
    )
    assert (interface.table, interface.kill_switch, interface.save_config) == (0x1234, True, True)
    assert interface.hooks == Hooks(
        pre_up=("echo pre %i",),
        post_up=("echo one # two", "echo 'x = y'"),
        pre_down=("echo down",),
    )
    assert (interface.netns, interface.birth_netns) == ("blue", "/proc/1/ns/net")
    assert (interface.backend, interface.datapath) == (BackendWish.AUTO, Wish.PYTHON)
    assert (interface.workers, interface.queues) == (3, 1)
    assert config.peers[0].endpoints == (
        HostPort("vpn.example.com", 51820),
        HostPort("2001:db8::1", 443),
        HostPort("192.0.2.1", 53),
    )
    assert config.warnings == ()


def test_a_comment_for_us_names_a_peer_before_others_do(tmp_path: Path) -> None:
    assert read(tmp_path / "wg0.conf", CONF).peers[0].name == "laptop"


def test_without_any_of_it_the_host_is_treated_as_ever(tmp_path: Path) -> None:
    interface = read(tmp_path / "wg0.toml", f"[interface]\nprivate_key = '{OWN}'\n").interface
    assert (interface.dns, interface.table, interface.hooks) == (None, None, Hooks())
    assert interface.backend is BackendWish.USERSPACE


@pytest.mark.parametrize(
    ("value", "table"),
    [("'auto'", None), ("'Off'", 0), ("254", 254), ("'main'", 254), ("0xffff_ffff", 0xFFFFFFFF)],
)
def test_a_table_is_a_number_or_a_word(value: str, table: int | None, tmp_path: Path) -> None:
    text = f"[interface]\nprivate_key = '{OWN}'\ntable = {value}\n"
    assert read(tmp_path / "wg0.toml", text).interface.table == table


def test_a_table_may_have_a_name_where_ip_has_one(tmp_path: Path) -> None:
    lists = (tmp_path / "missing", tmp_path / "rt_tables")
    lists[1].write_text("# comment\n77 seven # again\nnonsense\nx y\n0 nothing\n")
    (tmp_path / "rt_tables.d").mkdir()
    (tmp_path / "rt_tables.d" / "a.conf").write_text("0x10\tsixteen\n")
    assert parse_table("seven", lists=lists).table == 77
    assert parse_table("sixteen", lists=lists).table == 16
    for word in ("nothing", "y", "nonsense", ""):
        with pytest.raises(ValueError, match="expected"):
            parse_table(word, lists=lists)


@pytest.mark.parametrize("value", ["'off'", "'OFF'", "[]"])
def test_name_servers_may_be_left_alone(value: str, tmp_path: Path) -> None:
    text = f"[interface]\nprivate_key = '{OWN}'\ndns = {value}\n"
    assert read(tmp_path / "wg0.toml", text).interface.dns is None


def test_a_fourth_name_server_is_warned_about(tmp_path: Path) -> None:
    text = f"[Interface]\nPrivateKey = {OWN}\nDNS = 10.0.0.1, 10.0.0.2\nDNS = 10.0.0.3 ::4\n"
    path = tmp_path / "wg0.conf"
    assert read(path, text).warnings == (
        f"{path}:4: [Interface] DNS: ::4 is name server 4; most programs ask only the first 3",
    )


def test_hooks_that_others_may_change_are_warned_about(tmp_path: Path) -> None:
    for name, text in (
        ("a.toml", "[interface]\npre_up = 'x'\n"),
        ("b.conf", "[Interface]\nPreUp=x"),
    ):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o664)
        assert examine(path).warnings[0] == (
            f"{path}: holds commands that root will run, and its group may change them;"
            f" try: chmod 600 {path}"
        )


def test_hooks_are_not_shown(tmp_path: Path) -> None:
    text = f"[interface]\nprivate_key = '{OWN}'\npost_up = 'curl -u me:hunter2 x'\n"
    assert "hunter2" not in repr(read(tmp_path / "wg0.toml", text))


@pytest.mark.parametrize("extra", ["table = 'off'", "table = 7", "netns = 'blue'"])
def test_an_endpoint_in_a_prefix_is_no_trouble_where_its_route_is_another(
    extra: str, tmp_path: Path
) -> None:
    peer = f"[[peer]]\npublic_key = '{ALICE}'\nendpoints = ['a.example:1', '10.1.2.3:1']\n"
    text = f"[interface]\nprivate_key = '{OWN}'\n{{}}\n{peer}allowed_ips = '10.0.0.0/8'\n"
    (warning,) = read(tmp_path / "wg0.toml", text.format("")).warnings
    assert "10.0.0.0/8 contains the peer's own endpoint 10.1.2.3:1" in warning
    assert read(tmp_path / "wg1.toml", text.format(extra)).warnings == ()
