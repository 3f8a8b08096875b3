from __future__ import annotations

import ast
import os
import signal
import subprocess
import time
from importlib import import_module
from pathlib import Path

import pytest

from nvpn import __version__
from nvpn.cli import main as door
from nvpn.cli.verbs import GROUPS, VERBS, Verb
from nvpn.errors import ConfigError, ConfigErrors, PlatformError
from tests.support.cli import NVPN, clean_environment, here, nvpn, run, run_on_terminal


def test_help_names_every_verb_and_goes_to_standard_output() -> None:
    for arguments in (("--help",), ("-h",), ("help",), ("help", "help"), ("help", "--help")):
        done = nvpn(*arguments)
        assert (done.status, done.err) == (0, "")
        for group in GROUPS:
            assert f"\n{group.title}:\n" in done.out
            for verb in group.verbs:
                assert f"\n  {verb.name:8} {verb.summary}\n" in done.out


def test_help_fits_into_eighty_columns() -> None:
    assert max(map(len, nvpn("--help").out.splitlines())) <= 80


def test_without_arguments_help_is_an_answer_to_a_mistake() -> None:
    done = nvpn()
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("A WireGuard VPN")


@pytest.mark.parametrize("arguments", [("--version",), ("-V",), ("version",)])
def test_version_is_the_one_of_the_package(arguments: tuple[str, ...]) -> None:
    done = nvpn(*arguments)
    assert (done.status, done.out, done.err) == (0, f"nvpn {__version__}\n", "")


@pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])
def test_help_of_a_verb_has_usage_options_and_examples(
    verb: Verb, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, "help", verb.name)
    assert (done.status, done.err) == (0, "")
    assert done == here(capsys, verb.name, "--help")
    assert done.out.startswith(f"Usage: nvpn {verb.name}")
    assert verb.description in done.out
    assert "\nOptions:\n  -h, --help" in done.out
    for command, _ in verb.examples:
        assert f"\n  {command}" in done.out
    assert max(map(len, done.out.splitlines())) <= 90


