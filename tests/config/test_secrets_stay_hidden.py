"""Whatever is pasted wherever, what nvpn prints never holds a key."""

from __future__ import annotations

import base64
import tempfile
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.load import examine, find, load
from nvpn.errors import ConfigErrors, NvpnError

OTHER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
SHOWN_AT_MOST = 12
"""Characters of a key in a row."""

TOML_SPOTS = [
    "[interface]\n{key} = '@'\n",
    "[interface]\n{key} = ['@', '@']\n",
    "[interface]\n{key} = {{ x = '@' }}\n",
    "[interface]\nprivate_key = '" + OTHER + "'\n[[peer]]\n{key} = '@'\n",
    "[interface]\n[[peer]]\npublic_key = '" + OTHER + "'\n{key} = ['@']\n",
    '[interface]\n{key} = """\n@\n"""\n',
    "[interface]\n{key} = @\n",
    "[interface]\n{key} = '@\n",
    "[interface]\n{key} '@'\n",
    "[interface]\n'@' = 1\n",
    "[interface]\n'@'.x = 1\n'@' = 1\n",
    "[interface]\nx = {{ '@' = 1, '@' = 2 }}\n",
    "[interface]\n@\n",
    "['@']\n",
    "['@']\n['@']\n",
    "['@'.'@']\n[['@']]\n",
    "[@]\n",
    "'@' = 1\n",
    "@\n",
    "[interface]\n[[peer]]\nname = '@'\n[[peer]]\nname = '@'\n",
    "[interface]\n[[peer]]\nendpoint = '@:51820'\n",
    "[interface]\n[[peer]]\nendpoint = '[@]:51820'\n",
    "[interface]\n[[peer]]\nallowed_ips = '@/24'\n",
    "[interface]\n[server]\n{key} = '@'\n",
    "[interface]\n[server]\npool = '10.8.0.0/24'\nstore = 'etcd'\n{key} = ['@', '@']\n",
    "[interface]\n[server]\npool = '10.8.0.0/24'\nendpoint = ['@', '@:1', '@:1']\n",
    "[interface]\n[server]\nstore = 'etcd'\netcd = ['http://@:1', 'http://a:@@b:1', 'http://b/@']\n",
    "[interface]\n[server]\n[[server.reservation]]\n{key} = '@'\n",
    "[interface]\nallowed_ports = ['@', '@/tcp', 'tcp/@', '7@/tcp', 'tcp/7-@', 'proto/@']\n",
    "[metrics]\nlisten = '@:9586'\n[resilience]\n{key} = '@'\n",
    "[interface]\nprivate_key_file = './@'\n",
    "[interface]\nprivate_key_file = '/tmp/@/key'\n",
    "[interface]\nlisten_port = 0x{hex}\n",
    "[interface]\nfwmark = {decimal}\n",
    "[interface]\nprivate_key = '{hex}'\nmtu = '{hex}'\n",
]
CONF_SPOTS = [
    "[Interface]\n{key} = @\n",
    "[Peer]\n{key} = @\n",
    "[Peer]\n# Name = @\n",
    "[Interface]\n{key} @\n",
    "[Interface]\n@\n",
    "[Peer]\n@ = 1\n",
    "[@]\n",
    "@\n",
    "[Interface]\nPostUp = wg set %i private-key @\n",
    "[Interface]\n{key} = {hex}\n",
]
KEYS = {
    "wg0.toml": [
        "private_key", "private_key_file", "address", "listen_port", "mtu", "fwmark", "datapath",
        "workers", "queues", "name", "public_key", "preshared_key", "preshared_key_file",
        "endpoint", "allowed_ips", "endpoints",
        "persistent_keepalive", "dns", "dns_search", "post_up", "table", "kill_switch",
        "save_config", "netns", "birth_netns", "backend", "nonsense", "server", "allowed_ports",
        "on_connect", "pool", "lease_time", "reserved", "routes", "store", "etcd", "etcd_prefix",
        "etcd_user", "etcd_password_file", "etcd_ca", "listen", "jitter",
    ],
    "wg0.conf": [
        "PrivateKey", "Address", "ListenPort", "MTU", "FwMark", "PublicKey", "PresharedKey",
        "Endpoint", "AllowedIPs", "PersistentKeepalive", "DNS", "Table", "SaveConfig", "PostUp",
        "# nvpn: netns", "# nvpn: dns", "# nvpn: name", "# nvpn: endpoint", "# nvpn: backend",
        "# nvpn: kill_switch", "# nvpn: allowed_ports", "# nvpn: server", "# nvpn: on_connect",
        "Nonsense",
    ],
}  # fmt: skip

spots = st.one_of(
    st.tuples(st.just("wg0.toml"), st.sampled_from(TOML_SPOTS)),
    st.tuples(st.just("wg0.conf"), st.sampled_from(CONF_SPOTS)),
)
damage = st.sampled_from(
    [
        lambda text: text,
        lambda text: text[:-1],
        lambda text: text[:36],
        lambda text: text[8:],
        lambda text: f" {text} ",
        lambda text: f"{text[:20]} {text[20:]}",
        lambda text: f"{text},{text}",
        lambda text: f"x{text}",
    ]
)


def test_a_key_cut_in_two_shows_neither_half(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(f"[Interface]\nAddress = {OTHER[:20]} {OTHER[20:]}\n")
    assert_hidden(OTHER, everything_said(path))


def everything_said(path: Path) -> str:
    examination = examine(path)
    said = [repr(examination), *map(str, examination.problems), *map(repr, examination.problems)]
    said += examination.warnings
    try:
        said += repr(load(path))
    except ConfigErrors as error:
        said += [str(error), repr(error), "".join(traceback.format_exception(error))]
    return "\n".join(said)


def assert_hidden(secret: str, text: str) -> None:
    for start in range(len(secret) - SHOWN_AT_MOST):
        assert secret[start : start + SHOWN_AT_MOST + 1] not in text


@settings(max_examples=500, deadline=None)
@given(st.binary(min_size=32, max_size=32), spots, damage, st.data())
def test_a_key_in_the_wrong_place_is_not_repeated(raw, spot, damaged, data) -> None:  # type: ignore[no-untyped-def]
    file, template = spot
    key = base64.b64encode(raw).decode()
    name = data.draw(st.sampled_from(KEYS[file]))
    number = int.from_bytes(raw, "big") | 1 << 255
    text = template.format(key=name, hex=f"{number:064x}", decimal=number)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, file)
        path.write_text(text.replace("@", damaged(key)))
        said = everything_said(path).replace(directory, "")
    # Zeros and the like occur in words of ours too: they are no keys.
    if len(set(key)) > SHOWN_AT_MOST:
        assert_hidden(key, said)
    assert_hidden(f"{number:064x}", said)
    assert_hidden(str(number), said)


@pytest.mark.parametrize("form", ["{}", "./{}", "{}.toml", "/tmp/{}/wg0.conf", "{}\n"])
def test_a_key_given_as_a_file_is_not_repeated(form: str) -> None:
    with pytest.raises(NvpnError) as caught:
        find(form.format(OTHER))
    assert_hidden(OTHER, str(caught.value))


@pytest.mark.parametrize("content", ["{}x", "{}\n{}", "x{}", "\x00{}", "{}é"])
def test_the_content_of_a_key_file_is_not_repeated(content: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(content.replace("{}", OTHER))
    path = tmp_path / "wg0.toml"
    path.write_text("[interface]\nprivate_key_file = 'key'\n")
    said = everything_said(path)
    assert "private_key_file: expected a key of 44 base64 characters" in said
    assert_hidden(OTHER, said)
