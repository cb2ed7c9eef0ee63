"""Other people's pickled tensors, read without running what the pickle says."""

import pickle
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from l2c_ray.errors import CheckpointError


def read_pickled(path: Path) -> Any:
    """Tensors in lists and dictionaries, as `torch.save` wrote them, with plain values and argparse namespaces.

    Torch's restricted unpickler calls nothing but what builds those, and refuses the file at the first other name.

    Raises:
        CheckpointError: the file is missing, truncated, no such pickle, or would run something.
    """
    try:
        # The authors' files hold their training script's arguments. Setting attributes of a namespace runs nothing.
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Torch's own text recommends to switch the restriction off.
        named = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {named[1]}" if named else "it is damaged or holds something else"
        raise CheckpointError(
            str(path), f"is refused: it is no pickle of plain tensors ({reason})", "get the tensors from who made it"
        ) from error
    except Exception as error:
        # Torch lets whatever a broken file leads to through.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(str(path), f"cannot be read ({reason})", "give a whole file of torch.save") from error
