"""TOML text into plain values, or what is wrong with it in our own words."""

from __future__ import annotations

import re
from typing import Any, Final

import tomli

from nvpn.config.files import TextFile
from nvpn.config.findings import Findings, Place
from nvpn.config.locate import locate

# What tomli says, by its beginning, and what we say. Its own texts can repeat keys of
# the document, ours cannot.
_SYNTAX: Final = (
    ("Expected newline or end of document", "expected the end of the line after the value"),
    ("Expected '=' after a key", "expected = after the key"),
    ("Expected ']", "expected ] at the end of the section's name"),
    ("Invalid statement", "expected a section such as [interface], or key = value"),
    ("Invalid value", "expected a value, such as a number or a text in quotes"),
    ("Invalid initial character", "expected the name of a key"),
    ("Unterminated string", "expected the closing quote of a text"),
    ("Expected '\"", "expected the closing quote of a text"),
    ('Expected "', "expected the closing quote of a text"),
    ("Unclosed array", "expected a comma or ] in a list"),
    ("Unclosed inline table", "expected a comma or } in a table"),
    ("Illegal character '\\n'", "expected the closing quote of a text on the same line"),
    ("Found invalid character '\\n'", "expected the closing quote of a text on the same line"),
    ("Illegal character", "found a control character"),
    ("Found invalid character", "found a control character"),
    ("Unescaped '\\'", "found a \\ that escapes nothing; write \\\\, or use 'single quotes'"),
    ("Invalid hex value", "expected hexadecimal digits in an escape"),
    ("Escaped character", "found an escape for a character that does not exist"),
    ("Invalid date", "expected a valid date or time"),
    ("Cannot declare", "the same section stands there twice"),
    ("Cannot overwrite", "the same key stands there twice"),
    ("Duplicate inline table key", "the same key stands there twice"),
    ("Cannot redefine", "the same section stands there twice"),
    ("Cannot ", "a section or key adds to something that is complete already"),
)


def parse_document(source: TextFile, findings: Findings) -> dict[str, Any] | None:
    """What the file holds; None, with the mistake in ``findings``, if it is not TOML."""
    try:
        return tomli.loads(source.text)
    except RecursionError:
        findings.error(Place(source.name), "is nested too deeply")
    except ValueError as error:
        _report_syntax(source, str(error), findings)
    return None


def _report_syntax(source: TextFile, text: str, findings: Findings) -> None:
    at = re.search(r"\(at line (\d+), column (\d+)\)$", text)
    # At the end of the document it is too late to see where a quote is missing.
    line = int(at[1]) if at else locate(source.text).lost_on
    message = next((ours for theirs, ours in _SYNTAX if text.startswith(theirs)), "")
    where = f" (column {at[2]})" if at else ""
    findings.error(
        Place(source.name, line),
        f"is not valid TOML: {message or 'expected key = value'}{where}",
    )
