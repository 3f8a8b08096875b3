"""What bash, zsh and fish offer behind `nvpn`, asked of the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvpn.cli.text import FIELDS
from nvpn.cli.verbs import VERBS
from nvpn.model.keys import PrivateKey
from tests.support import shells
from tests.support.cli import ROOT

once = pytest.mark.once

PEER = PrivateKey(bytes(range(32))).public().base64
SECRET = PrivateKey(bytes(range(1, 33))).reveal_base64()

# Answers at once; that the real one says the same is for the tests of show to see.
PROGRAM = f"""#!/bin/sh
case "$*" in
    'show interfaces') echo 'wg7 vpn' ;;
    'show wg7 peers') echo '{PEER}' ;;
    'client list --names') printf '%s\\n' laptop 'my phone' ;;
    'client list --names -i vpn') echo tablet ;;
    'peer list --names') echo office ;;
    *) exit 1 ;;
esac
"""


@dataclass(frozen=True)
class Typist:
    """Somebody with one tunnel, wg7, at a shell in a directory with a few files."""

    shell: Callable[[str, dict[str, str], Path], set[str]]
    environment: dict[str, str]
    directory: Path

    def offered(self, line: str) -> set[str]:
        """What Tab offers, less options that were not asked for: some shells show them always."""
        words = self.shell(line, self.environment, self.directory)
        asked = line.split(" ")[-1].startswith("-")
        return {word for word in words if asked or not word.startswith("-")}


@pytest.fixture(params=["bash", "zsh", "fish"])
def typist(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Typist:
    shell: str = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}; scripts/install-peers installs it")
    programs, here = tmp_path / "bin", tmp_path / "here"
    for directory in (programs, here):
        directory.mkdir()
    program = programs / "nvpn"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    for file in ("wg7.toml", "office.conf", "wg7.key", "notes.txt"):
        (here / file).write_text(SECRET)
    environment = {
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "NVPN_DUMP": str(tmp_path_factory.getbasetemp() / "zcompdump"),
    }
    return Typist(getattr(shells, shell), environment, here)


def test_the_files_are_what_the_script_makes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "make-completions"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    for file in ("nvpn", "_nvpn", "nvpn.fish"):
        made = (tmp_path / file).read_text()
        assert made == (ROOT / "completions" / file).read_text(), f"run {script.name} again"


@once
def test_every_verb_is_offered(typist: Typist) -> None:
    words = {word for verb in VERBS for word in (verb.name, *verb.aliases)} | {"help"}
    assert typist.offered("nvpn ") == words
    assert typist.offered("nvpn showc") == {"showconf"}
    assert typist.offered("nvpn help dem") == {"demo"}


@once
def test_options_and_what_may_follow_them_are_offered(typist: Typist) -> None:
    assert typist.offered("nvpn up --fo") == {"--foreground"}
    assert typist.offered("nvpn up --log-level ") == {"debug", "info", "warning", "error"}
    assert typist.offered("nvpn up -f --log-level wa") == {"warning"}
    assert typist.offered("nvpn show --j") == {"--json"}


@once
def test_interfaces_that_run_are_offered_where_one_is_meant(typist: Typist) -> None:
    assert typist.offered("nvpn show ") == {"wg7", "vpn", "all", "interfaces"}
    assert typist.offered("nvpn showconf ") == {"wg7", "vpn"}
    assert typist.offered("nvpn down w") == {"wg7", "wg7.toml"}
    assert typist.offered("nvpn device ") == set()


@once
def test_fields_are_offered_behind_the_interface(typist: Typist) -> None:
    assert typist.offered("nvpn show wg7 ") == set(FIELDS)
    assert typist.offered("nvpn show --plain wg7 end") == {"endpoints"}
    assert typist.offered("nvpn show wg7 endpoints ") == set()


@once
def test_configurations_are_offered_and_no_other_files(typist: Typist) -> None:
    assert typist.offered("nvpn up wg7") == {"wg7.toml"}
    assert typist.offered("nvpn up of") == {"office.conf"}
    assert typist.offered("nvpn up no") == set()
    assert typist.offered("nvpn check wg7.toml of") == {"office.conf"}
    assert typist.offered("nvpn genkey -o no") == {"notes.txt"}


@once
def test_the_words_of_set_are_offered_where_they_make_sense(typist: Typist) -> None:
    assert typist.offered("nvpn set ") == {"wg7", "vpn"}
    assert typist.offered("nvpn set wg7 ") == {"listen-port", "fwmark", "private-key", "peer"}
    assert typist.offered("nvpn set wg7 fwmark ") == {"off"}
    assert typist.offered("nvpn set wg7 listen-port ") == set()
    assert typist.offered("nvpn set wg7 listen-port 5 fw") == {"fwmark"}
    assert typist.offered(f"nvpn set wg7 peer {PEER} al") == {"allowed-ips"}
    assert typist.offered(f"nvpn set wg7 peer {PEER} allowed-ips 10.0.0.1/32 en") == {"endpoint"}


@once
def test_verbs_of_verbs_are_offered_and_what_follows_them(typist: Typist) -> None:
    assert typist.offered("nvpn peer ") == {"add", "list", "rm", "qr"}
    assert typist.offered("nvpn peer add phone --q") == {"--qr"}
    assert typist.offered("nvpn peer list -i w") == {"wg7", "wg7.toml"}
    assert typist.offered("nvpn peer --nosuch") == set()


@once
def test_clients_and_peers_are_offered_by_name_where_one_is_meant(typist: Typist) -> None:
    quoted = "my phone" if typist.shell is shells.fish else "my\\ phone"
    assert typist.offered("nvpn client revoke ") == {"laptop", quoted}
    assert typist.offered("nvpn client revoke my") == {quoted}
    assert typist.offered("nvpn client rename -i vpn ") == {"tablet"}
    assert typist.offered("nvpn client rename laptop ") == set()
    assert typist.offered("nvpn peer rm o") == {"office"}
    # Of what does not run, or is not for us, nobody says anything.
    assert typist.offered("nvpn peer rm -i wg7 ") == set()


@once
def test_public_keys_are_offered_and_secrets_never(typist: Typist) -> None:
    assert typist.offered("nvpn set wg7 peer ") == {PEER}
    # The file's name, not what is in it.
    assert typist.offered("nvpn set wg7 private-key wg7.k") == {"wg7.key"}


@once
def test_what_nobody_knows_offers_nothing_and_says_nothing(typist: Typist) -> None:
    assert typist.offered("nvpn nosuch x") == set()
    assert typist.offered("nvpn set nosuch peer ") == set()
    assert typist.offered("nvpn pubkey ") == set()
