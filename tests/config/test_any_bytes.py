"""A file may hold anything: it is read, or its mistakes are told, and nothing else happens."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvpn.config.load import examine

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    path.suffix: path.read_bytes()
    for path in (ROOT / "conf.d" / "leases.toml", ROOT / "conf.d" / "wg-quick.conf")
}
SPLINTERS = [
    b"", b"\x00", b"\xff", b"\n", b"\r", b'"', b"'''", b"[", b"]", b"[[peer]]", b"[peer]", b"{",
    b"}", b"=", b"#", b".", b",", b" = 1979-05-27\n", b"\\u00e9", b"9" * 5000, b"0x" + b"f" * 5000,
    b"nan", b"peer = 3\n", b"interface.x.y = 1\n", b"Address=\n", b"%", b"\xe2\x80\xae", b"inf",
    b"1e999", b"[Interface]\n", b"\n# nvpn: workers = 4\n", b"\n# nvpn: endpoint = a:1\n",
    b"DNS = 1\n", b"dns = ['a', 1.5]\n", b"table = 9\n", b"Table = 0x\n", b"post_up = [[]]\n",
    b"[server]\n", b"[[server]]\n", b"server.pool = 1\n", b"reservation = 1\n",
    b"\n[[server.reservation]]\n", b"address = ''\n", b"pool = '10.0.0.0/8'\n",
    b"etcd = 'http://['\n", b"etcd = 'http://a:b@c:1'\n", b"store = 'etcd'\n",
    b"etcd_ca = '.'\n", b"\n[resilience]\njitter = nan\n", b"lease_time = -1\n",
    b"allowed_ports = [1, '', 1.5]\n", b"\n[metrics]\nlisten = '[::]:1'\n",
    b"endpoints = ''\n", b"Endpoint = a..b:1\n", "Endpoint = ß.é:1\n".encode(),
]  # fmt: skip


@pytest.mark.parametrize("suffix", sorted(EXAMPLES))
@settings(max_examples=400, deadline=None)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, 1000), st.integers(0, 30), st.sampled_from(SPLINTERS)),
        min_size=1,
        max_size=4,
    )
)
def test_a_damaged_file_is_read_or_refused(
    suffix: str, cuts: list[tuple[int, int, bytes]]
) -> None:
    data = EXAMPLES[suffix]
    for at, length, splinter in cuts:
        at %= len(data) + 1
        data = data[:at] + splinter + data[at + length :]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, f"wg0{suffix}")
        path.write_bytes(data)
        examination = examine(path)
    assert (examination.config is None) is bool(examination.problems)
    for problem in examination.problems:
        assert str(problem).startswith(str(path))
        assert str(problem).isprintable()
        assert problem.line is None or 1 <= problem.line <= data.count(b"\n") + 1
