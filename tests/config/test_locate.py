from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import tomli
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.locate import locate


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif value != {} and value != []:
        yield path, value


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\n", ("a",), 1),
        ("\n# comment\n\na = 1", ("a",), 4),
        ("a = 1\r\n\r\nb = 2\r\n", ("b",), 3),
        ("[interface]\nmtu = 1", ("interface",), 1),
        ("[interface]\nmtu = 1", ("interface", "mtu"), 2),
        ("[[peer]]\n[[peer]]\nname = 'x'", ("peer", 0), 1),
        ("[[peer]]\n[[peer]]\nname = 'x'", ("peer", 1), 2),
        ("[[peer]]\n[[peer]]\nname = 'x'", ("peer", 1, "name"), 3),
        ("[[ peer ]] # c\n[ peer . sub ]\nb = 1", ("peer", 0, "sub", "b"), 3),
        ("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nc = 1", ("a", 0, "b", 1), 3),
        ("[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nc = 1", ("a", 1, "b", 0, "c"), 6),
        ("a = [\n 1,\n # [ no\n 2\n]", ("a", 0), 2),
        ("a = [\n 1,\n # [ no\n 2\n]", ("a", 1), 4),
        ("a = [ [1,\n2],\n [3]]", ("a", 0, 1), 2),
        ("a = [ [1,\n2],\n [3]]", ("a", 1, 0), 3),
        ('a = """\n]\n"""\nb = 1', ("b",), 4),
        ("a = '''\n'x''\n'''\nb = 1", ("b",), 4),
        ('a = """x""""\nb = 1', ("b",), 2),
        ('a = """x"""""\nb = 1', ("b",), 2),
        ("a = '''x'''''\nb = 1", ("b",), 2),
        ('a = """\\\n   x"""\nb = 1', ("b",), 3),
        ('a = """\\""""\nb = 1', ("b",), 2),
        ('a = "# \\" ["\nb = 1', ("b",), 2),
        ("a = 'C:\\'\nb = 1", ("b",), 2),
        ("a.b.c = 1\na.b.d = 2", ("a", "b", "d"), 2),
        ("a.b.c = 1\na.b.d = 2", ("a", "b"), 1),
        ("\"a.b\" . 'c d' = 1", ("a.b", "c d"), 1),
        ('\n"\\u0061\\t" = 1', ("a\t",), 2),
        ("a = { b = 1, c = { d = [ 2,\n 3 ] } }", ("a", "c", "d", 1), 2),
        ("peer = [\n {name='x'},\n {name='y'},\n]", ("peer", 1, "name"), 3),
        ("a = 1979-05-27 07:32:00 # date\nb = 1", ("b",), 2),
        ("a = [1979-05-27 07:32:00,\n true]", ("a", 1), 2),
        ("[a.b]\nx = 1\n[a]\ny = 1", ("a",), 3),
        ("1 = 1\n2.3 = 4", ("2", "3"), 2),
    ],
)
def test_things_are_found_where_they_are_written(
    text: str, path: tuple[str | int, ...], line: int
) -> None:
    tomli.loads(text)  # else the case itself is wrong
    assert locate(text)[path] == line


def test_what_is_not_written_is_found_where_its_parent_is() -> None:
    lines = locate("\n[interface]\n\n[[peer]]\nname = 'x'\n")
    assert lines[("peer", 0, "public_key")] == 4
    assert lines[("interface", "mtu", 3)] == 2
    assert lines[("nothing",)] is None


