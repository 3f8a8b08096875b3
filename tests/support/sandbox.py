"""What a service's unit takes away from its process, taken away without systemd.

    python -m tests.support.sandbox FILE… [--bind FROM TO]… -- COMMAND…

Reads the unit and its drop-ins, does to this process what their settings say, and becomes the
command. Directories of a test can be bound where the unit has its own. Done are those settings
that could stop a tunnel: capabilities, read-only files, forbidden system calls, socket
families, namespaces and executable memory. Left out are DevicePolicy (cgroups are not ours
here), ProtectHome (Python may live there), and what only hides things.

Source: systemd.exec(5); what each setting becomes, from systemd's own description there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

UNISTD: Final = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
"""Where libc's headers have the numbers of system calls."""

Settings = dict[str, list[str]]

_CAPABILITIES: Final = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_ADMIN": 21,
}
_FAMILIES: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}
_NAMESPACES: Final = {"net": 0x40000000, "mnt": 0x00020000}
_ALL_NAMESPACES: Final = 0x7E020000

_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_MDWE: Final = 65
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_MOUNT_FLAGS: Final = {"nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "relatime": 1 << 21}
_NEVER_READ_ONLY: Final = ("/proc", "/sys", "/dev", "/tmp", "/var/tmp")

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _AND, _RETURN = 0x20, 0x15, 0x45, 0x54, 0x06
_ARCH_X86_64: Final = 0xC000003E

_libc: Final = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Why nothing can be emulated here, or an empty string."""
    if os.uname().machine != "x86_64":
        return "needs x86-64, whose system calls it knows"
    return "" if UNISTD.exists() else f"needs {UNISTD} of linux-libc-dev"


def read_unit(*files: Path) -> Settings:
    """The settings of [Service], those of drop-ins on top. Lists add up; empty forgets."""
    settings: Settings = {}
    for file in files:
        section = ""
        for line in file.read_text().splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and line[0] not in "#;":
                name, _, value = line.partition("=")
                if not value:
                    settings[name] = []
                elif value in ("yes", "no"):
                    settings[name] = [value]
                else:
                    settings.setdefault(name, []).extend(value.split())
    return settings


def enter(settings: Settings, binds: Iterable[tuple[str, str]]) -> None:
    """Give up what the unit does not leave."""
    calls = _allowed_calls(_by_lines(settings))
    _restrict_files(settings, list(binds))
    kept = {_CAPABILITIES[name] for name in settings["CapabilityBoundingSet"]}
    for number in range(64):
        if number not in kept:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # EINVAL beyond the last one
    os.umask(int(settings["UMask"][-1], 8))
    if settings["NoNewPrivileges"] == ["yes"]:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if settings["MemoryDenyWriteExecute"] == ["yes"]:
        _libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0)  # before Linux 6.3 the filter has to do
    _install(_filter(settings, calls))


# --- files ----------------------------------------------------------------------------


def _restrict_files(settings: Settings, binds: list[tuple[str, str]]) -> None:
    if _libc.unshare(_NAMESPACES["mnt"]):
        raise OSError(ctypes.get_errno(), "unshare")
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    for source, target in binds:
        os.makedirs(target, exist_ok=True)
        _mount(source, target, _MS_BIND)
    writable = []
    for path in (
        *(f"/run/{name}" for name in settings["RuntimeDirectory"]),
        *(f"/var/lib/{name}" for name in settings["StateDirectory"]),
        *(path.removeprefix("-") for path in settings.get("ReadWritePaths", [])),
    ):
        if os.path.exists(path):
            _mount(path, path, _MS_BIND | _MS_REC)
            writable.append(os.path.realpath(path))
    level = settings["ProtectSystem"][-1]
    only = None if level == "strict" else ("/usr", "/boot", "/etc")
    for path in only or ():
        if os.path.exists(path):
            _mount(path, path, _MS_BIND | _MS_REC)
    for mounted, flags in _mounts():
        if _is_below(mounted, (*_NEVER_READ_ONLY, *writable)):
            continue
        if only is None or _is_below(mounted, only):
            try:
                _mount("none", mounted, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise  # else: another mount is on top, and nobody gets there


def _mounts() -> list[tuple[str, int]]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        flags = sum(_MOUNT_FLAGS.get(option, 0) for option in fields[5].split(","))
        found.append((re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4]), flags))
    return found


def _is_below(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def _mount(source: str, target: str, flags: int) -> None:
    if _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None):
        raise OSError(ctypes.get_errno(), "mount", target)


# --- system calls ---------------------------------------------------------------------


def _by_lines(settings: Settings) -> tuple[set[str], set[str]] | None:
    """Names and groups that SystemCallFilter allows and takes away again; None for all."""
    words = settings["SystemCallFilter"]
    if not words:
        return None
    begin = next(number for number, word in enumerate(words) if word.startswith("~"))
    return set(words[:begin]), {word.removeprefix("~") for word in words[begin:]}


def _allowed_calls(wanted: tuple[set[str], set[str]] | None) -> list[int] | None:
    if wanted is None:
        return None
    numbers = {
        name: int(number)
        for name, number in re.findall(r"#define __NR_(\w+) (\d+)", UNISTD.read_text())
    }
    groups = _call_groups()

    def expand(words: set[str]) -> set[str]:
        names: set[str] = set()
        for word in words:
            names |= expand(groups[word]) if word.startswith("@") else {word}
        return names

    # systemd allows what every process needs to live, whatever the unit says.
    names = (expand(wanted[0]) - expand(wanted[1])) | expand({"@default"})
    return sorted(numbers[name] for name in names if name in numbers)


def _call_groups() -> dict[str, set[str]]:
    """What systemd means by @system-service and the like."""
    printed = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"],
        env={**os.environ, "SYSTEMD_COLORS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what it does not know of this kernel
        text=True,
        check=True,
    ).stdout
    groups: dict[str, set[str]] = {}
    group = ""
    for line in printed.splitlines():
        if line.startswith("@"):
            group = line.strip()
            groups[group] = set()
        elif line.startswith("    ") and not line.strip().startswith("#") and group:
            groups[group].add(line.strip())
        elif line and not line.startswith(" "):
            group = ""
    return groups


def _filter(settings: Settings, calls: list[int] | None) -> bytes:
    """A seccomp program: number by number, and arguments where a setting looks at them."""
    refuse = _ERRNO | errno.EPERM
    program = [_step(_LOAD, 4), _step(_JUMP_IF_EQUAL, _ARCH_X86_64, 1), _step(_RETURN, refuse)]
    program.append(_step(_LOAD, 0))
    families = [_FAMILIES[name] for name in settings["RestrictAddressFamilies"]]
    checks = [_argument(0)]
    for family in families:
        checks += [_step(_JUMP_IF_EQUAL, family, 0, 1), _step(_RETURN, _ALLOW)]
    program += _for_call(41, [*checks, _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT)])
    named = [word for word in settings["RestrictNamespaces"] if word != "yes"]
    forbidden = _ALL_NAMESPACES & ~sum(_NAMESPACES[name] for name in named)
    for call, argument in ((56, 0), (272, 0), (308, 1)):  # clone, unshare, setns
        program += _for_call(call, _refuse_if_set(argument, forbidden))
    program += _for_call(435, [_step(_RETURN, _ERRNO | errno.ENOSYS)])  # clone3 hides its flags
    if settings["MemoryDenyWriteExecute"] == ["yes"]:
        both = [_argument(2), _step(_AND, 6), _step(_JUMP_IF_EQUAL, 6, 0, 1)]
        program += _for_call(9, [*both, _step(_RETURN, refuse), _step(_RETURN, _ALLOW)])
        program += _for_call(10, _refuse_if_set(2, 4))
    if calls is None:
        program.append(_step(_RETURN, _ALLOW))
    else:
        for call in calls:
            program += [_step(_JUMP_IF_EQUAL, call, 0, 1), _step(_RETURN, _ALLOW)]
        program.append(_step(_RETURN, refuse))
    return b"".join(program)


def _for_call(number: int, steps: list[bytes]) -> list[bytes]:
    return [_step(_JUMP_IF_EQUAL, number, 0, len(steps)), *steps]


def _refuse_if_set(argument: int, bits: int) -> list[bytes]:
    return [
        _argument(argument),
        _step(_JUMP_IF_SET, bits, 0, 1),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]


def _argument(number: int) -> bytes:
    return _step(_LOAD, 16 + 8 * number)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _install(program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, 2, header)


def _prctl(option: int, *arguments: int | bytes) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    if _libc.prctl(option, *(a if isinstance(a, bytes) else ctypes.c_ulong(a) for a in padded)):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def main() -> None:
    """Enter the sandbox and become the command."""
    words = sys.argv[1:]
    end = words.index("--")
    ours, command = words[:end], words[end + 1 :]
    binds = []
    while "--bind" in ours:
        at = ours.index("--bind")
        binds.append((ours[at + 1], ours[at + 2]))
        del ours[at : at + 3]
    enter(read_unit(*map(Path, ours)), binds)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
