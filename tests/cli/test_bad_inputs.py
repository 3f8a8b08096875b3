"""What people get wrong, and the sentences they get: what is wrong, where, and the remedy.

The sentences stand side by side in bad_inputs.txt; tests/support/mistakes.py has how each is
come by. Every one is a real run of nvpn, on a machine of its own. `pytest -s` prints the table
as it is now.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from nvpn.daemon.kernel_tunnel import why_no_kernel
from tests.support.cli import ROOT
from tests.support.machines import Machine
from tests.support.mistakes import (
    GOOD,
    KERNELS_BACKEND,
    MISTAKES,
    SECRET,
    SWITCH_IPV6,
    Mistake,
    add_veth,
)
from tests.support.world import new_world

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with new_world(tmp_path_factory.mktemp("bad")) as world:
        made = Machine(world, "a")
        made.write(GOOD.replace("51820", "51999").replace("10.9.", "10.8."), "run0.toml")
        made.nvpn("up", "run0.toml")
        made.nvpn("device", "bare0")
        yield made
        made.nvpn("down", "run0")
        made.nvpn("down", "bare0")


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_gets_its_sentence(mistake: Mistake, machine: Machine) -> None:
    if mistake.what == KERNELS_BACKEND and not why_no_kernel():
        pytest.skip("this kernel has WireGuard of its own")
    for name, text in mistake.files.items():
        path = machine.etc / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
    mistake.prepare(machine)
    try:
        done = subprocess.run(
            machine.host.argv(
                *(*mistake.within, sys.executable, "-m", "nvpn"), *mistake.command.split()[1:]
            ),
            env={**machine.environment, **mistake.environment},
            cwd=machine.etc,
            input="",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        is_left = machine.has_link("wg0") and mistake.prepare is not add_veth
    finally:
        machine.host.run("sh", "-c", "ip link delete wg0 2>/dev/null; " + SWITCH_IPV6.format(0))
        for name in mistake.files:
            (machine.etc / name).unlink()

    said = done.stderr.replace(str(machine.etc), "DIR")
    entry = format_entry(mistake, done.returncode, said)
    print(f"\n{entry}")
    assert entry == SENTENCES.get(mistake.what)
    assert not is_left, "the interface is there all the same"


def test_the_sentences_are_those_of_the_mistakes_and_hold_no_secret() -> None:
    assert list(SENTENCES) == [mistake.what for mistake in MISTAKES]
    assert len(SENTENCES) >= 30
    assert SECRET.reveal_base64()[:12] not in "".join(SENTENCES.values())
    assert "Traceback" not in "".join(SENTENCES.values())


def format_entry(mistake: Mistake, status: int, said: str) -> str:
    """As it stands in the table. A secret that is typed is not shown there either."""
    command = mistake.command.replace(SECRET.reveal_base64(), "SECRET")
    return f"== {mistake.what}\n$ {command}\n{said}exit status {status}\n"


def read_sentences() -> dict[str, str]:
    text = (ROOT / "tests/cli/bad_inputs.txt").read_text()
    entries = [f"== {entry.rstrip()}\n" for entry in text.split("== ")[1:]]
    return {entry.partition("\n")[0].removeprefix("== "): entry for entry in entries}


SENTENCES = read_sentences()
