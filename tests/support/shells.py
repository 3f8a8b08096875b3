"""What a shell offers for a line that was typed so far."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.support.cli import ROOT

COMPLETIONS = ROOT / "completions"

_BASH = """
source "$1"
COMP_LINE=$2 COMP_POINT=${#2}
_nvpn nvpn "$3" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""

# The line is typed into a shell on a terminal of its own. What compadd would offer there goes
# to a file, the marker last.
_ZSH_INSIDE = """
PROMPT= RPROMPT=
autoload -Uz compinit && compinit -C -d "$NVPN_DUMP"
source "$NVPN_COMPLETION"
zstyle ':completion:*' menu no
compadd() {
    local -a hits
    if [[ ${@[1,(i)(-|--)]} != *-(O|A|D)\\ * ]]; then
        builtin compadd -A hits "$@"
        (( ${#hits} )) && print -rl -- $hits >>"$NVPN_OFFERED"
    fi
    builtin compadd "$@"
}
offer() { zle complete-word; print -r -- '(end)' >>"$NVPN_OFFERED"; exit }
zle -N offer
zle -C complete-word complete-word _main_complete
bindkey '^I' offer
"""
_ZSH = """
zmodload zsh/zpty
zpty shell 'zsh -f -i'
zpty -w shell 'source "$NVPN_INSIDE"'
zpty -w -n shell "$NVPN_LINE"$'\\t'
repeat 1000; do
    grep -q '(end)' "$NVPN_OFFERED" 2>/dev/null && break
    sleep 0.02
done
zpty -d shell
"""


def bash(line: str, environment: dict[str, str], directory: Path) -> set[str]:
    """The whole words that bash offers, a directory without its slash."""
    # What readline takes for the word: it cuts at these as well.
    current = re.split(r"[\s=:]", line)[-1]
    printed = _run(
        ["bash", "--norc", "-c", _BASH, "bash", str(COMPLETIONS / "nvpn"), line, current],
        environment,
        directory,
    )
    return set(filter(None, printed.splitlines()))


def zsh(line: str, environment: dict[str, str], directory: Path) -> set[str]:
    """The words that zsh offers. $NVPN_DUMP is a file for what it finds out at its start."""
    inside, offered = directory / ".inside.zsh", directory / ".offered"
    inside.write_text(_ZSH_INSIDE)
    offered.unlink(missing_ok=True)
    ours = {
        "NVPN_COMPLETION": str(COMPLETIONS / "_nvpn"),
        "NVPN_INSIDE": str(inside),
        "NVPN_OFFERED": str(offered),
        "NVPN_LINE": line,
        "TERM": "dumb",
    }
    _run(["zsh", "-f", "-c", _ZSH], {**environment, **ours}, directory)
    words = offered.read_text().splitlines()
    assert words[-1] == "(end)"
    return {word.rstrip() for word in words[:-1]}


def fish(line: str, environment: dict[str, str], directory: Path) -> set[str]:
    """The words that fish offers, without what it says about them."""
    script = f"source {COMPLETIONS / 'nvpn.fish'}; complete -C $argv[1]"
    # fish makes a history and more in a home directory.
    ours = {"HOME": str(directory), "TERM": "dumb"}
    printed = _run(["fish", "--no-config", "-c", script, line], {**environment, **ours}, directory)
    return {text.split("\t")[0] for text in printed.splitlines()}


def _run(command: list[str], environment: dict[str, str], directory: Path) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return done.stdout
