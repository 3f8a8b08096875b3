"""Hooks: when they run, where, with what, and what their failures cost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nvpn.model.keys import PrivateKey
from tests.support.groups import wait_until_none_lives
from tests.support.machines import Machine
from tests.support.world import wait_until

pytestmark = pytest.mark.root

PEER = PrivateKey(bytes(range(32))).public().base64
CONFIG = f"""
[Interface]
PrivateKey = PRIVATE
Address = 10.9.0.1/24
HOOKS

[Peer]
PublicKey = {PEER}
AllowedIPs = 10.20.0.0/16
"""
WITHOUT_KEY = CONFIG.replace("PrivateKey = PRIVATE\n", "")


def write(machine: Machine, *hooks: str, text: str = CONFIG) -> None:
    machine.write(text.replace("HOOKS", "\n".join(hooks)), "wg0.conf")


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def story(machine: Machine) -> Path:
    return machine.directory / "story"


def test_they_run_in_order_each_where_the_tunnel_has_come_to(
    machine: Machine, story: Path
) -> None:
    state = "$(ip -br address show %i 2>/dev/null | tr -s ' ')"
    socket = f"$(test -S {machine.run_directory}/%i.sock && echo served)"
    hooks = [
        f'{kind} = echo "{kind} {number} %i {state}{socket}" >> {story}'
        for kind in ("PreUp", "PostUp", "PreDown", "PostDown")
        for number in (1, 2)
    ]
    write(machine, *hooks)

    up = machine.nvpn("up", "wg0.conf")
    down = machine.nvpn("down", "wg0")

    assert [line.strip() for line in lines(story)] == [
        "PreUp 1 wg0 wg0 DOWN",
        "PreUp 2 wg0 wg0 DOWN",
        "PostUp 1 wg0 wg0 UNKNOWN 10.9.0.1/24 served",
        "PostUp 2 wg0 wg0 UNKNOWN 10.9.0.1/24 served",
        "PreDown 1 wg0 wg0 UNKNOWN 10.9.0.1/24 served",
        "PreDown 2 wg0 wg0 UNKNOWN 10.9.0.1/24 served",
        "PostDown 1 wg0",
        "PostDown 2 wg0",
    ]
    assert up.stderr.count("[#] echo") == 4
    assert down.stderr == ""


def test_a_hook_is_in_no_directory_of_ours_and_has_nothing_of_ours(
    machine: Machine, story: Path
) -> None:
    show = "pwd; umask; ls -l /proc/self/fd | grep -c 'tun\\|wireguard\\|socket'"
    show += "; readlink /proc/self/fd/0"
    machine.environment |= {"NOTIFY_SOCKET": "/nowhere", "LISTEN_FDS": "1"}
    write(machine, f"PostUp = ({show}; env) > {story}")

    machine.nvpn("up", "wg0.conf")

    told = lines(story)
    assert told[:4] == ["/", "0022", "0", "/dev/null"]
    names = {line.partition("=")[0] for line in told[4:]}
    assert "PATH" in names
    assert not names & {"NOTIFY_SOCKET", "LISTEN_FDS"}


def test_a_private_key_may_come_from_a_hook(machine: Machine) -> None:
    key = machine.etc / "key"
    key.write_text(machine.key.reveal_base64() + "\n")
    command = " ".join(machine.argv("set", "%i", "private-key", str(key))[4:])
    write(machine, f"PostUp = {command}", text=WITHOUT_KEY)

    machine.nvpn("up", "wg0.conf")

    assert machine.record()[0][1] == machine.public_key


@pytest.mark.parametrize("kind", ["PreUp", "PostUp"])
def test_one_that_fails_fails_the_start_and_leaves_nothing(
    machine: Machine, story: Path, kind: str
) -> None:
    write(
        machine,
        f"{kind} = true",
        f"{kind} = echo about to fail; echo no such thing >&2; exit 3",
        f"{kind} = echo never > {story}",
        f"PreDown = echo PreDown >> {story}",
        f"PostDown = echo PostDown >> {story}",
        "# nvpn: kill_switch = true",
        text=CONFIG.replace("10.20.0.0/16", "0.0.0.0/0, ::/0"),
    )
    before = machine.outside()

    up = machine.nvpn("up", "wg0.conf", status=1)

    assert up.stderr.splitlines()[-1] == (
        f"error: cannot run {kind} hook 2 of wg0: exit status 3; no such thing"
    )
    assert machine.is_clean()
    assert machine.outside() == before
    # What PostUp hooks had begun with, PostDown hooks end.
    assert lines(story) == (["PostDown"] if kind == "PostUp" else [])


def test_one_that_fails_at_the_end_is_told_and_keeps_nothing_up(
    machine: Machine, story: Path
) -> None:
    write(
        machine,
        "PreDown = echo broken; exit 4",
        f"PreDown = echo PreDown >> {story}",
        "PostDown = exit 5",
        f"PostDown = echo PostDown >> {story}",
    )
    machine.nvpn("up", "wg0.conf")

    down = machine.nvpn("down", "wg0")

    # Once the socket is gone nobody is there to tell of PostDown: that is in the log.
    assert down.stderr == "warning: cannot run PreDown hook 1 of wg0: exit status 4; broken\n"
    assert lines(story) == ["PreDown", "PostDown"]
    assert machine.is_clean()


def test_a_signal_ends_a_hook_with_all_that_it_started(machine: Machine, story: Path) -> None:
    write(machine, f"PostUp = echo $$ > {story}; sleep 1000 | sleep 1000")
    process = machine.start("up", "-f", "wg0.conf")
    wait_until(lambda: lines(story) != [], 30, "the hook runs")
    group = int(lines(story)[0])

    began = time.monotonic()
    process.terminate()

    assert process.wait(30) == 0
    assert time.monotonic() - began < 3
    assert machine.is_clean()
    wait_until_none_lives(group)


def test_the_interface_deleted_ends_it_without_predown_but_with_postdown(
    machine: Machine, story: Path
) -> None:
    write(machine, f"PreDown = echo PreDown >> {story}", f"PostDown = echo PostDown >> {story}")
    process = machine.start("up", "-f", "wg0.conf")
    machine.wait_until_ready(process)

    machine.host.run("ip", "link", "delete", "wg0")

    assert process.wait(30) == 0
    assert lines(story) == ["PostDown"]


def test_what_they_print_is_told_but_commands_only_to_who_starts_the_tunnel(
    machine: Machine, story: Path
) -> None:
    go_on = machine.directory / "go-on"
    waiting = f"while ! test -e {go_on}; do sleep 0.02; done"
    lasting = f"({waiting}; echo later; echo lives > {story}) & echo now"
    write(
        machine,
        "PreUp = echo one; echo two >&2; printf three",
        f"PostUp = {lasting}",
        "PreDown = : my-secret; echo said",
    )
    process = machine.start("up", "-f", "wg0.conf")
    # What a hook leaves in the background does not hold it up, lives, and may write.
    output = machine.wait_until_ready(process)
    go_on.touch()
    wait_until(lambda: lines(story) == ["lives"], 30, "it lives")

    process.terminate()
    assert process.stdout is not None
    later = process.stdout.read()
    assert process.wait(30) == 0

    shown = [line for line in output.splitlines() if " INFO " not in line and "wg0:" not in line]
    assert shown[:5] == [
        "[#] echo one; echo two >&2; printf three",
        "one",
        "two",
        "three",
        f"[#] {lasting}",
    ]
    assert output.index("now") < output.index("ready")
    assert "later" in later
    assert "PreDown hook 1" in later
    assert "said" in later
    assert "my-secret" not in output + later


def test_what_a_hook_says_is_in_no_arguments_and_in_no_childs_environment(
    machine: Machine, story: Path
) -> None:
    look = f"{{ tr '\\0' ' ' < /proc/$$/cmdline; env; }} > {story}"
    write(machine, f"PostUp = secret=my-secret; {look}")

    up = machine.nvpn("up", "wg0.conf")
    machine.nvpn("down", "wg0")

    assert up.returncode == 0
    assert "PATH=" in story.read_text()
    assert "my-secret" not in story.read_text()


def test_a_second_signal_does_not_wait_for_predown(machine: Machine, story: Path) -> None:
    write(
        machine,
        f"PreDown = echo $$ > {story}; sleep 1000",
        f"PostDown = echo PostDown >> {story}",
    )
    process = machine.start("up", "-f", "wg0.conf")
    machine.wait_until_ready(process)
    process.terminate()
    wait_until(lambda: lines(story) != [], 30, "the hook runs")
    assert machine.has_link()

    process.terminate()

    assert process.wait(30) == 0
    assert machine.is_clean()
    group, last = lines(story)
    assert last == "PostDown"
    wait_until_none_lives(int(group))
