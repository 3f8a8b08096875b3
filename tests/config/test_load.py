# ruff: noqa: E501 - in the tables, a case stands on its line
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nvpn.config.load import examine, find, load
from nvpn.config.model import HostPort, InterfaceConfig, PeerConfig, TunnelConfig
from nvpn.datapath.choice import Wish
from nvpn.errors import ConfigError, ConfigErrors
from nvpn.model.keys import PresharedKey, PrivateKey, PublicKey
from nvpn.model.prefixes import Interface, Prefix

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
BOB = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(Prefix.parse(text) for text in texts)


def test_a_whole_file_becomes_a_configuration(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wg0.toml",
        f"""
        [interface]
        private_key = "{OWN}"
        address = ["10.0.0.1/24", "fd00::1/64", "10.9.9.9"]
        listen_port = 51820
        mtu = 1380
        fwmark = "0xca6c"
        datapath = "python"
        workers = 4
        queues = 2

        [[peer]]
        name = "alice"
        public_key = "{ALICE}"
        preshared_key = "{BOB}"
        endpoint = "vpn.example.com:51820"
        allowed_ips = ["10.0.0.2", "192.168.0.0/16"]
        persistent_keepalive = 25

        [[peer]]
        public_key = "{BOB}"
        endpoint = "[fe80::1%eth0]:1"
        allowed_ips = "fd00:b::/32"
        persistent_keepalive = "off"
        """,
    )
    assert load(path) == TunnelConfig(
        name="wg0",
        path=path,
        interface=InterfaceConfig(
            private_key=PrivateKey.from_base64(OWN),
            addresses=tuple(
                Interface.parse(text) for text in ("10.0.0.1/24", "fd00::1/64", "10.9.9.9/32")
            ),
            listen_port=51820,
            mtu=1380,
            fwmark=0xCA6C,
            datapath=Wish.PYTHON,
            workers=4,
            queues=2,
        ),
        peers=(
            PeerConfig(
                name="alice",
                public_key=PublicKey.from_base64(ALICE),
                preshared_key=PresharedKey.from_base64(BOB),
                endpoint=HostPort("vpn.example.com", 51820),
                allowed_ips=prefixes("10.0.0.2/32", "192.168.0.0/16"),
                persistent_keepalive=25,
            ),
            PeerConfig(
                public_key=PublicKey.from_base64(BOB),
                endpoint=HostPort("fe80::1%eth0", 1),
                allowed_ips=prefixes("fd00:b::/32"),
                persistent_keepalive=0,
            ),
        ),
    )


def test_a_peer_knows_where_it_is_written(tmp_path: Path) -> None:
    path = write(tmp_path / "wg0.toml", f"[interface]\n\n[[peer]]\npublic_key = '{ALICE}'\n")
    (peer,) = load(path).peers
    assert (peer.file, peer.line, peer.label) == (str(path), 3, ALICE[:8])
    assert peer.persistent_keepalive is None  # off, unless a server wishes for one


@pytest.mark.parametrize(
    "text",
    [
        f"interface = {{ private_key = '{OWN}', fwmark = 51820 }}\npeer = [{{ public_key = '{ALICE}' }}]",
        f"interface.private_key = '{OWN}'\ninterface.fwmark = 0xca6c\n[[peer]]\npublic_key = '{ALICE}'",
        f"\ufeff[interface]\r\nprivate_key = '{OWN}'\r\nfwmark = 51_820\r\n[[peer]]\r\npublic_key = '{ALICE}'",
        f"[[peer]]\n\"public_key\" = '''{ALICE}'''\n[interface]\nfwmark = '51820'\nprivate_key = '{OWN}'",
    ],
)  # fmt: skip
def test_every_way_to_write_the_same_in_toml_reads_the_same(text: str, tmp_path: Path) -> None:
    config = load(write(tmp_path / "wg0.toml", text))
    assert config.interface == InterfaceConfig(PrivateKey.from_base64(OWN), fwmark=51820)
    assert config.peers == (PeerConfig(PublicKey.from_base64(ALICE)),)
    assert config.warnings == ()


