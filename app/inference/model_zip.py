"""Zip files of models: unpacked with suspicion, packed so that the same files give the same bytes."""

from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from app.errors import MisconfiguredError

CHUNK_BYTES = 1 << 20
ENTRIES = 20_000
"""More files than nnU-Net exports, with every validation image of a large cohort."""

TOTAL_BYTES = 64 << 30
"""Five folds of nnU-Net's largest preset with their optimisers stay below 10 GB."""

RATIO, RATIO_FROM_BYTES = 200, 16 << 20
"""Weights hardly compress at all; an untrained network's zeros compress by up to 1000, but they are few."""

FIXED_DATE = (1980, 1, 1, 0, 0, 0)
"""The first that a zip can hold: the day of packing would make every package another file."""


def member_names(path: Path) -> tuple[str, ...]:
    """Every file's name in a zip in which nothing is out of the ordinary.

    Raises:
        MisconfiguredError: no zip; a name that leads elsewhere, a link, an encrypted file, a name that comes
            twice, or sizes that no model has (a zip bomb).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise MisconfiguredError(f"{path}: can't be read as a zip file ({type(error).__name__})") from error
    for entry in entries:
        wrong = _wrong_with(entry)
        if wrong:
            raise MisconfiguredError(f"{path}: refused, {entry.filename!r} {wrong}; no model has that")
    names = [entry.filename for entry in entries]
    _refuse_amounts(path, entries)
    return tuple(name for name in names if not name.endswith("/"))


def unpack(path: Path, members: Mapping[str, Path]) -> None:
    """Write some members to the places given, each no longer than the zip said it was.

    Raises:
        MisconfiguredError: the zip is damaged or can't be read, or the disk has no room.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name, target in members.items():
                _unpack_one(archive, archive.getinfo(name), target)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise MisconfiguredError(f"{path}: the zip file is damaged ({error}); fetch it again") from error
    except OSError as error:
        raise MisconfiguredError(f"{path}: can't be unpacked ({error.strerror})") from error


def pack(files: Sequence[tuple[str, Path]], out: Path) -> None:
    """A zip of ``(name, file)``, byte for byte the same on every machine and day.

    Nothing is compressed: weights hardly shrink, and each release of zlib writes other bytes.
    """
    part = out.with_name(f".{out.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name, source in sorted(files):
            entry = zipfile.ZipInfo(name, FIXED_DATE)
            entry.create_system = 3  # Unix, on whichever system
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = source.stat().st_size
            with source.open("rb") as content, archive.open(entry, "w") as member:
                shutil.copyfileobj(content, member, CHUNK_BYTES)
    part.replace(out)


def _wrong_with(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry's name or kind, in words; empty when nothing is."""
    name = entry.filename
    path = PurePosixPath(name)
    # ``orig_filename``: Python cuts a name at NUL and turns backslashes, other programs don't
    strange = any(char in entry.orig_filename for char in "\\\0:")
    if path.is_absolute() or ".." in path.parts or not path.parts or strange:
        return "leads out of its folder"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > RATIO_FROM_BYTES and entry.file_size > RATIO * max(1, entry.compress_size):
        return f"would grow {entry.file_size // max(1, entry.compress_size)} times in unpacking"
    return ""


def _refuse_amounts(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    total = sum(entry.file_size for entry in entries)
    if len(entries) > ENTRIES or total > TOTAL_BYTES:
        raise MisconfiguredError(
            f"{path}: refused, {len(entries)} files of {total / 1e9:.1f} GB together; "
            f"a model has at most {ENTRIES} files and {TOTAL_BYTES / 1e9:.0f} GB"
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise MisconfiguredError(
            f"{path}: refused, a name comes twice; which of the two was meant is unknown"
        )


def _unpack_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    free = shutil.disk_usage(target.parent).free
    if entry.file_size > free:
        raise MisconfiguredError(
            f"{entry.filename} needs {entry.file_size / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free"
        )
    left = entry.file_size
    with archive.open(entry) as member, target.open("xb") as file:
        while chunk := member.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise MisconfiguredError(f"{entry.filename} is longer than the zip says; refused")
            file.write(chunk)
