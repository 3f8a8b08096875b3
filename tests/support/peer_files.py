"""Configurations with a peer in them, as `nvpn peer` finds and changes them."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from nvpn.cli.main import main
from nvpn.config.load import load
from nvpn.config.model import TunnelConfig
from nvpn.model.keys import PrivateKey
from tests.support.cli import Done, nvpn

OURS = PrivateKey(bytes(range(32)))
BOB = PrivateKey(bytes(range(1, 33))).public().base64
NEW = PrivateKey(bytes(range(2, 34))).public().base64

TOML = f"""\
# our tunnel
[interface]   # here
private_key = "{OURS.reveal_base64()}"
address = ["10.8.0.1/24", "fd08::1/64"]
listen_port = 51820

# Bob's laptop,
# since spring
[[peer]]
name = "bob"
public_key = '{BOB}'
allowed_ips = [
    "10.8.0.2/32",   # the only one
]

# the end
"""
CONF = f"""\
# our tunnel
[Interface]
PrivateKey={OURS.reveal_base64()}
Address = 10.8.0.1/24, fd08::1/64
ListenPort = 51820

# Bob's laptop
[peer]
publickey = {BOB}
AllowedIPs = 10.8.0.2/32   # the only one
# the end
"""
TEXTS = {"wg7.toml": TOML, "wg7.conf": CONF}


@dataclass
class Place:
    """A directory with a configuration; no tunnel is up here."""

    directory: Path
    file: Path

    def peer(self, *arguments: str, stdin: str | None = None) -> Done:
        if stdin is not None:
            return nvpn("peer", *arguments, stdin=stdin)
        # In this process, which is ten times as quick.
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["peer", *arguments])
        texts = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            texts.append(stream.read())
        return Done(status, *texts)

    def add(self, *arguments: str) -> Done:
        return self.peer("add", *arguments, "-i", str(self.file))

    def client(self, *arguments: str) -> TunnelConfig:
        """The configuration that ``add`` printed, as it is read."""
        done = self.add(*arguments)
        assert (done.status, done.err) == (0, "")
        file = self.directory / "client.conf"
        file.write_text(done.out)
        file.chmod(0o600)
        return load(file)


def make(directory: Path, name: str) -> Place:
    file = directory / name
    file.write_text(TEXTS[name])
    file.chmod(0o600)
    return Place(directory, file)
