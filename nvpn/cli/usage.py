"""How help and usage errors look: the same for every verb, whoever wrote it.

A verb's module only adds its arguments; headings, examples, colours and the sentence for
a mistake come from here.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, Final, NoReturn

from nvpn.cli import paint
from nvpn.cli.output import write_complaint, write_output
from nvpn.cli.verbs import GROUPS, Verb, closest

USAGE_ERROR: Final = 2
"""The exit status of a command line that makes no sense."""

# What argparse says, on all Pythons that we serve.
_UNRECOGNIZED: Final = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
_MISSING: Final = re.compile(r"the following arguments are required: (?P<what>.*)")
_NO_VALUE: Final = re.compile(r"argument (?P<option>\S+): expected one argument")
_BAD_CHOICE: Final = re.compile(
    r"argument (?P<option>\S+): invalid choice: (?P<value>.*) \(choose from (?P<choices>.*)\)",
    re.DOTALL,
)
_NEEDLESS_VALUE: Final = re.compile(
    r"argument (?P<option>\S+): ignored explicit argument .*", re.DOTALL
)
_EXCLUSIVE: Final = re.compile(
    r"argument (?P<option>\S+): not allowed with argument (?P<other>\S+)"
)
_BAD_VALUE: Final = re.compile(r"argument (?P<option>-\S+): (?P<reason>expected .*)")

_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/]{40}")

_TAGLINE: Final = "A WireGuard VPN: one file, one command on each host."


def print_error(message: str, *, tip: str = "") -> None:
    """``error: …`` on standard error, with an optional tip below."""
    on = paint.wants_colour(sys.stderr)
    text = f"{paint.paint('error', paint.ERROR, on=on)}: {message}\n"
    if tip:
        text += f"\n  {paint.paint('tip', paint.HEADING, on=on)}: {tip}\n"
    write_complaint(text)


def print_usage_error(message: str, *, tip: str = "", usage: str = "", command: str = "") -> None:
    """A usage error: what is wrong, a tip, how it goes, where there is more."""
    on = paint.wants_colour(sys.stderr)
    print_error(message, tip=tip)
    text = ""
    if usage:
        text += f"\n{paint.paint('Usage:', paint.HEADING, on=on)} {usage}\n"
    asked = paint.paint(f"{command or 'nvpn'} --help", paint.LITERAL, on=on)
    text += f"\nFor more information, try '{asked}'.\n"
    write_complaint(text)


def quoted(word: str) -> str:
    """A word of the command line, to be repeated; unless it could be a key."""
    return "(not repeated: it may be a key)" if _LIKE_A_KEY.search(word) else f"'{word}'"


def general_help(*, colour: bool) -> str:
    """The text of ``nvpn --help``."""

    def heading(text: str) -> str:
        return paint.paint(text, paint.HEADING, on=colour)

    def literal(text: str) -> str:
        return paint.paint(text, paint.LITERAL, on=colour)

    lines = [
        _TAGLINE,
        "",
        f"{heading('Usage:')} {literal('nvpn')} COMMAND [OPTIONS]",
        f"       {literal('nvpn')} [-f] INTERFACE",
    ]
    for group in GROUPS:
        lines += ["", heading(f"{group.title}:")]
        lines += [f"  {literal(f'{verb.name:8}')} {verb.summary}" for verb in group.verbs]
    lines += [
        "",
        heading("Options:"),
        f"  {literal('-h')}, {literal('--help')}     Show this help",
        f"  {literal('-V')}, {literal('--version')}  Show the version",
        "",
        f"Use '{literal('nvpn help COMMAND')}' for more about a command; "
        f"'{literal('man nvpn')}' has it all.",
        f"New here? '{literal('nvpn demo')}' shows a tunnel at work.",
        "",
    ]
    return "\n".join(lines)


class Parser(argparse.ArgumentParser):
    """argparse with our headings, our errors and no abbreviations."""

    def __init__(self, verb: Verb, *, prog: str) -> None:
        super().__init__(
            prog=prog,
            description=verb.description or f"{verb.summary}.",
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self._verb = verb
        self._positionals.title = "Arguments"
        self._optionals.title = "Options"
        self.add_argument("-h", "--help", action="help", help="Show this help")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and exit with 2."""
        message, tip = self._reword(message)
        usage = self.format_usage().removeprefix("Usage: ").rstrip()
        print_usage_error(message, tip=tip, usage=usage, command=self.prog)
        sys.exit(USAGE_ERROR)

    def format_help(self) -> str:
        """argparse's help, and examples below it."""
        text = super().format_help()
        if self._verb.examples:
            width = max(len(command) for command, _ in self._verb.examples)
            text += "\nExamples:\n"
            for command, purpose in self._verb.examples:
                text += f"  {command:{width}}  {purpose}\n"
        return text

    def print_help(self, file: Any = None) -> None:
        """Print the help, with colours on a terminal."""
        stream = sys.stdout if file is None else file
        text = self.format_help()
        if paint.wants_colour(stream):
            text = _colour_help(text)
        if stream is sys.stdout:
            write_output(text)
        else:
            stream.write(text)

    def _reword(self, message: str) -> tuple[str, str]:
        """argparse's sentence as ours, and a tip when we have one."""
        if found := _UNRECOGNIZED.fullmatch(message):
            return self._unexpected(found["words"].split()[0])
        if found := _MISSING.fullmatch(message):
            return f"{found['what']} is missing", ""
        if found := _NO_VALUE.fullmatch(message):
            return f"'{found['option']}' needs a value", ""
        if found := _NEEDLESS_VALUE.fullmatch(message):
            return f"'{found['option']}' takes no value", ""
        if found := _BAD_CHOICE.fullmatch(message):
            choices = found["choices"].replace("'", "")
            return f"'{found['option']}' cannot be {found['value']}", f"it may be {choices}"
        if found := _EXCLUSIVE.fullmatch(message):
            return f"{found['option']} does not go with {found['other']}", ""
        if found := _BAD_VALUE.fullmatch(message):
            return f"'{found['option']}': {found['reason']}", ""
        return message, ""

    def _unexpected(self, word: str) -> tuple[str, str]:
        if not word.startswith("-"):
            return f"unexpected argument {quoted(word)}", ""
        option = word.partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        guess = closest(option, [name for name in known if name.startswith("--")])
        tip = f"there is a similar option: '{guess}'" if guess else ""
        return f"unexpected option {quoted(option)}", tip


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Headings with a capital, wide option column, metavar once."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=_help_width())

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, "Usage: " if prefix is None else prefix)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {metavar}"


def _help_width() -> int:
    """Columns for help: the terminal's, within reason. (argparse would import shutil.)"""
    try:
        columns = int(os.environ.get("COLUMNS") or os.get_terminal_size().columns or 80)
    except (ValueError, OSError):
        columns = 80
    return min(max(columns - 2, 40), 98)


def _colour_help(text: str) -> str:
    """Headings and the words to type stand out."""
    lines = []
    section = ""
    for line in text.split("\n"):
        painted = line
        if line.startswith("Usage: "):
            painted = paint.paint("Usage:", paint.HEADING, on=True) + line[6:]
        elif line.endswith(":") and line[:1].isupper():
            section = line
            painted = paint.paint(line, paint.HEADING, on=True)
        elif section and line.startswith("  ") and line[2:3].strip():
            words, gap, rest = line[2:].partition("  ")
            painted = f"  {paint.paint(words, paint.LITERAL, on=True)}{gap}{rest}"
        lines.append(painted)
    return "\n".join(lines)
