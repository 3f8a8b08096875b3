"""``nvpn check`` as a user meets it, and the examples that it must accept."""

from __future__ import annotations

import io
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from nvpn.cli.main import main
from nvpn.config.load import examine
from nvpn.daemon.kernel_tunnel import why_no_kernel
from nvpn.datapath.choice import find_missing

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.name for path in (ROOT / "conf.d").iterdir() if path.suffix != ".d")
OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
ALICE = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def check(*files: str, cwd: Path, datapath: str = "python") -> tuple[int, str, str]:
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("NVPN_DATAPATH", datapath)
        with redirect_stdout(said), redirect_stderr(complained):
            status = main(["check", *files])
    return status, said.getvalue(), complained.getvalue()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    good = tmp_path / "good.toml"
    good.write_text(
        f"[interface]\nprivate_key = '{OWN}'\naddress = ['10.0.0.1/24', 'fd00::1/64']\n"
        f"[[peer]]\npublic_key = '{ALICE}'\nallowed_ips = '10.0.0.9/24'\n"
    )
    good.chmod(0o600)
    (tmp_path / "bad.toml").write_text("[interface]\nmtu = 1\n[[peer]]\nname = 'x'\n")
    return tmp_path


def test_a_good_file_is_summed_up_and_its_warnings_told(home: Path) -> None:
    assert check("good.toml", cwd=home) == (
        0,
        "good.toml: good: interface good, 10.0.0.1/24, fd00::1/64, 1 peer, python datapath\n"
        "datapath python: NVPN_DATAPATH asks for it\n",
        'warning: good.toml:6: peer[1].allowed_ips: "10.0.0.9/24" is taken as 10.0.0.0/24\n',
    )


def test_every_mistake_of_every_file_is_told(home: Path) -> None:
    assert check("bad.toml", "good.toml", "goood.toml", cwd=home) == (
        1,
        "good.toml: good: interface good, 10.0.0.1/24, fd00::1/64, 1 peer, python datapath\n"
        "datapath python: NVPN_DATAPATH asks for it\n",
        "bad.toml:2: interface.mtu: expected bytes from 576 to 65475, found 1\n"
        "bad.toml:3: peer[1]: has no public_key; every peer needs one\n"
        'warning: good.toml:6: peer[1].allowed_ips: "10.0.0.9/24" is taken as'
        " 10.0.0.0/24\n"
        'goood.toml: does not exist; did you mean "good.toml"?\n',
    )


def test_which_datapath_it_would_be_is_told_and_why_it_is_python(home: Path) -> None:
    missing = find_missing()
    status, said, _ = check("good.toml", cwd=home, datapath="auto")
    summary, *reasons = said.splitlines()
    if missing is None:
        assert (status, summary.endswith(", native datapath"), reasons) == (0, True, [])
    else:
        assert (status, summary.endswith(", python datapath"), len(reasons)) == (0, True, 1)
        assert reasons[0].startswith(f"datapath python: {missing.what}; ")


def test_workers_that_the_datapath_does_not_have_are_warned_about(home: Path) -> None:
    path = home / "good.toml"
    path.write_text(path.read_text().replace("[interface]", "[interface]\nworkers = 4"))
    sentence = (
        "warning: good.toml: interface.workers: 4 workers need the native datapath;"
        " the Python one has one thread\n"
    )
    status, _, warned = check("good.toml", cwd=home)
    assert (status, sentence in warned) == (0, True)
    if find_missing() is None:
        status, _, warned = check("good.toml", cwd=home, datapath="native")
        assert (status, "workers" in warned) == (0, False)


def test_a_datapath_that_up_would_refuse_is_a_mistake(home: Path) -> None:
    path = home / "good.toml"
    path.write_text(path.read_text().replace("[interface]", "[interface]\ndatapath = 'native'"))
    status, said, warned = check("good.toml", cwd=home)
    assert (status, said) == (1, "")
    assert warned.splitlines()[-1] == (
        'NVPN_DATAPATH: asks for "python", good.toml for "native"; remove one of the two'
    )


def test_what_carries_a_tunnel_is_told_where_the_file_leaves_it_open(home: Path) -> None:
    path = home / "good.toml"
    path.write_text(path.read_text().replace("[interface]", "[interface]\nbackend = 'auto'"))
    status, said, _ = check("good.toml", cwd=home)
    assert (status, said.splitlines()[0].endswith(", python datapath")) == (0, True)
    assert "backend userspace: NVPN_DATAPATH names a datapath" in said.splitlines()


@pytest.mark.root
def test_a_kernel_that_cannot_carry_a_tunnel_is_told(home: Path) -> None:
    path = home / "good.toml"
    path.write_text(path.read_text().replace("[interface]", "[interface]\nbackend = 'kernel'"))
    reason = why_no_kernel()
    status, said, warned = check("good.toml", cwd=home)
    if reason:
        assert (status, said) == (1, "")
        assert f"cannot bring up good by the kernel; {reason}" in warned
    else:
        assert (status, said.rstrip().endswith(", kernel backend")) == (0, True)


