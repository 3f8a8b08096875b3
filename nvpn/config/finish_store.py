"""Where a server keeps its clients and leases, checked and frozen."""

from __future__ import annotations

from urllib.parse import urlsplit

from nvpn.config.draft import ServerDraft
from nvpn.config.findings import Findings
from nvpn.config.model import HostPort, StoreConfig, StoreKind
from nvpn.config.schema import ETCD_KEYS


def finish_store(server: ServerDraft, name: str, findings: Findings) -> StoreConfig:
    """What ``[server]`` says of its store.

    Args:
        name: the tunnel's, which is that of its place in an etcd, too.
    """
    if server.store is StoreKind.FILE:
        for key in ETCD_KEYS:
            if key in server.claims:
                hint = 'set store = "etcd", or remove it'
                findings.error(
                    server.claims[key], "is about an etcd, and the store is a file", hint
                )
        return StoreConfig()
    place = server.claims["store"]
    if "etcd" not in server.claims:
        hint = 'such as etcd = ["http://127.0.0.1:2379"]'
        findings.error(place, "needs etcd, the addresses of its members", hint)
    for one, other in (("etcd_user", "etcd_password_file"), ("etcd_cert", "etcd_key")):
        for key, missing in ((one, other), (other, one)):
            if key in server.claims and missing not in server.claims:
                findings.error(server.claims[key], f"needs {missing}, too")
    urls = tuple(dict.fromkeys(url for url, _ in server.etcd))
    _check_secrecy(server, findings)
    files = server.etcd_files
    return StoreConfig(
        StoreKind.ETCD,
        urls,
        server.etcd_prefix or f"/nvpn/{name}",
        server.etcd_user,
        server.etcd_password,
        files.get("etcd_ca"),
        files.get("etcd_cert"),
        files.get("etcd_key"),
    )


def _check_secrecy(server: ServerDraft, findings: Findings) -> None:
    for url, place in server.etcd:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_here = host == "localhost" or HostPort(host, 1).is_loopback
        if parts.scheme == "http" and not is_here:
            findings.warn(
                place,
                "everybody on the way there may read the leases, and change them",
                "write https, with etcd_ca",
            )
    if server.etcd and all(url.startswith("http:") for url, _ in server.etcd):
        for key in ("etcd_ca", "etcd_cert", "etcd_key"):
            if key in server.claims:
                findings.error(
                    server.claims[key],
                    "is for https, and etcd is reached by http",
                    "write https in etcd, or remove it",
                )
