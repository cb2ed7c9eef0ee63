"""The settings of a store's shards, kept in an object beside them, so that shards of other settings are refused."""

import json
from typing import TypeVar

from l2c_ray.config.base import Section
from l2c_ray.errors import ConfigError, StorageError
from l2c_ray.storage.files import MOST_TEXT_BYTES
from l2c_ray.storage.objects import ObjectStore

SETTINGS = "settings.json"

_Settings = TypeVar("_Settings", bound=Section)


def read_settings(store: ObjectStore, kind: type[_Settings]) -> _Settings:
    """Settings of a store's shards.

    Raises:
        StorageError: the object cannot be read or is not JSON.
        ConfigError: it holds other settings than `kind` has.
    """
    source = f"{store.address}/{SETTINGS}"
    try:
        values = json.loads(store.get(SETTINGS, MOST_TEXT_BYTES))
    except (ValueError, RecursionError) as error:
        raise StorageError(source, f"is not JSON ({error})", "give a place that a run of this kind wrote") from error
    return kind.parse(values, source)


def ensure_settings(store: ObjectStore, settings: Section, empty: bool, key: str) -> None:
    """Records the settings in an empty store, or compares them with those of its shards.

    Args:
        empty: whether the store has no shard yet, so that older settings are replaced.
        key: config key that names the store.

    Raises:
        ConfigError: its shards have other settings; names the first that differs.
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
