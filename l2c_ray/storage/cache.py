"""Copies of objects on this machine's disk, each kept once under the hash of its content."""

import hashlib
from pathlib import Path

from l2c_ray.errors import StorageError
from l2c_ray.storage import files
from l2c_ray.storage.files import home
from l2c_ray.storage.objects import Found, ObjectStore


def fetch(store: ObjectStore, name: str) -> Path:
    """A file of this machine with what the object holds now, under `$L2C_HOME/cache`; not to be written to.

    What is there already is compared with its hash, and fetched again if it is damaged. Processes that want the same
    object fetch it once; what one of them leaves unfinished the next goes on with. Nothing is ever removed, so that a
    file stays where another process reads it: who wants room removes the folder while nothing runs.

    Raises:
        StorageError: the object is missing or damaged, or there is no room for it.
        UnreachableError: the store does not answer.
    """
    while True:
        found = store.find(name)
        if found is None:
            raise StorageError(f"{store.address}/{name}", "is not there", "check the name")
        origin = _folder() / "origins" / _key(store, name, found)
        files.make_writable(origin.parent)
        with files.locked(origin.with_suffix(".lock")):
            known = found.digests.get("sha256") or (files.read_text(origin) if origin.exists() else "")
            if known and _is_whole(_place(known), known):
                return _place(known)
            incoming = origin.with_suffix(".incoming")
            sha256 = store.download(name, incoming)
            place = _place(sha256)
            files.make_writable(place.parent)
            incoming.chmod(0o444)
            incoming.replace(place)
            # Unless another object took its place in between.
            if store.find(name) == found:
                files.write_text(origin, sha256)
                return place


def _folder() -> Path:
    return home() / "cache"


def _place(sha256: str) -> Path:
    return _folder() / "sha256" / sha256[:2] / sha256


def _key(store: ObjectStore, name: str, found: Found) -> str:
    return hashlib.sha256(f"{store.address}/{name} {found.size} {found.version}".encode()).hexdigest()


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    with files.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
