"""Class labels, without torch: the one check that a model has a class."""

from l2c_ray.errors import InvalidInputError


def require_label(label: int, classes: int, model: str, key: str = "label") -> None:
    """Raises InvalidInputError, which names `key`, if the label is none of the model's classes 0..classes-1."""
    if not 0 <= label < classes:
        raise InvalidInputError(key, f"{label} is not a class of {model}", f"take 0..{classes - 1}")
