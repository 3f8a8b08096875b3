"""What pipx and `uv tool install` make of nvpn: a program that runs, and all that goes with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvpn import __version__
from nvpn.model.keys import PrivateKey
from tests.support.cli import ROOT

pytestmark = pytest.mark.slow

SOURCE = ("nvpn", "native", "man", "systemd", "completions", "conf.d")
FILES = ("pyproject.toml", "README.md", "LICENSE")

CONFIG = f"""
[interface]
private_key = "{PrivateKey(bytes(range(32))).reveal_base64()}"
address = "10.9.0.1/24"
"""


@dataclass(frozen=True)
class Installed:
    """A program, and the prefix with the rest of its files."""

    program: Path
    prefix: Path


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of pipx and uv."""
    directory = tmp_path_factory.mktemp("tools")
    venv.create(directory)
    pip = (sys.executable, "-m", "pip", "--python", str(directory / "bin/python"))
    try:
        fetch(*pip, "install", "-q", "--disable-pip-version-check", "pipx", "uv", home=directory)
    except AssertionError as error:
        pytest.skip(f"needs pipx and uv, which pip could not fetch: {error}")
    return directory / "bin"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nvpn's source, in which nothing was built before."""
    source = tmp_path_factory.mktemp("source")
    # The native module has its own tests, and takes long to build.
    not_source = shutil.ignore_patterns("__pycache__", "target", "*.so")
    for name in SOURCE:
        shutil.copytree(ROOT / name, source / name, ignore=not_source)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(tools: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """nvpn as it goes to a registry."""
    made = tmp_path_factory.mktemp("wheel")
    fetch(tools / "uv", "build", "-q", "--wheel", "-o", made, source, home=made)
    (wheel,) = made.glob("*.whl")
    return wheel


@pytest.fixture(scope="module", params=["pipx", "uv"])
def installed(
    request: pytest.FixtureRequest,
    tools: Path,
    wheel: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Installed:
    home = tmp_path_factory.mktemp(request.param)
    if request.param == "pipx":
        fetch(tools / "pipx", "install", "--python", sys.executable, wheel, home=home)
        return Installed(home / "bin/nvpn", home / "pipx/venvs/nvpn")
    fetch(tools / "uv", "tool", "install", "-q", "--python", sys.executable, wheel, home=home)
    return Installed(home / "bin/nvpn", home / "uv/nvpn")


def fetch(*command: str | Path, home: Path) -> None:
    """Run what downloads, and once more if it fails: networks do now and then."""
    try:
        run(*command, home=home)
    except AssertionError:
        time.sleep(10)
        run(*command, home=home)


def run(*command: str | Path, home: Path = Path("/nonexistent")) -> str:
    environment = {
        **os.environ,
        "CARGO": "/bin/false",
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_MAN_DIR": str(home / "man"),
        "UV_TOOL_DIR": str(home / "uv"),
        "UV_TOOL_BIN_DIR": str(home / "bin"),
        "UV_CACHE_DIR": str(home / "cache"),
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        command, env=environment, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_runs(installed: Installed, tmp_path: Path) -> None:
    assert run(installed.program, "--version") == f"nvpn {__version__}\n"

    config = tmp_path / "wg0.toml"
    config.write_text(CONFIG)
    config.chmod(0o600)
    said = run(installed.program, "check", config)
    assert f"{config}: good: interface wg0, 10.9.0.1/24, 0 peers, python datapath" in said


def test_manuals_units_and_completions_are_there(installed: Installed, source: Path) -> None:
    for there, here in (
        ("share/man/man8", [*source.glob("man/*.8"), *source.glob("man/also/*.8")]),
        ("share/man/man5", [*source.glob("man/*.5")]),
        (
            "lib/systemd/system",
            [*source.glob("systemd/*.service"), *source.glob("systemd/*.target")],
        ),
        ("share/doc/nvpn/systemd", [*source.glob("systemd/*.conf")]),
        (
            "share/doc/nvpn/examples",
            [*source.glob("conf.d/*.toml"), *source.glob("conf.d/*.conf")],
        ),
        ("share/bash-completion/completions", [source / "completions/nvpn"]),
        ("share/zsh/site-functions", [source / "completions/_nvpn"]),
        ("share/fish/vendor_completions.d", [source / "completions/nvpn.fish"]),
    ):
        assert here, there
        found = {file.name: file.read_text() for file in (installed.prefix / there).iterdir()}
        for file in here:
            assert found.get(file.name) == file.read_text(), file
