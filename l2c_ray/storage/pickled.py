"""Other people's pickled tensors, read without running what the pickle says."""

import io
import pickle
import threading
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from l2c_ray.errors import CheckpointError
from l2c_ray.storage import zips
from l2c_ray.storage.pickle_scan import MOST_BYTES, NEVER_MADE, UnwantedPickleError, scan
from l2c_ray.storage.tensors import opened_weights

_PICKLES_OF_LEGACY = 5
"""Pickles in a file of before torch 1.6: magic number, version, machine, the saved object, keys of its storages."""


class Unread:
    """Placeholder for a value that is neither tensor nor plain; nothing is called to make it."""

    def __new__(cls, *arguments: object) -> "Unread":
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignores the state."""


_TORCHS_LIST = threading.Lock()
"""Guards torch's list of allowed classes, which all threads share."""


def read_pickled(path: Path) -> Any:
    """Tensors in lists and dictionaries, as `torch.save` wrote them, with plain values.

    Numpy's numbers, paths and argparse namespaces are read as `Unread`. Torch's restricted unpickler calls only
    functions that build the other values, and refuses any other name. No file takes more memory than its size,
    except for the little that its pickle may make.

    Raises:
        CheckpointError: the file is missing, truncated, no such pickle, or would run something.
    """
    with opened_weights(path) as file:
        try:
            _look_over(file)
            file.seek(0)
            with _TORCHS_LIST, torch.serialization.safe_globals([(Unread, name) for name in NEVER_MADE]):
                content = torch.load(file, map_location="cpu", weights_only=True)
            _strip(content)
            return content
        except UnwantedPickleError as error:
            raise CheckpointError(
                str(path),
                f"is refused: it is no pickle of plain tensors ({error})",
                "save the model's tensors by name and nothing else, or get them from who made it",
            ) from error
        except Exception as error:
            # Broken files make torch raise almost anything.
            raise CheckpointError(
                str(path), f"cannot be read ({_reason(error)})", "give a whole file of torch.save"
            ) from error


def _strip(content: Any) -> None:
    """Removes attributes that the file gave to tensors and dictionaries, which may hide their methods."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor | dict):
            getattr(value, "__dict__", {}).clear()
        if isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def _look_over(file: IO[bytes]) -> None:
    """Refuses a file that would run something, or take far more memory than its size, before torch reads it."""
    is_zip = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if not is_zip:
        pickles = io.BytesIO(file.read(MOST_BYTES))
        for _ in range(_PICKLES_OF_LEGACY):
            scan(pickles)
        return
    members = zips.stored_members(file)
    # Torch's reader does not tell upper case from lower case.
    found = [member for name, member in members.items() if name.casefold().endswith("/data.pkl")]
    if len(found) != 1:
        raise ValueError(f"it has {len(found)} members named data.pkl")
    if found[0].file_size > MOST_BYTES:
        raise UnwantedPickleError(f"it has more than {MOST_BYTES} bytes beside the tensors' numbers")
    scan(zips.content(file, found[0]))


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):
        # Torch's own text recommends to switch the restriction off.
        return "it is damaged or holds something else"
    return (str(error) or type(error).__name__).splitlines()[0]
