"""The manual and the picture say what the program does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from nvpn.cli.text import FIELDS
from nvpn.cli.usage import Parser
from nvpn.cli.verbs import VERBS, Verb
from tests.support.cli import ROOT

PAGES = sorted((ROOT / "man").glob("nvpn*.8"))
PICTURE = ROOT / "docs" / "status.svg"


@pytest.fixture(scope="module")
def manual() -> str:
    """The text of all pages about commands, without its markup."""
    text = "".join(page.read_text() for page in PAGES)
    text = re.sub(r"\\f[BIRP]", "", text).replace("\\-", "-")
    return re.sub(r"^\.(?:[BI]|[BIR]{2}|TP|IP) ?", "", text, flags=re.MULTILINE).replace('"', "")


@pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])
def test_every_verb_and_option_is_in_the_manual(verb: Verb, manual: str) -> None:
    parser = Parser(verb, prog=f"nvpn {verb.name}")
    import_module(verb.module).add_arguments(parser)
    for word in (verb.name, *verb.aliases):
        assert f"nvpn {word}" in manual, word
    for action in parser._actions:
        for option in action.option_strings:
            if option != "-h":
                assert option in manual, option


def test_every_field_of_show_is_in_the_manual(manual: str) -> None:
    for field in FIELDS:
        assert field in manual


def test_every_variable_that_the_program_reads_is_in_the_manual(manual: str) -> None:
    read = set()
    for path in (ROOT / "nvpn").rglob("*.py"):
        found = re.findall(r"""environ(?:\.get\(|\[)\s*"(\w+)\"""", path.read_text())
        read.update(name for name in found if name.startswith(("NVPN_", "WG_", "LOG_", "NO_C")))
    assert read
    for name in read:
        assert name in manual, name


needs_man = pytest.mark.skipif(shutil.which("man") is None, reason="needs man")


@needs_man
@pytest.mark.once
def test_every_verb_has_a_page_of_its_name(tmp_path: Path) -> None:
    pages = tmp_path / "man8"
    pages.mkdir()
    for page in (*PAGES, *(ROOT / "man" / "also").iterdir()):
        shutil.copy(page, pages)
    for verb in VERBS:
        for word in (verb.name, *verb.aliases):
            done = subprocess.run(
                ["man", "--warnings", "-M", tmp_path, "-E", "UTF-8", "nvpn", word],
                env={**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (done.returncode, done.stderr) == (0, ""), word
            assert f"nvpn {word}" in " ".join(done.stdout.split()), word


@needs_man
@pytest.mark.once
@pytest.mark.parametrize("page", sorted((ROOT / "man").glob("*.[0-9]")), ids=lambda p: p.name)
def test_the_manuals_are_clean(page: Path) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
        env={**os.environ, "MANROFFSEQ": "", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    assert done.stderr == b""


def test_the_picture_is_what_the_program_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "status.svg"
    subprocess.run([sys.executable, ROOT / "scripts" / "draw-status", drawn], check=True)
    # Only the words: how they are placed is for the version of rich to decide.
    assert words(drawn) == words(PICTURE)


def test_scripts_find_what_they_need_however_they_are_started(tmp_path: Path) -> None:
    if not (ROOT / ".venv").exists():
        pytest.skip("needs the .venv of scripts/set-up")
    bare = Path(sys.base_prefix) / "bin" / "python3"
    drawn = tmp_path / "status.svg"
    subprocess.run([bare, ROOT / "scripts" / "draw-status", drawn], check=True, cwd=tmp_path)
    assert words(drawn) == words(PICTURE)


def test_scripts_say_what_is_missing_where_they_cannot_find_it(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(ROOT / "scripts", scripts)
    bare = Path(sys.base_prefix) / "bin" / "python3"
    done = subprocess.run(
        [bare, "-S", scripts / "bench"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "bench: what it needs is not installed; run scripts/set-up first\n"


def test_the_picture_fetches_nothing() -> None:
    assert not re.findall(r"""(?:url\(|href=)["']?http""", PICTURE.read_text())


def words(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))
