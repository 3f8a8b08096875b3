"""A peer is added or removed, and nothing else of the file changes."""

# ruff: noqa: E501 - in the table, a case stands on its line

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.edit import NewPeer, open_config
from nvpn.config.edit_conf import EditedConf
from nvpn.config.edit_toml import EditedToml
from nvpn.config.load import load
from nvpn.config.model import HostPort
from nvpn.errors import ConfigError, ConfigErrors, PlatformError
from nvpn.model.keys import PresharedKey, PublicKey
from nvpn.model.prefixes import Prefix

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="
CAROL = PublicKey(bytes(range(32)))

NEW = NewPeer(
    'the "new" one',
    CAROL,
    PresharedKey.from_base64(OWN),
    HostPort("fd00::7", 51820),
    tuple(Prefix.parse(f"10.9.{n}.0/24") for n in range(8)),
    25,
)

# A header, its values in odd ways, comments where they like to be lost.
TOML = f"""\
# top

[interface]   # ours
private_key = '{OWN}'   # secret
address = [
    "10.0.0.1/24",  # four
    # six
    "fd00::1/64",
]  # end of list
# listen_port = 1

# about Alice
# and more
[[peer]]
"name" = "alice"
public_key="{ALICE}" # hers
# mtu = 3


# Bob, far away

[[peer]]
public_key = '''{BOB}'''
allowed_ips = []
# the end"""

CONF = f"""\
# top

[interface]   # ours
PrivateKey = {OWN} # secret
PostUp = echo '[Peer]' # not a comment
# ListenPort = 1

# about Alice
# and more
[ Peer ]
# Name = alice
public key={ALICE} # hers
# nvpn: see the wiki
# Endpoint = x


# Bob, far away

[Peer]
PublicKey = {BOB}
# the end"""

TOML_SHAPES = [
    TOML,
    f"{TOML}\n",
    f"{TOML}\n\n\n",
    TOML.replace("\n", "\r\n"),
    f"interface = {{ private_key = '{OWN}' }}\npeer = [{{ public_key = '{ALICE}' }}]\n",
    f"peer = [\n  {{ public_key = '{ALICE}' }},  # hers\n  {{ public_key = '{BOB}' }},\n]\n",
    "peer = []\n",
    f"interface.private_key = '{OWN}'\n",
    f"interface.private_key = '{OWN}'",
    f"[interface]\n[[peer]]\npublic_key = '{ALICE}'\n[server] # ours\npool = '10.8.0.0/24'\n"
    "# Bob's\n[[server.reservation]]\nname = 'bob'\naddress = '10.8.0.7'\n\n[metrics] # all\n",
    "server = { pool = '10.8.0.0/24' }\n",
    "",
    "# only this",
]
CONF_SHAPES = [CONF, f"{CONF}\n", f"{CONF}\n\n\n", CONF.replace("\n", "\r\n"), "", "# only this"]


@pytest.mark.parametrize("text", TOML_SHAPES)
def test_a_peer_added_to_toml_and_removed_leaves_every_byte(text: str) -> None:
    edited = EditedToml(text)
    before = list(edited.peers())
    edited.add_peer(NEW)
    assert list(edited.peers()) == [*before, CAROL]
    assert edited.text.count("\r\n") in (0, edited.text.count("\n"))
    edited.remove_peer(len(before))
    assert edited.text == text


@pytest.mark.parametrize("text", CONF_SHAPES)
def test_a_peer_added_to_a_conf_file_and_removed_leaves_every_byte(text: str) -> None:
    edited = EditedConf(text)
    before = list(edited.peers())
    edited.add_peer(NEW)
    assert list(edited.peers()) == [*before, CAROL]
    edited.remove_peer(len(before))
    assert edited.text == text


