"""``nvpn import``: turn a wg-quick file into nvpn's."""

from __future__ import annotations

import argparse
import sys

from nvpn.cli.output import write_complaint
from nvpn.cli.secrets import add_output_argument, hand_over
from nvpn.config.files import TextFile, read_config, read_stream
from nvpn.config.findings import Findings
from nvpn.config.load import find
from nvpn.config.to_toml import convert_conf
from nvpn.errors import ConfigError, ConfigErrors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE|-, -o, --strict."""
    parser.add_argument("file", metavar="FILE", help="A wg-quick .conf file; - is standard input")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="Exit status 1 if there is a key that nvpn does not know",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    """0 once it is written; 1 with ``--strict`` and unknown keys. Raises NvpnError."""
    converted = convert_conf(read_file(args.file, ".conf"))
    for warning in converted.warnings:
        write_complaint(f"warning: {warning}\n")
    if converted.warnings and args.strict:
        return 1
    hand_over(converted.text.removesuffix("\n"), args.output, what="configuration")
    return 0


def read_file(file: str, suffix: str) -> TextFile:
    """A file of this kind, or standard input. Raises ConfigError, ConfigErrors."""
    if file == "-":
        return read_stream(sys.stdin.buffer, suffix)
    path = find(file)
    if path.suffix != suffix:
        other = "nvpn export" if suffix == ".conf" else "nvpn import"
        hint = f"for the other way there is {other}"
        raise ConfigError(f"is no {suffix} file", file=str(path), hint=hint)
    findings = Findings()
    source = read_config(path, findings)
    if source is None:
        raise ConfigErrors(findings.problems)
    return source