class Writer:
    """Writes a random document in which every leaf carries a word found nowhere else."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._marks = 0

    def document(self) -> str:
        lines = [f"{self.pair()}" for _ in range(self._random.randrange(3))]
        tables = [f"t{index}" for index in range(1 + self._random.randrange(4))]
        for table in tables:
            lines += self.section(table)
        self._random.random()
        newline = self._random.choice(["\n", "\r\n"])
        return newline.join("\n".join(lines).split("\n")) + self._random.choice(["", newline])

    def section(self, name: str) -> list[str]:
        lines = []
        quoted = self._random.choice([name, f'"{name}"', f"'{name}'"])
        if self._random.random() < 0.5:
            lines += [self.noise() + f"[ {quoted}]" + self.comment()]
            lines += [self.pair() for _ in range(self._random.randrange(4))]
            return lines
        for _ in range(1 + self._random.randrange(3)):
            lines += [self.noise() + f"[[{quoted} ]]" + self.comment()]
            lines += [self.pair() for _ in range(self._random.randrange(3))]
            for sub in range(self._random.randrange(2)):
                brackets = self._random.choice([("[", "]"), ("[[", "]]")])
                lines += [f"{brackets[0]}{quoted}.sub{sub}{brackets[1]}"]
                lines += [self.pair() for _ in range(self._random.randrange(3))]
        return lines

    def pair(self, depth: int = 0) -> str:
        lead = self.noise() if depth == 0 else ""
        return lead + f"{self.key()} = {self.value(depth)}" + (self.comment() if not depth else "")

    def key(self) -> str:
        parts = [f"k{self.mark()}"]
        if self._random.random() < 0.3:
            parts.append(self._random.choice(["x", '"y.z"', "'[w]'", '"q\\"\\u00e9"']))
        return self._random.choice([".", " . "]).join(parts)

    def value(self, depth: int) -> str:
        mark = f"m{self.mark()}"
        kinds = ["text", "literal", "long", "raw", "number"]
        kinds += ["list", "inline"] if depth < 3 else []
        kind = self._random.choice(kinds)
        if kind == "text":
            return f'"{mark} # \\" [ ]"'
        if kind == "literal":
            return f"'{mark} \\ = {{'"
        if kind == "long":
            tail = self._random.choice(["", '"'])
            return f'"""{mark} ""\n[not]\n# "x" \\"""\\\n  a = 1{tail}"""'
        if kind == "raw":
            return f"'''{mark} ''\n[[no]]\\\n]{self._random.choice(['', chr(39)])}'''"
        if kind == "number":
            return f"0x{int(mark[1:]):08x}"
        if kind == "inline":
            pairs = [self.pair(depth + 1) for _ in range(self._random.randrange(3))]
            return "{ " + ", ".join(pairs) + " }"
        gap = self._random.choice(["", "\n", "\n # , ]\n", " "])
        elements = [gap + self.value(depth + 1) for _ in range(self._random.randrange(4))]
        tail = self._random.choice([",", ""]) if elements else ""
        return "[" + ",".join(elements) + tail + gap + "]"

    def noise(self) -> str:
        return self._random.choice(["", "", "\n", "# note = [\n", " \t"])

    def comment(self) -> str:
        return self._random.choice(["", " # a = '", "\t#"])

    def mark(self) -> int:
        self._marks += 1
        return self._marks


def shown_on(line: str, value: Any) -> bool:
    if isinstance(value, int):
        return f"0x{value:08x}" in line
    return bool(value.split(" ")[0] in line.replace('"', " ").replace("'", " ").split(" "))


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32))
def test_every_value_of_any_document_is_on_the_line_that_is_told(seed: int) -> None:
    text = Writer(seed).document()
    document = tomli.loads(text)
    lines = locate(text)
    written = text.split("\n")
    for path, value in leaves(document):
        line = lines[path]
        assert line is not None, (seed, path)
        assert shown_on(written[line - 1], value), (seed, path, text)


values = st.recursive(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12),
        st.integers(-(2**62), 2**62),
        st.booleans(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(st.characters(codec="ascii"), max_size=6), inner, max_size=3),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="ascii"), max_size=6), values, max_size=5))
def test_every_part_of_a_document_that_tomlkit_writes_has_a_line_of_its_own(
    content: dict[str, Any],
) -> None:
    text = tomlkit.dumps(content)
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return  # tomlkit writes some control characters that TOML does not allow
    known = dict(locate(text).known())
    assert {path for path, _ in leaves(document)} <= set(known)
    assert all(1 <= line <= text.count("\n") + 1 for line in known.values())


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab=[]{}\"'#.,\\\n\r\t 0", max_size=60))
def test_no_text_at_all_makes_it_fail(text: str) -> None:
    for _, line in locate(text).known():
        assert 1 <= line <= text.count("\n") + 1


def test_nesting_without_end_is_survived() -> None:
    assert locate("a = " + "[" * 100_000)[("a",)] == 1


def test_a_text_of_megabytes_is_walked_over() -> None:
    text = 'a = """' + "x\\n\n" * 1_000_000 + '"""\nb = \'' + "y" * 1_000_000 + "'\nc = 1"
    assert locate(text)[("c",)] == 1_000_003
