"""resolv.conf itself: replaced at once, and put back as it was.

The old file is kept beside it, as the very file (its inode, mode and owner, or the
symbolic link that it is), so putting it back is one rename. What we wrote is known by its
sum: a file that somebody else has written meanwhile (a DHCP client, say) is theirs.

The order on disk makes a kill harmless at any point: first the sum of what will be
written, then the backup, then the file.

Source: resolv.conf(5).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from nvpn.errors import PlatformError
from nvpn.model.name_servers import NameServers
from nvpn.model.prefixes import format_address
from nvpn.netconf.api import Link
from nvpn.netconf.resolv_stack import (
    Claim,
    ResolvStack,
    identify_process,
    is_alive,
    locked,
    read_stack,
    write_stack,
)

MAX_SERVERS: Final = 3
"""MAXNS of resolv.h: no more are asked."""

_MARK: Final = b"# written by nvpn for "
_MAX_BYTES: Final = 1 << 20
_MODE: Final = 0o644
_IN_PLACE: Final = {errno.EBUSY}
"""What a rename over a mount point says: containers mount their resolv.conf."""


class FileWriter:
    """A :class:`nvpn.netconf.dns.DnsWriter` for one resolv.conf.

    Args:
        path: the file; its directory is made, and removed again, when it is missing.
        state: the directory of the stack of claims; one path has one stack in it.
    """

    def __init__(self, path: Path, *, state: Path) -> None:
        self._path = path
        self._backup = path.with_name(f"{path.name}.nvpn-backup")
        self._state = state
        self._stack_path = state / f"{_stack_name(path)}.stack"

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self._path)

    def set(self, link: Link, wanted: NameServers) -> tuple[str, ...]:
        """Who comes last wins; another value for a known link keeps its place."""
        claim = Claim(link.name, wanted, identify_process(os.getpid()))
        try:
            with locked(self._state):
                stack = read_stack(self._stack_path)
                stack.forget_dead(but=link.name, is_alive=is_alive)
                stack.put(claim)
                self._show_top(stack)
        except OSError as error:
            raise self._failure(f"write {self._path}", error) from None
        if len(wanted.servers) > MAX_SERVERS:
            return (f"{self._path}: only the first {MAX_SERVERS} name servers are ever asked",)
        return ()

    def unset(self, link: Link) -> None:
        """The one below wins, or all is as it was."""
        try:
            with locked(self._state):
                stack = read_stack(self._stack_path)
                if not stack.remove(link.name) and stack.claims:
                    return
                stack.forget_dead(but="", is_alive=is_alive)
                if not self._is_ours(stack):
                    self._leave_alone(stack)
                elif stack.claims:
                    self._show_top(stack)
                else:
                    self._restore(stack)
        except OSError as error:
            raise self._failure(f"restore {self._path}", error) from None

    # --- the three outcomes -------------------------------------------------------------

    def _show_top(self, stack: ResolvStack) -> None:
        assert stack.top is not None
        is_ours = self._is_ours(stack)
        if not os.path.lexists(self._path.parent):
            os.makedirs(self._path.parent, 0o755)
            stack.made_directory = True
        text = _render(stack.top, old=self._backup if is_ours else self._path, into=self._backup)
        before = read_stack(self._stack_path)
        known = stack.written[-1:] if is_ours else []
        stack.written = [*known, _sum(text)]
        if not is_ours:
            stack.had_file = os.path.lexists(self._path)
        write_stack(self._stack_path, stack)
        try:
            if not is_ours:
                self._back_up()
            self._write(text)
        except OSError:
            write_stack(self._stack_path, before)
            if not before.claims:
                self._backup.unlink(missing_ok=True)
            raise

    def _leave_alone(self, stack: ResolvStack) -> None:
        """Somebody else's file stays; what it was before us is of no use any more."""
        if not stack.claims:
            self._backup.unlink(missing_ok=True)
        write_stack(self._stack_path, stack)

    def _restore(self, stack: ResolvStack) -> None:
        if os.path.lexists(self._backup):
            self._put_back()
        elif stack.had_file:
            raise PlatformError(
                f"restore {self._path}",
                hint=f"{self._backup} is gone; write {self._path} anew",
            )
        else:
            self._remove()
        if stack.made_directory:
            try:
                self._path.parent.rmdir()
            except OSError:
                pass  # somebody put something into it
        write_stack(self._stack_path, stack)

    # --- files --------------------------------------------------------------------------

    def _is_ours(self, stack: ResolvStack) -> bool:
        """Whether the file is as we left it, or as a killed one of us did."""
        try:
            status = os.lstat(self._path)
            if not stat.S_ISREG(status.st_mode):
                return False
            content = _read(self._path)
        except FileNotFoundError:
            return False
        if stack.written:
            return _sum(content) in stack.written
        # The state directory may be lost where /etc is not.
        return content.startswith(_MARK) and os.path.lexists(self._backup)

    def _back_up(self) -> None:
        """What is there now becomes the backup, whatever it is."""
        fresh = self._backup.with_name(f".{self._backup.name}-{os.urandom(4).hex()}")
        try:
            # A second name for the same file, or symbolic link.
            os.link(self._path, fresh, follow_symlinks=False)
        except FileNotFoundError:
            self._backup.unlink(missing_ok=True)
            return
        except OSError:
            # Another file system (a mount point), or one without hard links.
            self._copy(self._path, fresh)
        try:
            os.rename(fresh, self._backup)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        # Renaming one name of a file to another of the same file removes neither.
        fresh.unlink(missing_ok=True)

    def _copy(self, source: Path, target: Path) -> None:
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
            return
        status = os.stat(source)
        _create(target, _read(source), stat.S_IMODE(status.st_mode), status)

    def _write(self, text: bytes) -> None:
        fresh = self._path.with_name(f".{self._path.name}.nvpn-{os.urandom(4).hex()}")
        try:
            _create(fresh, text, _MODE)
            os.rename(fresh, self._path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            if error.errno not in _IN_PLACE:
                raise
            _overwrite(self._path, text)

    def _put_back(self) -> None:
        try:
            os.rename(self._backup, self._path)
        except OSError as error:
            if error.errno not in _IN_PLACE:
                raise
            _overwrite(self._path, _read(self._backup))
            self._backup.unlink()

    def _remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in _IN_PLACE:
                raise
            _overwrite(self._path, b"")

    def _failure(self, operation: str, error: OSError) -> PlatformError:
        hint = ""
        if error.errno == errno.EROFS:
            hint = "under systemd it takes the drop-in resolv-conf.conf"
        elif error.errno == errno.EPERM:
            hint = f"is it immutable? try: lsattr {self._path}"
        return PlatformError(operation, errno=error.errno or 0, hint=hint)


def _stack_name(path: Path) -> str:
    """``resolv`` for the host's; a name with the directory for a namespace's."""
    return "resolv" if path.parent.name == "etc" else f"resolv@{path.parent.name}"


def _render(claim: Claim, *, old: Path, into: Path) -> bytes:
    """What the tunnel wants, and of the old file only what nobody's wish replaces.

    Its options say how this host's resolver is to behave, whoever its servers are.
    """
    lines = [_MARK + f"{claim.name}; the old file is {into.name}".encode()]
    wanted = claim.wanted
    if wanted.search:
        lines.append(f"search {' '.join(wanted.search)}".encode())
    servers = [f"nameserver {format_address(server)}" for server in wanted.servers[:MAX_SERVERS]]
    lines += [server.encode() for server in servers] or _lines_of(old, b"nameserver")
    return b"".join(line + b"\n" for line in [*lines, *_lines_of(old, b"options")])


def _lines_of(path: Path, keyword: bytes) -> list[bytes]:
    try:
        lines = _read(path).splitlines()
    except OSError:
        return []
    return [line.strip() for line in lines if line.split()[:1] == [keyword]]


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    # Non-blocking, in case that somebody made a FIFO of it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return file.read(_MAX_BYTES)


def _create(path: Path, content: bytes, mode: int, owner: os.stat_result | None = None) -> None:
    """A new file, on disk on return."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _overwrite(path: Path, content: bytes) -> None:
    """Not atomic, but all that can be done to a mount point."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
