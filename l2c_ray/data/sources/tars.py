"""Members of a tar from outside in turn; every header is checked first, since `tarfile` follows what it says."""

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, Literal, NamedTuple, Self, cast

_END = "end of file header"
"""Message of `tarfile` for the zeros that end every whole tar."""

_MOST_FIELD_BYTES = 16 << 10
"""Size limit of a long name, or of the extended fields of a member, which `tarfile` reads whole."""
_MOST_SHARED_FIELDS = 100
"""Limit of the fields for all later members, each of which gets a copy."""
_FIELDS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}


class Member(NamedTuple):
    """Anything in a tar but a folder."""

    name: str
    kind: Literal["file", "link", "device or pipe"]
    size: int
    read: Callable[[], bytes]
    """Returns the content of a file, until the next member is requested."""


class _Header(tarfile.TarInfo):
    """Header of a member; an invalid one is an error, not the end of the tar as for `tarfile`."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _FIELDS and header.size > _MOST_FIELD_BYTES):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if str(error) == _END:
                raise
            raise tarfile.ReadError(str(error)) from error


def members(stream: IO[bytes], size: int) -> Iterator[Member]:
    """Members of the tar of `size` bytes, in order; none is kept.

    Raises:
        tarfile.TarError: it is no whole tar, or claims more than there is. A damaged header may raise anything else
            that `tarfile` does.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="backslashreplace") as tar:
        for member in iter(tar.next, None):
            _check(tar, member, size)
            if not member.isdir():
                yield Member(member.name, _kind(member), member.size, partial(_content, tar, member))
            # tarfile would keep every header.
            cast(Any, tar).members.clear()


def _check(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> None:
    """Refuses offsets, fields and sparse files that `tarfile` would follow, copy and fill at any size."""
    if member.issparse():
        raise tarfile.ReadError(f"{member.name} is a sparse file")
    if not member.offset_data <= tar.offset <= size or member.size < 0:
        raise tarfile.ReadError(f"{member.name} does not end in it")
    if len(tar.pax_headers) > _MOST_SHARED_FIELDS:
        raise tarfile.ReadError(f"{len(tar.pax_headers)} fields for all members")


def _kind(member: tarfile.TarInfo) -> Literal["file", "link", "device or pipe"]:
    if member.isfile():
        return "file"
    return "link" if member.issym() or member.islnk() else "device or pipe"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""