def test_what_a_server_leases_and_what_a_client_awaits_is_summed_up(home: Path) -> None:
    (home / "s.toml").write_text(
        "[interface]\naddress = '10.8.0.1/24'\nlisten_port = 1\n"
        "[server]\npool = ['10.8.0.0/24', '10.9.0.0/24']\n"
    )
    (home / "c.toml").write_text(
        f"[interface]\n[[peer]]\npublic_key = '{ALICE}'\nendpoint = 'a:1'\nserver = true\n"
    )
    status, said, _ = check("s.toml", "c.toml", cwd=home)
    assert status == 0
    assert said.splitlines()[:2] == [
        "s.toml: good: interface s, 10.8.0.1/24, 0 peers, leases of 10.8.0.0/24, 10.9.0.0/24,"
        " python datapath",
        "c.toml: good: interface c, an address by lease, 1 peer, python datapath",
    ]


def test_an_etcd_that_cannot_be_spoken_to_from_here_is_told(home: Path) -> None:
    (home / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (home / "s.toml").write_text(
        "[interface]\naddress = '10.8.0.1/24'\nlisten_port = 1\n[server]\npool = '10.8.0.0/24'\n"
        "store = 'etcd'\netcd = 'https://localhost:1'\netcd_ca = 'ca.pem'\n"
    )
    status, said, warned = check("s.toml", cwd=home)
    assert (status, said) == (1, "")
    assert "s.toml: server.store: cannot read the certificates for etcd (ca.pem); " in warned


def test_the_examples_are_there() -> None:
    assert {"client.toml", "server.toml", "site-to-site.toml", "roadwarrior.toml"} < set(EXAMPLES)
    assert {"fullroute.toml", "hooks.conf", "wg-quick.conf"} < set(EXAMPLES)
    assert {"leases.toml", "leased.toml"} < set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_accepted_and_its_keys_are_told_to_be_nobodys(
    name: str, tmp_path: Path
) -> None:
    home = tmp_path / "conf.d"
    shutil.copytree(ROOT / "conf.d", home)
    (home / name).chmod(0o600)  # however the sources came here
    status, said, warned = check(name, cwd=home)
    assert status == 0
    assert said.startswith(f"{name}: good: interface {Path(name).stem}, ")
    assert "is the key of an example, which everybody knows" in warned
    others = [w for w in warned.splitlines() if "example" not in w and "accessible" not in w]
    assert others == []


def test_fragments_of_the_example_are_part_of_it() -> None:
    config = examine(ROOT / "conf.d" / "roadwarrior.toml").config
    assert config is not None
    assert [peer.name for peer in config.peers] == ["laptop", "phone"]


def test_the_manual_tells_every_key_and_its_examples_are_valid(tmp_path: Path) -> None:
    from nvpn.config.schema import HEADERS, KEYS, SECTIONS

    page = (ROOT / "man" / "nvpn.toml.5").read_text()
    told = {section: page.split(f"THE {HEADERS[section]} SECTION")[1] for section in SECTIONS}
    told = {section: text.split(".SH ")[0] for section, text in told.items()}
    told["reservation"] = told["server"].split(".SS ")[1]
    for section, keys in KEYS.items():
        for key in keys:
            assert f".TP\n.B {key}\n" in told[section] or key == "reservation", (section, key)
    examples = [part.split(".EE")[0] for part in page.split(".EX\n")[1:]]
    assert len(examples) == 4
    (tmp_path / "wg0.key").write_text(OWN)
    (tmp_path / "laptop.psk").write_text(OWN)
    for example in examples:
        path = tmp_path / "wg0.toml"
        path.write_text(example)
        assert examine(path).problems == ()
        path.chmod(0o600)
        assert [said for said in examine(path).warnings if "accessible" not in said] == []


def test_what_the_guide_to_servers_says_to_write_is_valid(tmp_path: Path) -> None:
    page = (ROOT / "man" / "nvpn-server.7").read_text().replace("\\-", "-").replace("\\(dq", '"')
    first, joining, everything, ports, store, client = (
        part.split(".EE")[0] for part in page.split(".EX\n")[1:]
    )
    whole = first.split("<<END\n")[1].split("END\n")[0]
    assert "nvpn check vpn\nnvpn up vpn\nnvpn invite laptop\n" in first
    assert joining.startswith("nvpn join nvpn:")
    for name in ("etcd-ca.pem", "etcd.password", "vpn.key"):
        text = OWN if name == "vpn.key" else "-----BEGIN CERTIFICATE-----"
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    shared = whole.replace("[server]\n", store)
    filtered = whole.replace("[server]", f"{ports}[server]")
    for text in (whole, whole + everything, shared, filtered, f"[interface]\n{client}"):
        path = tmp_path / "vpn.toml"
        path.write_text(text)
        path.chmod(0o600)
        examination = examine(path)
        assert examination.problems == ()
        assert [said for said in examination.warnings if "no private key" not in said] == []
