"""Who decides about the datapath, and what is said when it cannot be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nvpn import __version__
from nvpn.datapath.choice import VARIABLE, Choice, Wish, choose, explain_workers, find_missing
from nvpn.errors import ConfigError

ROOT = Path(__file__).parents[2]
IS_THERE = find_missing() is None


@pytest.mark.parametrize(
    ("wish", "environment", "why"),
    [
        (Wish.PYTHON, {}, "the configuration asks for it"),
        (Wish.PYTHON, {VARIABLE: "auto"}, "the configuration asks for it"),
        (Wish.PYTHON, {VARIABLE: "python"}, f"{VARIABLE} asks for it"),
        (Wish.AUTO, {VARIABLE: "python"}, f"{VARIABLE} asks for it"),
    ],
)
def test_python_is_taken_when_it_is_asked_for(
    wish: Wish, environment: dict[str, str], why: str
) -> None:
    assert choose(wish, environment=environment) == Choice(False, why)


@pytest.mark.parametrize(
    ("wish", "variable", "sentence"),
    [
        (Wish.NATIVE, "python", 'asks for "python", wg0.toml for "native"; remove one of the two'),
        (Wish.PYTHON, "native", 'asks for "native", wg0.toml for "python"; remove one of the two'),
        (Wish.AUTO, "rust", 'expected "auto", "native" or "python", found "rust"'),
        (Wish.AUTO, "a\nb", 'expected "auto", "native" or "python", found something else'),
    ],
)
def test_contradictions_and_slips_are_explained(wish: Wish, variable: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        choose(wish, file="wg0.toml", environment={VARIABLE: variable})
    assert str(caught.value) == f"{VARIABLE}: {sentence}"


@pytest.mark.parametrize(("is_native", "workers"), [(True, 1), (True, 4), (False, 1)])
def test_nothing_is_said_of_workers_that_are_there(is_native: bool, workers: int) -> None:
    assert explain_workers(Choice(is_native), workers, file="wg0.toml") == ""


def test_workers_that_the_python_datapath_does_not_have_are_explained() -> None:
    assert explain_workers(Choice(False), 4, file="wg0.toml") == (
        "wg0.toml: interface.workers: 4 workers need the native datapath;"
        " the Python one has one thread"
    )


@pytest.mark.skipif(not IS_THERE, reason="the native datapath is not built here")
def test_the_native_one_is_taken_where_it_is() -> None:
    assert choose(environment={}) == Choice(True)
    assert choose(Wish.NATIVE, environment={}) == Choice(True)
    assert choose(environment={VARIABLE: "native"}) == Choice(True)


# What an installation may look like: the module's file, and what is said of it.
BROKEN = "the native module cannot be loaded: libfoo.so.1: cannot open shared object file"
INSTALLATIONS = [
    ("raise ModuleNotFoundError(name='nvpn._native')", "the native module is not built"),
    ("raise ModuleNotFoundError(name='cffi')", "the native module needs cffi"),
    ("raise ImportError('libfoo.so.1: cannot open\\nshared object file')", BROKEN),
    (
        "__version__ = '0.0.9'",
        f"the native module is of nvpn 0.0.9, the rest of {__version__}",
    ),
    ("", f"the native module is of nvpn unknown, the rest of {__version__}"),
]
# A finder before all others stands for the module's file, whether one is there or not.
PRELUDE = """
import importlib.abc, importlib.util, sys
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == 'nvpn._native' else None
    def exec_module(self, module):
        exec(compile({code!r}, 'native', 'exec'), module.__dict__)
sys.meta_path.insert(0, Finder())
"""


def run(code: str, program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE.format(code=code) + program],
        env={"PYTHONPATH": str(ROOT), "PATH": "/nowhere", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("code", "what"), INSTALLATIONS)
def test_what_is_missing_is_said_with_its_remedy(code: str, what: str) -> None:
    done = run(code, "from nvpn.datapath.choice import choose; print(choose())")
    assert done.stderr == ""
    said, _, remedy = done.stdout.strip().partition("; ")
    assert said == f"python: {what}"
    assert "install nvpn again from its source: pip install" in remedy
    assert ("install Rust (https://rustup.rs)" in remedy) is (what.endswith("not built"))


@pytest.mark.parametrize(("code", "what"), INSTALLATIONS)
def test_asking_for_what_is_not_there_is_an_error_in_one_sentence(code: str, what: str) -> None:
    program = "from nvpn.cli.main import main; sys.exit(main())"
    done = run(code, f"sys.argv = ['nvpn', 'device', 'n4c0']; {program}", NVPN_DATAPATH="native")
    assert done.returncode == 1
    assert done.stdout == ""
    said, _, _ = done.stderr.partition("; ")
    assert said == f'error: NVPN_DATAPATH: asks for "native", but {what}'
    assert done.stderr.count("\n") == 1


def test_where_cargo_is_the_remedy_is_to_look_at_what_pip_says(tmp_path: Path) -> None:
    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\n")
    cargo.chmod(0o755)
    code, _ = INSTALLATIONS[0]
    program = "from nvpn.datapath.choice import choose; print(choose())"
    done = run(code, program, PATH=str(tmp_path))
    assert "cargo is here" in done.stdout
    assert "rustup" not in done.stdout


def test_the_datapath_that_is_not_used_is_not_loaded() -> None:
    program = """
import sys
from nvpn.datapath.choice import choose
if choose().is_native:
    import nvpn.datapath.native.adapter
others = ("numpy", "nvpn.datapath.python")
print(*(name for name in sys.modules if name.startswith(others)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""
