"""``nvpn export``: turn nvpn's file into one for wg-quick."""

from __future__ import annotations

import argparse

from nvpn.cli.import_file import read_file
from nvpn.cli.output import write_complaint
from nvpn.cli.secrets import add_output_argument, hand_over
from nvpn.config.load import list_files
from nvpn.config.to_conf import convert_toml, read_fragments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE|-, -o, --keep-files."""
    parser.add_argument("file", metavar="FILE", help="A .toml file; - is standard input")
    parser.add_argument(
        "--keep-files",
        action="store_true",
        help="Leave keys in their files, and have a PostUp command fetch them",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> int:
    """0 once it is written. Raises NvpnError."""
    main = read_file(args.file, ".toml")
    fragments = [] if args.file == "-" else list_files(main.path)[1:]
    converted = convert_toml(read_fragments(main, fragments), keep_files=args.keep_files)
    for warning in converted.warnings:
        write_complaint(f"warning: {warning}\n")
    hand_over(converted.text.removesuffix("\n"), args.output, what="configuration")
    return 0
