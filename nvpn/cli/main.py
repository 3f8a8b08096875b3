"""The door: finds the verb, imports it alone, and gives every failure one sentence.

Exit status: 0 done, 1 failed (the sentence is on standard error), 2 a command line that
makes no sense, 130 interrupted, 141 the reader of our output went away.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Final

from nvpn.cli import usage
from nvpn.cli.output import (
    OutputError,
    flush_output,
    prepare_output,
    write_complaint,
    write_output,
)
from nvpn.cli.paint import wants_colour
from nvpn.cli.verbs import FOREIGN_WORDS, Verb, closest, find_verb, verb_words
from nvpn.errors import ConfigErrors, NvpnError
from nvpn.model.interface_name import NAME_RULE, is_interface_name

FAILED: Final = 1
INTERRUPTED: Final = 130
NOBODY_READS: Final = 141

_ABOUT_ALL: Final = ("-h", "--help", "help")
_USAGE: Final = "nvpn COMMAND [OPTIONS]"


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status.

    With NVPN_DEBUG set, an unexpected exception is shown with its traceback.
    """
    try:
        prepare_output()
        status = _dispatch(sys.argv[1:] if argv is None else argv)
        flush_output()
    except BrokenPipeError:
        return _nobody_reads()
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as leaving:
        return _status_of(leaving)
    except OutputError as error:
        _discard_output()
        usage.print_error(str(error))
        return FAILED
    except NvpnError as error:
        _print_failure(error)
        return FAILED
    except Exception as error:
        if os.environ.get("NVPN_DEBUG"):
            raise
        return _report_surprise(error)
    return status


def _dispatch(argv: list[str]) -> int:
    if not argv:
        write_complaint(usage.general_help(colour=wants_colour(sys.stderr)))
        return usage.USAGE_ERROR
    word, rest = argv[0], argv[1:]
    if word == "help" and rest and rest[0] not in _ABOUT_ALL:
        return _help_about(rest[0])
    if word in _ABOUT_ALL:
        write_output(usage.general_help(colour=wants_colour(sys.stdout)))
        return 0
    if word in ("-V", "--version", "version"):
        from nvpn import __version__

        write_output(f"nvpn {__version__}\n")
        return 0
    verb = find_verb(word)
    if verb is not None:
        return _run(verb, rest, prog=f"nvpn {word}")
    if word in ("-f", "--foreground"):
        return _run_device(argv)
    if word.startswith("-"):
        usage.print_usage_error(f"unexpected option {usage.quoted(word)}", usage=_USAGE)
        return usage.USAGE_ERROR
    refusal = _why_no_interface(word)
    if refusal is not None:
        message, tip = refusal
        usage.print_usage_error(message, tip=tip, usage=_USAGE)
        return usage.USAGE_ERROR
    return _run_device(argv)


def _run(verb: Verb, argv: list[str], *, prog: str) -> int:
    module = import_module(verb.module)
    parser = usage.Parser(verb, prog=prog)
    module.add_arguments(parser)
    status: int = module.run(parser.parse_args(argv))
    return status


def _help_about(word: str) -> int:
    verb = find_verb(word)
    if verb is not None:
        return _run(verb, ["--help"], prog=f"nvpn {word}")
    message = f"unrecognized command {usage.quoted(word)}"
    usage.print_usage_error(message, tip=_suggestion(word), usage=_USAGE)
    return usage.USAGE_ERROR


def _run_device(argv: list[str]) -> int:
    verb = find_verb("device")
    assert verb is not None
    return _run(verb, argv, prog="nvpn")


def _why_no_interface(word: str) -> tuple[str, str] | None:
    """Why a first word that is no verb is no interface either: a message and a tip.

    None: make the interface, as wireguard-go would. A slip of the fingers must not, so
    what looks like a verb is refused. A digit says that it is meant as a name, and so
    does wg-quick when it runs us.
    """
    message = f"unrecognized command {usage.quoted(word)}"
    if word.endswith((".toml", ".conf")):
        return message, f"to bring up a tunnel from a file: 'nvpn up {word}'"
    may_be_name = is_interface_name(word)
    if may_be_name and (any(char.isdigit() for char in word) or _is_called_by_wg_quick()):
        return None
    tip = _suggestion(word)
    if not tip and may_be_name:
        return None
    if not tip:
        return message, f"an interface name has {NAME_RULE}"
    return message, f"{tip} (to make an interface: 'nvpn device {word}')" if may_be_name else tip


def _suggestion(word: str) -> str:
    """What somebody who typed this word may have meant; empty without an idea."""
    known = FOREIGN_WORDS.get(word.lower())
    if known:
        return f"you may want '{known}'"
    guess = closest(word, verb_words())
    return f"did you mean 'nvpn {guess}'?" if guess else ""


def _is_called_by_wg_quick() -> bool:
    """wg-quick(8) passes its environment on; people keep this variable for it alone."""
    program = os.environ.get("WG_QUICK_USERSPACE_IMPLEMENTATION", "")
    return bool(program) and os.path.basename(program) == os.path.basename(sys.argv[0])


def _print_failure(error: NvpnError) -> None:
    problems = error.problems if isinstance(error, ConfigErrors) else (error,)
    for problem in problems:
        usage.print_error(str(problem))


def _report_surprise(error: Exception) -> int:
    """A bug of ours: its place, but not its text, which might hold anything."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if f"{os.sep}nvpn{os.sep}" in code.co_filename:
            place = f" at {os.path.basename(code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    if isinstance(error, OSError) and error.errno:
        what = f"{type(error).__name__}, {os.strerror(error.errno)}"
    else:
        what = type(error).__name__
    usage.print_error(
        f"nvpn ran into a bug of its own: {what}{place}",
        tip="set NVPN_DEBUG=1 to see the whole traceback, and please report it",
    )
    return FAILED


def _nobody_reads() -> int:
    _discard_output()
    return NOBODY_READS


def _discard_output() -> None:
    # What is still buffered goes nowhere, or the interpreter would complain at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _status_of(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    usage.print_error(str(leaving.code))
    return FAILED
