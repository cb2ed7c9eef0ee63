"""One object beside many shards that says how all of them were made, and refuses shards of other settings."""

import json
from typing import TypeVar

from l2c_ray.config.base import Section
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.files import MOST_TEXT_BYTES
from l2c_ray.storage.objects import ObjectStore

SETTINGS = "settings.json"

_Settings = TypeVar("_Settings", bound=Section)


def read_settings(store: ObjectStore, kind: type[_Settings]) -> _Settings:
    """How the shards of a store were made.

    Raises:
        StorageError: that object cannot be read or is not JSON.
        ConfigError: it says something else than such an object does.
    """
    source = f"{store.address}/{SETTINGS}"
    try:
        values = json.loads(store.get(SETTINGS, MOST_TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        raise StorageError(source, f"is not JSON ({error})", "give a place that a run of this kind wrote") from error
    return kind.parse(values, source)


def claim(store: ObjectStore, settings: Section, empty: bool, key: str) -> None:
    """Makes the store one of shards with these settings.

    Args:
        empty: whether it has no shard yet, so that other settings may be written over.
        key: of the config, that names the store.

    Raises:
        ConfigError: it has shards that were made otherwise; names the first setting that differs.
        StorageError, UnreachableError: the store cannot be read or written.
    """
    if empty:
        store.put(SETTINGS, settings.model_dump_json(indent=1).encode())
    there = read_settings(store, type(settings))
    for name in type(settings).model_fields:
        found, wanted = getattr(there, name), getattr(settings, name)
        if found != wanted:
            remedy = f"take another {key}, or the settings of what is there"
            raise ConfigError(f"{name} in {store.address}/{SETTINGS}", f"is {found}, not {wanted}", remedy)
