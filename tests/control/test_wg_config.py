"""wg's words and files, and the lines that wg was seen to send for them."""

from __future__ import annotations

import base64
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvpn.control.wg_config import WgConfig, parse_config, parse_set_arguments
from nvpn.control.wg_words import WgError
from nvpn.model.keys import PrivateKey

KEY = "aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Qga2V5ISE="
ADA, BOB, EVE = (PrivateKey(bytes([n]) * 32).public() for n in (1, 2, 3))
SECRET = bytes(range(32)).hex()
NO_KEY = "0" * 64


def words(line: str, *, warnings: list[str] | None = None) -> list[str]:
    """The lines for ``wg set IF`` and these words, ``""`` standing for an empty one."""
    told: list[str] = [] if warnings is None else warnings
    lines = parse_set_arguments(
        [word.replace('""', "").replace("_", " ") for word in line.split()],
        read_key=lambda file: {"none": NO_KEY, "file": SECRET}[file],
        resolve=lambda text: f"<{text}>",
        warn=told.append,
    )
    assert warnings is not None or not told
    return lines


def config(text: str, *, append: bool = False, warnings: list[str] | None = None) -> WgConfig:
    told: list[str] = [] if warnings is None else warnings
    found = parse_config(text, append=append, resolve=lambda text: f"<{text}>", warn=told.append)
    assert warnings is not None or not told
    return found


def peer(key: object, *lines: str) -> list[str]:
    return [f"public_key={key.hex}", *lines]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("listen-port 51820", ["listen_port=51820"]),
        (
            "fwmark 0xca6c private-key file listen-port 0",
            [f"private_key={SECRET}", "listen_port=0", "fwmark=51820"],
        ),
        ("fwmark off private-key none", [f"private_key={NO_KEY}", "fwmark=0"]),
        ("listen-port 1 listen-port 2", ["listen_port=2"]),
        (f"peer {ADA.base64}", peer(ADA)),
        (f"peer {ADA.base64} remove", peer(ADA, "remove=true")),
        (f"peer {ADA.base64} remove allowed-ips 10.0.0.0/8", peer(ADA, "remove=true")),
        (
            f"peer {ADA.base64} allowed-ips 10.1.0.0/16,fd00::/8 persistent-keepalive 25"
            " endpoint a.example:1 preshared-key file",
            peer(
                ADA,
                f"preshared_key={SECRET}",
                "endpoint=<a.example:1>",
                "persistent_keepalive_interval=25",
                "replace_allowed_ips=true",
                "allowed_ip=10.1.0.0/16",
                "allowed_ip=fd00::/8",
            ),
        ),
        (
            f'peer {ADA.base64} persistent-keepalive OFF preshared-key none allowed-ips ""',
            peer(
                ADA,
                f"preshared_key={NO_KEY}",
                "persistent_keepalive_interval=0",
                "replace_allowed_ips=true",
            ),
        ),
        (
            f"peer {ADA.base64} remove peer {BOB.base64} allowed-ips 10.0.0.1",
            [
                *peer(ADA, "remove=true"),
                *peer(BOB, "replace_allowed_ips=true", "allowed_ip=10.0.0.1/32"),
            ],
        ),
        # A sign anywhere in the list makes all of it a change to what is there.
        (
            f"peer {ADA.base64} allowed-ips 10.1.0.0/16,+10.2.0.0/16,-10.3.0.0/16",
            peer(
                ADA, "allowed_ip=10.1.0.0/16", "allowed_ip=10.2.0.0/16", "allowed_ip=-10.3.0.0/16"
            ),
        ),
        (f"peer {ADA.base64} allowed-ips -fd00::1", peer(ADA, "allowed_ip=-fd00::1/128")),
        (
            f"peer {ADA.base64} allowed-ips 10.1.0.0/16,_fd00:0::/64",
            peer(
                ADA, "replace_allowed_ips=true", "allowed_ip=10.1.0.0/16", "allowed_ip=fd00::/64"
            ),
        ),
    ],
)
def test_words_become_lines(line: str, lines: list[str]) -> None:
    assert words(line) == lines


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("foo", "Invalid argument: foo"),
        ("listen-port", "Invalid argument: listen-port"),
        ("remove", "Invalid argument: remove"),
        ("endpoint a:1", "Invalid argument: endpoint"),
        (f"peer {ADA.base64} listen-port 1", "Invalid argument: listen-port"),
        ("fwmark zz", "Fwmark is neither 0/off nor 0-0xffffffff: `zz'"),
        ("fwmark 0xzz", "Fwmark is neither 0/off nor 0-0xffffffff: `0xzz'"),
        ("fwmark 4294967296", "Fwmark is neither 0/off nor 0-0xffffffff: `4294967296'"),
        ("fwmark -1", "Fwmark is neither 0/off nor 0-0xffffffff: `-1'"),
        ("listen-port zz", "Servname not supported for ai_socktype: `zz'"),
        ('listen-port ""', "Unable to parse empty port"),
        ("peer zz", "Key is not the correct length or format (peer)"),
        (
            f"peer {ADA.base64} persistent-keepalive 65536",
            "Persistent keepalive interval is neither 0/off nor 1-65535: `65536'",
        ),
        (f"peer {ADA.base64} allowed-ips 10.0.0/8", "Unable to parse IP address: `10.0.0'"),
        (f"peer {ADA.base64} allowed-ips ,", "Unable to parse IP address: `'"),
        (f"peer {ADA.base64} allowed-ips +", "Unable to parse IP address: `'"),
        (
            f"peer {ADA.base64} allowed-ips 10.0.0.0/99",
            "AllowedIP is not in the correct format: `10.0.0.0/99'",
        ),
        (
            f"peer {ADA.base64} allowed-ips 10.0.0.0/",
            "AllowedIP is not in the correct format: `10.0.0.0/'",
        ),
        (
            f"peer {ADA.base64} allowed-ips fd00::/129",
            "AllowedIP is not in the correct format: `fd00::/129'",
        ),
    ],
)
def test_the_first_word_without_sense_is_told(line: str, sentence: str) -> None:
    with pytest.raises(WgError) as raised:
        words(line)
    assert str(raised.value) == sentence


