"""Members of a tar from outside, one after the other; what a header says is checked before it is followed."""

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any, Literal, NamedTuple, Self, cast

_END = "end of file header"
"""As the standard library calls the zeros that every whole tar ends with."""

_MOST_FIELD_BYTES = 16 << 10
"""Size limit of a long name, or of the extended fields of a member, which are read whole."""
_MOST_SHARED_FIELDS = 100
"""For all members that follow, each of which gets a copy."""
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
    """Gives the content of a file, until the next member is asked for."""


class _Header(tarfile.TarInfo):
    """Header of a member. After the first, the standard library takes whatever is no header for the end of the tar."""

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
    """Everything in the tar, of `size` bytes, in order and without keeping any of it.

    Raises:
        tarfile.TarError: it is no whole tar, or one that tells of more than there is. Whatever else the standard
            library raises over a damaged header comes through.
    """
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="backslashreplace") as tar:
        for member in iter(tar.next, None):
            _check(tar, member, size)
            if not member.isdir():
                yield Member(member.name, _kind(member), member.size, partial(_content, tar, member))
            # It would keep every header to the end.
            cast(Any, tar).members.clear()


def _check(tar: tarfile.TarFile, member: tarfile.TarInfo, size: int) -> None:
    """The library would follow offsets and copy fields of any size, and fill in the holes of sparse files."""
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
