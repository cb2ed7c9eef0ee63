"""The store or the file tree at an address, which is a folder's path or `s3://bucket/prefix`."""

import os
from collections.abc import Mapping
from pathlib import Path

from l2c_ray.errors import StorageError
from l2c_ray.storage.addresses import parse_s3
from l2c_ray.storage.files import from_root
from l2c_ray.storage.folder import Folder
from l2c_ray.storage.folder_tree import FolderTree
from l2c_ray.storage.objects import ObjectStore
from l2c_ray.storage.places import absolute
from l2c_ray.storage.retry import RETRY_SECONDS
from l2c_ray.storage.trees import FileTree


def open_store(
    address: str, environment: Mapping[str, str] = os.environ, retry_seconds: float = RETRY_SECONDS
) -> ObjectStore:
    """The store at the address; a folder need not be there yet.

    Args:
        environment: variables of `addresses.VARIABLES`; boto3 looks into its own places for those that are missing.
        retry_seconds: retry deadline of each request to S3, counted from its first failure.

    Raises:
        StorageError: it is no such address.
    """
    if "://" not in address:
        try:
            return Folder(absolute(address))
        except ValueError as error:
            raise StorageError(address, str(error), "give a folder or s3://bucket/prefix") from error
    place = parse_s3(address)
    # Importing boto3 takes half a second, which users of folders need not wait for.
    from l2c_ray.storage.bucket import Bucket

    return Bucket(place, environment, retry_seconds)


def open_tree(
    address: str, environment: Mapping[str, str] = os.environ, retry_seconds: float = RETRY_SECONDS
) -> FileTree:
    """The files below the address; nothing is read yet. The arguments and errors are those of `open_store`."""
    if "://" not in address:
        return FolderTree(from_root(Path(address).expanduser()))
    place = parse_s3(address)
    from l2c_ray.storage.bucket_tree import BucketTree

    return BucketTree(place, environment, retry_seconds)