def test_host_bits_are_passed_on_and_told() -> None:
    warnings: list[str] = []

    lines = words(f"peer {ADA.base64} allowed-ips 10.9.0.1/24,fd00::1/64", warnings=warnings)

    assert lines[-2:] == ["allowed_ip=10.9.0.1/24", "allowed_ip=fd00::1/64"]
    assert warnings == [
        "Warning: AllowedIP has nonzero host part: 10.9.0.1/24",
        "Warning: AllowedIP has nonzero host part: fd00::1/64",
    ]


FILE = f"""
# A comment, Address = 10.0.0.1
[interface]  # in any case
private KEY = {KEY}
ListenPort=51 820

[PEER]
PublicKey = {ADA.base64}
AllowedIPs = 10.1.0.0/16, 10.2.0.1
allowedips = fd00::/64
Endpoint = a.example : 51820
PersistentKeepalive = off
[Peer]
publickey = {BOB.base64}
PresharedKey = {KEY}
"""
SETTINGS = [f"private_key={base64.b64decode(KEY).hex()}", "listen_port=51820"]
FILE_KEY = SETTINGS[0].partition("=")[2]
ADA_LINES = peer(
    ADA,
    "endpoint=<a.example:51820>",
    "persistent_keepalive_interval=0",
    "replace_allowed_ips=true",
    "allowed_ip=10.1.0.0/16",
    "allowed_ip=10.2.0.1/32",
    "allowed_ip=fd00::/64",
)
BOB_LINES = peer(BOB, f"preshared_key={FILE_KEY}", "replace_allowed_ips=true")


def test_setconf_says_what_the_file_leaves_out_too() -> None:
    assert config(FILE).lines() == [
        *SETTINGS,
        "fwmark=0",
        "replace_peers=true",
        *ADA_LINES,
        *BOB_LINES,
    ]
    assert config("").lines() == [
        f"private_key={NO_KEY}",
        "listen_port=0",
        "fwmark=0",
        "replace_peers=true",
    ]


def test_addconf_says_only_what_is_there() -> None:
    assert config(FILE, append=True).lines() == [*SETTINGS, *ADA_LINES, *BOB_LINES]
    assert config("", append=True).lines() == []


def test_syncconf_removes_first_and_resets_what_the_file_leaves_out() -> None:
    assert config(FILE).sync_lines([EVE.hex, ADA.hex]) == [
        *SETTINGS,
        "fwmark=0",
        *peer(EVE, "remove=true"),
        *peer(ADA, f"preshared_key={NO_KEY}", *ADA_LINES[1:]),
        BOB_LINES[0],
        BOB_LINES[1],
        "persistent_keepalive_interval=0",
        BOB_LINES[2],
    ]