def test_help_has_colours_on_a_terminal_and_none_for_no_color() -> None:
    assert b"\x1b[1;32mUsage:" in run_on_terminal(*NVPN, "--help")[1]
    assert b"\x1b[1;32mOptions:" in run_on_terminal(*NVPN, "show", "--help")[1]
    assert b"\x1b" not in run_on_terminal(*NVPN, "show", "--help", NO_COLOR="1")[1]
    assert b"\x1b" not in run_on_terminal(*NVPN, "--help", TERM="dumb")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence", "tip"),
    [
        (("shwo",), "unrecognized command 'shwo'", "did you mean 'nvpn show'?"),
        (("start",), "unrecognized command 'start'", "you may want 'nvpn up'"),
        (("clients",), "unrecognized command 'clients'", "you may want 'nvpn client list'"),
        (
            ("revoke", "x"),
            "unrecognized command 'revoke'",
            "you may want 'nvpn client revoke NAME'",
        ),
        (("wg0.toml",), "unrecognized command 'wg0.toml'", "'nvpn up wg0.toml'"),
        (("./wg0.conf",), "unrecognized command './wg0.conf'", "'nvpn up ./wg0.conf'"),
        (("an-endless-name-it-is",), "unrecognized command", "1 to 15 letters"),
        (("help", "shwo"), "unrecognized command 'shwo'", "did you mean 'nvpn show'?"),
        (("help", "nosuch"), "unrecognized command 'nosuch'", "nvpn COMMAND"),
        (("help", "start"), "unrecognized command 'start'", "you may want 'nvpn up'"),
        (("show", "--json=2"), "'--json' takes no value", ""),
        (("--plan",), "unexpected option '--plan'", ""),
        (("show", "--plan"), "unexpected option '--plan'", "'--plain'"),
        (("show", "--json", "--plain"), "--plain does not go with --json", ""),
        (("up",), "FILE|NAME is missing", ""),
        (
            ("up", "--log-level", "loud", "x"),
            "'--log-level' cannot be 'loud'",
            "it may be debug, ",
        ),
        (("up", "--log-level"), "'--log-level' needs a value", ""),
        (("up", "--log-levle=info", "x"), "unexpected option '--log-levle'", "'--log-level'"),
        (("show", "--json", "wg0", "dump"), "--json does not go with 'dump'", ""),
        (("show", "-v", "interfaces"), "--verbose does not go with 'interfaces'", ""),
        (("genkey", "wg0"), "unexpected argument 'wg0'", ""),
        (("genkey", "-o"), "'-o/--output' needs a value", ""),
        (("demo", "--seconds", "soon"), "'--seconds': expected seconds from 0.2 to 3600", ""),
    ],
)
def test_a_command_line_without_sense_gets_a_sentence_and_a_tip(
    arguments: tuple[str, ...], sentence: str, tip: str, capsys: pytest.CaptureFixture[str]
) -> None:
    done = here(capsys, *arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert sentence in done.err.splitlines()[0]
    assert tip in done.err
    assert "--help'.\n" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("verb", ["genkey", "pubkey", "up", "", "--"])
def test_what_may_be_a_key_is_not_repeated(verb: str) -> None:
    key = "q" * 43 + "="
    done = nvpn(*filter(None, (verb, "-x" if verb == "up" else "", key)))
    assert done.status == 2
    assert key[:20] not in done.err + done.out


def test_a_refused_name_says_how_to_force_it() -> None:
    assert "'nvpn device shwo'" in nvpn("shwo").err


# Which verb a first word leads to; nothing is run.
@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["wg0"], "nvpn"),
        (["-f", "wg0"], "nvpn"),
        (["--foreground", "wg0"], "nvpn"),
        (["office"], "nvpn"),
        (["up0"], "nvpn"),
        (["device", "show"], "nvpn device"),
        (["up", "wg0"], "nvpn up"),
        (["status"], "nvpn status"),
    ],
)
def test_a_first_word_finds_its_verb(
    argv: list[str], program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []

    def run_verb(verb: Verb, rest: list[str], *, prog: str) -> int:
        chosen.append((verb.name, rest, prog))
        return 0

    monkeypatch.setattr(door, "_run", run_verb)
    assert door.main(argv) == 0
    (verb, rest, prog) = chosen[0]
    assert prog == program
    if program == "nvpn":
        assert (verb, rest) == ("device", argv)


def test_under_wg_quick_every_name_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(door, "_run", lambda *args, **kwargs: chosen.append(args[1]) or 0)
    monkeypatch.setattr("sys.argv", ["/usr/bin/nvpn", "town"])
    assert door.main(["town"]) == 2
    monkeypatch.setenv("WG_QUICK_USERSPACE_IMPLEMENTATION", "nvpn")
    assert door.main(["town"]) == 0
    assert chosen == [["town"]]


class _Verb:
    """Stands in for a verb's module, to fail in every way."""

    def __init__(self, failure: BaseException) -> None:
        self._failure = failure

    def add_arguments(self, parser: object) -> None:
        pass

    def run(self, args: object) -> int:
        raise self._failure


def _run_failing(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(door, "import_module", lambda name: _Verb(failure))
    return door.main(["show"])


def test_our_own_errors_are_a_sentence_each_and_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "needs CAP_NET_ADMIN; try: sudo nvpn up wg0.toml"
    failure = PlatformError("create TUN device wg0", errno=1, hint=hint)
    assert _run_failing(failure, monkeypatch) == 1
    expected = f"error: cannot create TUN device wg0: Operation not permitted; {hint}\n"
    assert capsys.readouterr().err == expected


def test_all_mistakes_of_a_file_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ConfigError("is missing", file="wg0.toml", key="interface")
    second = ConfigError("is unknown", file="wg0.toml", line=3, key="peer[1].endpiont")
    assert _run_failing(ConfigErrors((first, second)), monkeypatch) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: wg0.toml: interface: is missing",
        "error: wg0.toml:3: peer[1].endpiont: is unknown",
    ]


def test_a_bug_of_ours_shows_its_place_but_no_text_that_may_hold_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_failing(KeyError("s3cret"), monkeypatch) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: nvpn ran into a bug of its own: KeyError at main.py:")
    assert "NVPN_DEBUG=1" in said
    assert "s3cret" not in said
    assert "Traceback" not in said


def test_a_bug_of_ours_raises_for_those_who_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVPN_DEBUG", "1")
    with pytest.raises(KeyError):
        _run_failing(KeyError("x"), monkeypatch)


def test_an_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run_failing(KeyboardInterrupt(), monkeypatch) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_that_goes_away_is_no_reason_to_complain() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*NVPN, "--help"],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        timeout=60,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_a_failure() -> None:
    for arguments in ("--help", "genkey", "--version"):
        done = run("sh", "-c", f"{' '.join(NVPN)} {arguments} >/dev/full")
        assert done.status == 1
        assert done.err == "error: cannot write to standard output: No space left on device\n"


def test_closed_streams_are_borne() -> None:
    program = " ".join(NVPN)
    assert run("sh", "-c", f"{program} shwo 2>&-").status == 2
    assert run("sh", "-c", f"{program} pubkey </dev/null 2>&-").status == 1
    done = run("sh", "-c", f"{program} pubkey <&-")
    assert done.err == "error: cannot read the private key: Bad file descriptor\n"
    done = run("sh", "-c", f"{program} genkey >&-")
    assert done.status == 1
    assert done.err == "error: cannot write to standard output: Bad file descriptor\n"


def test_control_c_ends_a_waiting_verb_with_130() -> None:
    process = subprocess.Popen(
        [*NVPN, "pubkey"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )
    # It is reading once it sleeps in the pipe it was given.
    wait_channel = Path(f"/proc/{process.pid}/wchan")
    deadline = time.monotonic() + 30
    while "pipe" not in wait_channel.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaint == b""


def test_verbs_are_imported_only_when_chosen() -> None:
    loaded = run(
        NVPN[0],
        "-c",
        "import sys; from nvpn.cli.main import main; main(['--version']); "
        "print(*sorted(name for name in sys.modules if name.startswith('nvpn.')))",
    )
    allowed = {"main", "output", "paint", "usage", "verbs"}
    modules = loaded.out.splitlines()[-1].split()
    assert {name.split(".")[2] for name in modules if name.startswith("nvpn.cli.")} <= allowed
    assert "nvpn.daemon" not in modules


@pytest.mark.parametrize("verb", VERBS, ids=[verb.name for verb in VERBS])
def test_every_verb_has_the_two_functions(verb: Verb) -> None:
    module = import_module(verb.module)
    source = ast.parse(Path(str(module.__file__)).read_text())
    names = {node.name for node in source.body if isinstance(node, ast.FunctionDef)}
    assert {"add_arguments", "run"} <= names
