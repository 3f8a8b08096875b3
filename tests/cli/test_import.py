"""``nvpn import``, ``export`` and ``strip`` as they are typed."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.support.cli import nvpn

OWN = "wAo3rNbkSyQ1DGvgUqCWLIm0dWRT5vOJ9M9mNRqPT1o="
CONF = f"[Interface]\n# key\nPrivateKey = {OWN}\nJc = 4\nDNS = 10.0.0.1\n"
TOML = f'[interface]\n# key\nprivate_key = "{OWN}"\n# nvpn: unknown: Jc = 4\ndns = "10.0.0.1"\n'


def test_a_file_goes_there_and_back(tmp_path: Path) -> None:
    conf, toml = tmp_path / "wg0.conf", tmp_path / "wg0.toml"
    conf.write_text(CONF)

    there = nvpn("import", str(conf))

    assert (there.status, there.out) == (0, TOML)
    assert there.err == f"warning: {conf}:4: [Interface] Jc: is unknown; kept as a comment\n"
    toml.write_text(there.out)
    back = nvpn("export", str(toml))
    assert (back.status, back.out, back.err) == (0, CONF, "")


def test_it_works_in_a_pipe() -> None:
    there = nvpn("import", "-", stdin=CONF)
    assert (there.status, there.out) == (0, TOML)
    assert "warning: standard input:4: " in there.err
    assert nvpn("export", "-", stdin=there.out).out == CONF
    wrong = nvpn("export", "-", stdin="[interface]\nmtu = 1\n")
    assert wrong.status == 1
    assert "standard input:2: interface.mtu: expected bytes" in wrong.err


def test_a_new_file_is_its_owners_alone_and_none_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "wg0.toml"
    done = nvpn("import", "-", "-o", str(target), stdin=CONF)
    assert (done.status, done.out) == (0, "")
    assert target.read_text() == TOML
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = nvpn("import", "-", "-o", str(target), stdin=CONF)
    assert again.status == 1
    assert "a configuration is never overwritten" in again.err


def test_strict_refuses_what_is_unknown(tmp_path: Path) -> None:
    done = nvpn("import", "-", "--strict", stdin=CONF)
    assert (done.status, done.out) == (1, "")
    assert "Jc: is unknown" in done.err
    assert nvpn("import", "-", "--strict", stdin=CONF.replace("Jc = 4\n", "")).status == 0


def test_the_wrong_kind_of_file_is_told(tmp_path: Path) -> None:
    toml = tmp_path / "wg0.toml"
    toml.write_text(TOML)
    done = nvpn("import", str(toml))
    assert done.status == 1
    assert f"{toml}: is no .conf file; for the other way there is nvpn export" in done.err
    assert "does not exist" in nvpn("export", str(tmp_path / "wg1.toml")).err


def test_strip_prints_what_wg_understands(tmp_path: Path) -> None:
    toml = tmp_path / "wg0.toml"
    toml.write_text(TOML)
    toml.chmod(0o600)
    done = nvpn("strip", str(toml))
    assert (done.status, done.err) == (0, "")
    assert done.out == f"[Interface]\nPrivateKey = {OWN}\n"