def test_syncconf_without_peers_on_either_side_is_setconf() -> None:
    assert config(FILE).sync_lines([]) == config(FILE).lines()
    alone = config("[Interface]\nListenPort = 1\n")
    assert alone.sync_lines([ADA.hex]) == alone.lines()


def test_the_peers_are_told_in_order() -> None:
    assert config(FILE).peers == (ADA.hex, BOB.hex)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "[Interface]\nAddress = 10.0.0.1/24",
            ["Line unrecognized: `Address=10.0.0.1/24'", "Configuration parsing error"],
        ),
        ("ListenPort = 1", ["Line unrecognized: `ListenPort=1'", "Configuration parsing error"]),
        ("[Peers]", ["Line unrecognized: `[Peers]'", "Configuration parsing error"]),
        (
            "[Interface]\nListenPort",
            ["Line unrecognized: `ListenPort'", "Configuration parsing error"],
        ),
        (
            "[Interface]\nFwMark = x",
            ["Fwmark is neither 0/off nor 0-0xffffffff: `x'", "Configuration parsing error"],
        ),
        (
            "[Interface]\n\nPrivateKey = x",
            ["Key is not the correct length or format (line 3)", "Configuration parsing error"],
        ),
        (
            "[Interface]\nPrivatKye = abc",
            ["Line unrecognized (line 2)", "Configuration parsing error"],
        ),
        (
            f"[Peer]\nPresharedKey = {KEY}",
            ["A peer is missing a public key", "Invalid configuration"],
        ),
    ],
)
def test_the_first_bad_line_is_told(text: str, sentences: list[str]) -> None:
    with pytest.raises(WgError) as raised:
        config(text)
    assert str(raised.value).splitlines() == sentences


KEYS_OF_FILES = (
    "ListenPort",
    "FwMark",
    "AllowedIPs",
    "Endpoint",
    "PersistentKeepalive",
    "Nonsense",
)


@pytest.mark.parametrize("section", ["[Interface]\n", "[Peer]\n", ""])
@pytest.mark.parametrize("key", KEYS_OF_FILES)
@pytest.mark.parametrize("value", [KEY, KEY[:40], KEY + "x", f"{KEY}/8", f"+{KEY}", SECRET])
def test_no_key_in_a_wrong_line_is_repeated(section: str, key: str, value: str) -> None:
    def refuse(text: str) -> str:
        raise WgError("no")

    with pytest.raises(WgError) as raised:
        parse_config(f"{section}{key} = {value}", append=False, resolve=refuse, warn=pytest.fail)
    assert value.strip("+")[:20] not in str(raised.value)
    assert raised.value.__cause__ is None


WORDS = ("listen-port", "fwmark", "nonsense", f"peer {ADA.base64} allowed-ips", "peer")
PEER_WORDS = ("persistent-keepalive", "nonsense", "remove")


@pytest.mark.parametrize("before", [*WORDS, *(f"peer {ADA.base64} {word}" for word in PEER_WORDS)])
@pytest.mark.parametrize("value", [KEY[:-1], f"{KEY}=", SECRET])
def test_no_key_among_wrong_words_is_repeated(before: str, value: str) -> None:
    with pytest.raises(WgError) as raised:
        words(f"{before} {value}")
    assert value[:20] not in str(raised.value)


def test_a_configuration_has_no_repr_with_its_keys() -> None:
    assert FILE_KEY not in repr(config(FILE))
    assert KEY not in repr(config(FILE))


def test_anything_at_all_is_read_or_refused() -> None:
    pieces = [
        "[Peer]",
        "\n",
        "=",
        ",",
        "/",
        "+",
        "-",
        "#",
        "\0",
        "\udcff",
        "AllowedIPs",
        "::",
        "1",
    ]
    for chosen in itertools.product(pieces, repeat=4):
        try:
            config(f"[Peer]\nPublicKey={ADA.base64}\nAllowedIPs=" + "".join(chosen), warnings=[])
        except WgError:
            continue


@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_words_at_all_are_understood_or_refused(found: list[str]) -> None:
    try:
        parse_set_arguments(
            ["peer", ADA.base64, *found],
            read_key=lambda file: SECRET,
            resolve=lambda text: text,
            warn=lambda sentence: None,
        )
    except WgError as error:
        assert str(error)