def test_secrets_may_lie_in_files_beside_the_configuration(tmp_path: Path) -> None:
    write(tmp_path / "keys" / "own.key", f"{OWN}\n")
    write(tmp_path / "alice.psk", f"  {BOB}\r\n")
    config = load(
        write(
            tmp_path / "wg0.toml",
            "[interface]\nprivate_key_file = 'keys/own.key'\n"
            f"[[peer]]\npublic_key = '{ALICE}'\npreshared_key_file = '{tmp_path}/alice.psk'\n",
            0o644,
        )
    )
    assert config.interface.private_key == PrivateKey.from_base64(OWN)
    assert config.peers[0].preshared_key == PresharedKey.from_base64(BOB)
    assert config.warnings == ()  # the readable file names secrets but holds none


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory; expected a file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (
            lambda path: path.symlink_to(path),
            "cannot be opened: Too many levels of symbolic links",
        ),
        (lambda path: path.write_text(""), "is empty; expected a key of 44 base64 characters"),
        (lambda path: path.write_text("A" * 5000), "is larger than 4 KiB"),
    ],
)
def test_a_key_file_that_cannot_serve_is_told_with_its_path(make, message, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "k")
    path = write(tmp_path / "wg0.toml", "[interface]\nprivate_key_file = 'k'\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    place = f"{path}:2: interface.private_key_file"
    assert str(caught.value) == f'{place}: "{tmp_path / "k"}" {message}'


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory; expected a file"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.write_bytes(b"[interface]\n\n\xff"), "expected UTF-8 text"),
        (lambda path: path.write_bytes(bytes(17 << 20)), "is larger than 16 MiB"),
    ],
)
@pytest.mark.parametrize("name", ["wg0.toml", "wg0.conf"])
def test_a_file_that_cannot_be_read_is_told(make, message, name, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / name)
    (problem,) = examine(tmp_path / name).problems
    assert message in str(problem)
    assert str(problem).startswith(str(tmp_path / name))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as somebody who may not read everything, even if root runs the tests."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("forbidden", ["wg0.toml", "wg0.d", "wg0.d/a.toml"])
def test_what_belongs_to_somebody_else_needs_sudo(forbidden: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        path = write(directory / "wg0.toml", "[interface]\n", 0o644)
        write(directory / "wg0.d" / "a.toml", "", 0o644)
        (directory / "wg0.d").chmod(0o755)
        (directory / forbidden).chmod(0)
        with as_nobody():
            (problem,) = examine(path).problems
        (directory / forbidden).chmod(0o700)
    message = "may not be read by this user; try again with sudo"
    assert str(problem) == f"{directory / forbidden}: {message}"


def test_a_name_in_a_directory_of_somebody_else_needs_sudo() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name, "etc")
        directory.mkdir(mode=0)
        with as_nobody(), pytest.raises(ConfigError) as caught:
            find("wg0", searched=(directory,))
    assert str(caught.value) == (
        f"{directory}: may not be searched by this user; try again with sudo"
    )


def test_a_file_may_be_a_symbolic_link(tmp_path: Path) -> None:
    write(tmp_path / "real.toml", f"[interface]\nprivate_key = '{OWN}'\n")
    (tmp_path / "wg7.toml").symlink_to("real.toml")
    assert load(tmp_path / "wg7.toml").name == "wg7"


# --- warnings ---


@pytest.mark.parametrize(
    ("mode", "who"),
    [(0o600, None), (0o400, None), (0o640, "its group"), (0o644, "everyone"), (0o602, "everyone")],
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wg0.toml", f"[interface]\nprivate_key = '{OWN}'\n"),
        ("wg0.conf", f"[Interface]\nPrivateKey = {OWN}\n"),
    ],
)
def test_secrets_that_others_can_read_are_warned_about(
    mode: int, who: str | None, name: str, text: str, tmp_path: Path
) -> None:
    path = write(tmp_path / name, text, mode)
    expected = (f"{path}: holds a secret key and is accessible to {who}; try: chmod 600 {path}",)
    assert load(path).warnings == (expected if who else ())


def test_key_files_and_fragments_that_others_can_read_are_warned_about(tmp_path: Path) -> None:
    write(tmp_path / "k", OWN, 0o644)
    path = write(tmp_path / "wg0.toml", "[interface]\nprivate_key_file = 'k'\n", 0o644)
    fragment = write(
        tmp_path / "wg0.d" / "a.toml",
        f"[[peer]]\npublic_key = '{ALICE}'\npreshared_key = '{BOB}'\n",
        0o660,
    )
    assert load(path).warnings == (
        f'{path}:2: interface.private_key_file: "{tmp_path / "k"}" is accessible to everyone;'
        " try: chmod 600 on it",
        f"{fragment}: holds a secret key and is accessible to its group; try: chmod 600 {fragment}",
    )


