"""Another date for a build, to show that the date does not matter.

In: the tools tree and a number of days. Out: files to mount over the tree, after which every program that runs in it
sees a clock that is so many days ahead. mkosi gives the programs it runs an environment and a root of its own making,
so neither ``LD_PRELOAD`` nor ``/etc/ld.so.preload`` would reach them: what is mounted is the tree's own dynamic loader
with that one path changed to a file below ``/usr``, which mkosi does pass on, and libfaketime with its paths changed
likewise.

What still sees this machine's date: maintainer scripts, which run in the image's own root with its own loader, and the
time stamps that the kernel gives to new files. Everything else (apt, dpkg, Python, mkosi, the file systems' and the
disk's makers, ukify, compressors) sees the other one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from appliance.image.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{_LIBRARIES}/ld-linux-x86-64.so.2"
FAKETIME = f"{_LIBRARIES}/faketime/libfaketime.so.1"
# Old and new name of the same length, each ended by a zero byte, each exactly once in its file.
_LOADER_CHANGES = ((b"/etc/ld.so.preload", b"/usr/ld.so.preload"),)
_FAKETIME_CHANGES = (
    (b"/etc/faketimerc", b"/usr/faketimerc"),
    # A switch that is on when the variable is there at all, tied to one that nearly always is: no shared memory.
    (b"FAKETIME_DISABLE_SHM", b"PATH"),
)
# The times of files stay as they are: these functions are no longer exported. Not by its variable NO_FAKE_STAT: repart
# gives mcopy an environment of its own.
_STAT = frozenset({b"stat", b"statx", b"fstat", b"lstat", b"__xstat", b"__fxstat", b"__lxstat", b"__xstat64",
                   b"__fxstat64", b"__lxstat64", b"__fxstatat", b"__fxstatat64"})  # fmt: skip
# What libfaketime's own references to them (features that are off) lead to instead; it imports this one.
_INSTEAD = b"getenv"
_DT_STRTAB, _DT_SYMTAB, _PT_DYNAMIC, _SYMBOL_BYTES = 5, 6, 2, 24  # System V ABI, chapters 4 and 5


def clock_mounts(tools: Path, scratch: Path, days: int) -> list[tuple[Path, str]]:
    """Files to mount read-only over the tools tree.

    Args:
        tools: The tree; it holds libfaketime.
        scratch: A directory for the changed files, made where needed.
        days: How far ahead of this machine's clock, at least 0.

    Raises:
        BuildError: The tree's files are not the ones that these changes were made for.
    """
    if days < 0:
        raise BuildError(f"a clock {days} days ahead, expected 0 or more")
    scratch.mkdir(parents=True, exist_ok=True)
    files = {
        "usr/ld.so.preload": f"/{FAKETIME}\n".encode(),
        "usr/faketimerc": f"+{days}d\n".encode(),
        FAKETIME: _without_stat(_changed(tools / FAKETIME, _FAKETIME_CHANGES)),
        LOADER: _changed(tools / LOADER, _LOADER_CHANGES),
    }
    mounts = []
    for name, content in files.items():
        path = scratch / name.rpartition("/")[2]
        path.write_bytes(content)
        path.chmod(0o755)
        mounts.append((path, f"/{name}"))
    return mounts


def _changed(path: Path, changes: tuple[tuple[bytes, bytes], ...]) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}", hint="make the locks again: just lock") from None
    for old, new in changes:
        wanted, replacement = b"\0" + old + b"\0", b"\0" + new.ljust(len(old), b"\0") + b"\0"
        if content.count(wanted) != 1:
            raise BuildError(
                f"{path.name} names {old.decode()} {content.count(wanted)} times, expected once",
                hint="this version of it works differently; see appliance/image/clock.py",
            )
        content = content.replace(wanted, replacement)
    return content


def _without_stat(content: bytes) -> bytes:
    """A library whose dynamic symbols for the times of files bear another name; addresses and offsets are the same."""
    (headers,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    tags: dict[int, int] = {}
    for number in range(count):
        kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", content, headers + number * size)
        if kind == _PT_DYNAMIC:
            tags = dict(struct.iter_unpack("<QQ", content[start : start + length // 16 * 16]))
    names, symbols = tags.get(_DT_STRTAB, 0), tags.get(_DT_SYMTAB, 0)
    if not 0 < symbols < names < len(content):  # the symbols end where their names begin, as linkers lay them out
        raise BuildError("libfaketime's symbols are not where they were expected", hint="see appliance/image/clock.py")
    found: dict[bytes, int] = {}
    for at in range(symbols, names - _SYMBOL_BYTES + 1, _SYMBOL_BYTES):
        begin = names + struct.unpack_from("<I", content, at)[0]
        found[content[begin : content.find(b"\0", begin)]] = at
    if _INSTEAD not in found or b"stat" not in found:
        raise BuildError("libfaketime's symbols are not the expected ones", hint="see appliance/image/clock.py")
    changed = bytearray(content)
    for name in _STAT & found.keys():
        changed[found[name] : found[name] + 4] = content[found[_INSTEAD] : found[_INSTEAD] + 4]
    return bytes(changed)
