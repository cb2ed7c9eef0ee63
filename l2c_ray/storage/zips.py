"""Zip archives from outside; one that two readers could see differently is refused, as no library does."""

import io
import os
import struct
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

_END = struct.Struct("<4s8xLLH")
"""End record: signature, size and offset of the directory, length of a comment."""
_LOCATOR = struct.Struct("<4s4xQ4x")
"""Zip64 locator: signature and offset of the zip64 end record."""
_LARGE_END = struct.Struct("<4s36xQQ")
"""Zip64 end record: signature, size and offset of the directory."""
_NAME_LENGTHS = struct.Struct("<26xHH")
"""Local file header: lengths of the name and of the extra fields that follow it."""


def members(archive: ZipFile) -> dict[str, ZipInfo]:
    """The archive's members by name.

    Raises:
        ValueError: two members share a name, so that readers differ, or one is encrypted or has two sizes.
    """
    found: dict[str, ZipInfo] = {}
    for member in archive.infolist():
        if found.setdefault(member.filename, member) is not member:
            raise ValueError(f"{member.filename} is there more than once")
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename} is encrypted")
        if member.compress_type == ZIP_STORED and member.compress_size != member.file_size:
            raise ValueError(f"{member.filename} has two sizes")
    return found


def stored_members(file: IO[bytes]) -> dict[str, ZipInfo]:
    """Members of an archive without compression, so that none takes more memory than the file.

    Raises:
        BadZipFile, ValueError: it is damaged, has a compressed member, or members larger than the file.
    """
    size = file.seek(0, os.SEEK_END)
    archive = ZipFile(file)
    if _directory_place(file, size) != archive.start_dir:
        raise ValueError("its directory is not where its end says")
    found = members(archive)
    for name, member in found.items():
        if member.compress_type != ZIP_STORED:
            raise ValueError(f"{name} is compressed")
    if sum(member.file_size for member in found.values()) > size:
        raise ValueError("its members are larger than the file")
    return found


def content(file: IO[bytes], member: ZipInfo) -> io.BytesIO:
    """Bytes of a stored member; its checksum is not compared, since torch may leave it out."""
    file.seek(member.header_offset)
    name, further = _NAME_LENGTHS.unpack(file.read(_NAME_LENGTHS.size))
    file.seek(name + further, os.SEEK_CUR)
    return io.BytesIO(file.read(member.file_size))


def _directory_place(file: IO[bytes], size: int) -> int:
    """Offset of the directory by the end record; zipfile would also find one elsewhere, and torch another."""
    end = size - _END.size
    signature, _, place, comment = _read(_END, file, end)
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("something follows its end")
    locator = end - _LOCATOR.size
    if locator > 0:
        signature, large_end = _read(_LOCATOR, file, locator)
        if signature == b"PK\x06\x07":
            if large_end != locator - _LARGE_END.size:
                raise ValueError("its end is not where it says")
            _, _, place = _read(_LARGE_END, file, large_end)
    return int(place)


def _read(record: struct.Struct, file: IO[bytes], place: int) -> tuple[Any, ...]:
    file.seek(place)
    return record.unpack(file.read(record.size))