pieces = st.lists(
    st.sampled_from(
        ["\n", "# x\n", f"[[peer]]\npublic_key = '{ALICE}'\n", "  # y\n\n", "name = 'a'\n",
         f"[[peer]]\n# z\npublic_key = '{BOB}' # w\n", "\t\n", "# [[peer]]\n"]
    ),
    max_size=6,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(pieces, st.booleans())
def test_wherever_comments_stand_adding_and_removing_leaves_every_byte(
    parts: list[str], cut: bool
) -> None:
    text = "".join(parts)
    text = text.removesuffix("\n") if cut else text
    try:
        edited = EditedToml(text)
        count = len(edited.peers())
    except ValueError:
        return  # The same key twice, or one outside of a section.
    edited.add_peer(NEW)
    edited.remove_peer(count)
    assert edited.text == text


def test_a_peer_goes_with_the_comments_directly_above_it_and_others_stay() -> None:
    edited = EditedToml(TOML)
    edited.remove_peer(0)
    before, behind = TOML.split("\n# about Alice")
    assert edited.text == before + behind[behind.index("# mtu = 3") :]
    edited.remove_peer(0)
    assert "# Bob, far away" in edited.text
    assert BOB not in edited.text
    assert edited.text.endswith("# the end")


def test_the_same_in_a_conf_file_where_comments_may_name_a_peer() -> None:
    edited = EditedConf(CONF)
    edited.remove_peer(0)
    assert "about Alice" not in edited.text
    assert "alice" not in edited.text
    assert "# Endpoint = x" in edited.text
    assert "# Bob, far away" in edited.text
    assert list(edited.peers()) == [PublicKey.from_base64(BOB)]


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("conf", CONF)])
def test_what_is_added_is_what_is_read_again(suffix: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"wg0.{suffix}"
    path.write_text(text)
    path.chmod(0o640)
    file = open_config(path)
    file.add_peer(NEW)
    examination = file.examine()
    assert examination.config is not None
    peer = examination.config.peers[-1]
    assert (peer.name, peer.public_key, peer.preshared_key) == NEW_HEAD
    assert (peer.endpoint, peer.allowed_ips) == (NEW.endpoint, NEW.allowed_ips)
    assert peer.persistent_keepalive == 25
    assert path.read_text() == text  # Nothing is written yet.

    put_back = file.write()

    assert load(path).peers == examination.config.peers
    assert path.read_text() == file.text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == [path.name]
    put_back()
    assert path.read_text() == text


NEW_HEAD = (NEW.name, NEW.public_key, NEW.preshared_key)


@pytest.mark.parametrize(("suffix", "text"), [("toml", TOML), ("conf", CONF)])
def test_a_name_or_key_that_is_there_is_not_added_again(
    suffix: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"wg0.{suffix}"
    path.write_text(text)
    file = open_config(path)
    with pytest.raises(ConfigError, match="there is a peer 'alice' already"):
        file.add_peer(NewPeer("alice", CAROL))
    with pytest.raises(ConfigError, match="the key xTIBA5rb is that of 'alice' already"):
        file.add_peer(NewPeer("carol", PublicKey.from_base64(ALICE)))
    with pytest.raises(ConfigError, match="expected a name"):
        file.add_peer(NewPeer("a\nb", CAROL))
    assert file.text() == text
    assert not file.remove_peer(CAROL)


def test_a_peer_gets_a_fragment_where_there_are_fragments(tmp_path: Path) -> None:
    path = tmp_path / "wg0.toml"
    path.write_text(f"[interface]\nprivate_key = '{OWN}'\n")
    fragments = tmp_path / "wg0.d"
    fragments.mkdir()
    (fragments / "the-new-one.toml").write_text(f"[[peer]]\npublic_key = '{BOB}'\n")
    file = open_config(path)
    file.add_peer(NEW)
    assert [peer.name for peer in file.examine().config.peers] == [NEW.name, ""]  # type: ignore[union-attr]
    put_back = file.write()
    added = fragments / "the-new-one-2.toml"
    assert stat.S_IMODE(added.stat().st_mode) == 0o600
    assert CAROL.base64 in added.read_text()

    again = open_config(path)
    assert again.remove_peer(CAROL)
    again.write()
    assert not added.exists()
    put_back()  # What came before it is brought back even so.
    assert not added.exists()


def test_a_link_stays_a_link_and_a_change_by_others_is_not_overwritten(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text(TOML)
    path = tmp_path / "wg0.toml"
    path.symlink_to("real.toml")
    file, other = open_config(path), open_config(path)
    file.add_peer(NEW)
    file.write()
    assert path.is_symlink()
    assert CAROL.base64 in real.read_text()
    other.add_peer(NewPeer("other", CAROL))
    with pytest.raises(PlatformError, match="somebody else has changed it meanwhile"):
        other.write()


def test_a_file_with_mistakes_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "wg0.toml"
    path.write_text("[interface]\nmtu = 1\n")
    with pytest.raises(ConfigErrors, match=r":2: interface\.mtu"):
        open_config(path)


@pytest.mark.parametrize(
    ("text", "key", "value", "expected"),
    [
        ("[interface]\nmtu = 1 # x\n", "mtu", 2, "[interface]\nmtu = 2 # x\n"),
        ("[interface]\nmtu = 1 # x\n\n# y\n", "fwmark", 2, "[interface]\nmtu = 1 # x\nfwmark = 2\n\n# y\n"),
        ("[interface] # x", "mtu", 2, "[interface] # x\nmtu = 2\n"),
        ("interface = {}\n", "mtu", 2, "interface = { mtu = 2 }\n"),
        ("interface = { fwmark = 1 }\n", "mtu", 2, "interface = { fwmark = 1, mtu = 2 }\n"),
        ("interface.fwmark = 1\n[x]\n", "mtu", 2, "interface.fwmark = 1\ninterface.mtu = 2\n[x]\n"),
        ("x = 1\n", "mtu", 2, "x = 1\n\n[interface]\nmtu = 2\n"),
        ("[interface]\nmtu = 1 # x\nfwmark = 1\n", "mtu", None, "[interface]\nfwmark = 1\n"),
        ("interface = { mtu = 1, fwmark = 1 }\n", "mtu", None, "interface = { fwmark = 1 }\n"),
        ("interface = { fwmark = 1, mtu = 1 }\n", "mtu", None, "interface = { fwmark = 1 }\n"),
        ("[interface]\n", "mtu", None, "[interface]\n"),
        ("[interface]\ndns = [\n 'a', # b\n] # c\n", "dns", ["x", "y"], '[interface]\ndns = ["x", "y"] # c\n'),
    ],
)  # fmt: skip
def test_a_key_is_changed_where_it_stands(text, key, value, expected) -> None:  # type: ignore[no-untyped-def]
    edited = EditedToml(text)
    edited.set(("interface",), key, value)
    assert edited.text == expected