def test_legal_oddities_are_warned_about_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "wg0.toml",
        f"[interface]\n[[peer]]\npublic_key = '{ALICE}'\nendpoint = '10.1.2.3:1'\n"
        "allowed_ips = ['10.0.0.1/8', '10.0.0.0/8', '0.0.0.0/0', '::/0']\n",
    )
    config = load(path)
    allowed = f"{path}:5: peer[1].allowed_ips"
    inside = (
        "10.0.0.0/8 contains the peer's own endpoint 10.1.2.3:1; its packets would be routed"
        " into the tunnel that they carry"
    )
    assert config.warnings == (
        f"{path}: no private key is given; nothing goes through until one is set, as by:"
        " wg set wg0 private-key FILE",
        f'{allowed}[1]: "10.0.0.1/8" is taken as 10.0.0.0/8',
        f"{allowed}[2]: 10.0.0.0/8 is given twice",
        f"{allowed}[1]: {inside}",
        f"{allowed}[2]: {inside}",
    )
    assert config.peers[0].allowed_ips == prefixes("10.0.0.0/8", "0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("queues = 2\n", "2 queues are more than the workers, 1"),
        ("workers = 3\nqueues = 4\n", "4 queues are more than the workers, 3"),
        ("workers = 4\nqueues = 4\n", None),
        ("workers = 4\n", None),
    ],
)
def test_queues_that_no_worker_is_there_for_are_warned_about(
    text: str, sentence: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path / "wg0.toml", f"[interface]\nprivate_key = '{OWN}'\n{text}")
    place = f"{path}:{2 + text.count(chr(10))}: interface.queues"
    assert [warning.partition(";")[0] for warning in load(path).warnings] == (
        [f"{place}: {sentence}"] if sentence else []
    )


# --- fragments ---


def test_fragments_add_peers_and_missing_interface_keys_in_the_order_of_names(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "wg0.toml", "[interface]\nlisten_port = 1\n")
    write(tmp_path / "wg0.d" / "20-bob.toml", f"[[peer]]\npublic_key = '{BOB}'\n")
    write(tmp_path / "wg0.d" / "10-alice.toml", f"[[peer]]\npublic_key = '{ALICE}'\n")
    write(tmp_path / "wg0.d" / "key.toml", f"[interface]\nprivate_key = '{OWN}'\n")
    for ignored in (".hidden.toml", "notes.txt", "old.toml~", "x.conf"):
        write(tmp_path / "wg0.d" / ignored, "nonsense")
    config = load(path)
    assert [peer.public_key.base64 for peer in config.peers] == [ALICE, BOB]
    assert config.peers[1].file == str(tmp_path / "wg0.d" / "20-bob.toml")
    assert config.interface.listen_port == 1
    assert config.interface.private_key == PrivateKey.from_base64(OWN)


def test_a_conf_file_has_no_fragments_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "wg0.conf", f"[Interface]\nPrivateKey = {OWN}\n")
    write(tmp_path / "wg0.d" / "a.toml", "nonsense")
    assert load(path).warnings == (
        f"{tmp_path / 'wg0.d'}: is not read; only .toml files have fragments",
    )


# --- names ---


@pytest.mark.parametrize("stem", ["all", "default", "sixteen-letters-", "a b", "wg:0", "é"])
def test_a_file_whose_name_cannot_be_an_interface_is_refused(stem: str, tmp_path: Path) -> None:
    (problem,) = examine(write(tmp_path / f"{stem}.toml", "[interface]\n")).problems
    assert "the file names the interface" in str(problem)


def test_a_name_is_looked_for_in_both_directories_toml_first(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "nvpn", tmp_path / "wireguard"
    only_conf = write(theirs / "wg1.conf", "")
    write(theirs / "wg0.toml", "")
    conf_first = write(ours / "wg0.conf", "")
    searched = (ours, theirs)
    assert find("wg1", searched=searched) == only_conf
    assert find("wg0", searched=searched) == conf_first
    toml = write(ours / "wg0.toml", "")
    assert find("wg0", searched=searched) == toml
    assert find(str(only_conf), searched=searched) == only_conf


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (
            "ofice",
            'there is no configuration called "ofice" (looked for ofice.toml and ofice.conf in'
            ' etc); did you mean "office"?',
        ),
        (
            "zebra",
            'there is no configuration called "zebra" (looked for zebra.toml and zebra.conf in'
            " etc); give the file itself, such as ./wg0.toml",
        ),
        (
            "here",
            'there is no configuration called "here" (looked for here.toml and here.conf in'
            ' etc); there is one in this directory: did you mean "./here.conf"?',
        ),
        ("./heer.conf", 'heer.conf: does not exist; did you mean "here.conf"?'),
        ("office.toml", 'office.toml: does not exist; did you mean "etc/office.toml"?'),
        (
            "not/a name",
            "not/a name: does not exist",
        ),
        (
            "a name",
            '"a name" is neither a file nor the name of an interface; expected FILE.toml,'
            " FILE.conf, or 1 to 15 letters, digits or any of _=+.-",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_told_with_what_was_probably_meant(
    wanted: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "etc" / "office.toml", "")
    write(tmp_path / "here.conf", "")
    with pytest.raises(ConfigError) as caught:
        find(wanted, searched=(Path("etc"),))
    assert str(caught.value) == sentence


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "wg0.yaml", "")
    (problem,) = examine(find(str(path))).problems
    assert str(problem) == f"{path}: is neither a .toml nor a .conf file; rename it to what it is"
