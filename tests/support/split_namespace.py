"""Two tunnel devices in one network namespace, as if they belonged to two hosts."""

from __future__ import annotations

import socket
import subprocess


def ip(*command: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *command], check=True)


class SplitNamespace:
    """Addresses of two hosts in one namespace, whose packets to each other use the devices.

    The local table is asked after a rule that sends them into the tunnel, unless they
    have just come out of it.
    """

    def __init__(self, version: int) -> None:
        self.family = socket.AF_INET if version == 4 else socket.AF_INET6
        self.addresses = ("10.1.0.1", "10.2.0.2") if version == 4 else ("fd01::1", "fd02::2")
        flag = f"-{version}"
        for name, address in zip(("e4alice", "e4bob"), self.addresses, strict=True):
            for key in ("accept_local", "rp_filter"):
                with open(f"/proc/sys/net/ipv4/conf/{name}/{key}", "w") as setting:
                    setting.write("1" if key == "accept_local" else "0")
            extra = ["nodad"] if version == 6 else []
            ip(flag, "address", "add", address, "dev", name, *extra)
            ip("link", "set", name, "mtu", "1420", "up")
        with open("/proc/sys/net/ipv4/conf/all/rp_filter", "w") as setting:
            setting.write("0")
        ip(flag, "rule", "add", "pref", "10", "iif", "e4alice", "lookup", "local")
        ip(flag, "rule", "add", "pref", "11", "iif", "e4bob", "lookup", "local")
        ip(flag, "rule", "add", "pref", "20", "to", self.addresses[1], "lookup", "100")
        ip(flag, "rule", "add", "pref", "21", "to", self.addresses[0], "lookup", "101")
        ip(flag, "route", "add", "default", "dev", "e4alice", "table", "100")
        ip(flag, "route", "add", "default", "dev", "e4bob", "table", "101")
        ip(flag, "rule", "delete", "pref", "0")
        ip(flag, "rule", "add", "pref", "30", "lookup", "local")

    def listen(self) -> socket.socket:
        listener = socket.socket(self.family, socket.SOCK_STREAM)
        listener.bind((self.addresses[1], 5555))
        listener.listen()
        return listener

    def connect(self) -> socket.socket:
        client = socket.socket(self.family, socket.SOCK_STREAM)
        client.setblocking(False)
        client.bind((self.addresses[0], 0))
        try:
            client.connect((self.addresses[1], 5555))
        except BlockingIOError:
            pass
        return client
