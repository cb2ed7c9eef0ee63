"""JSON on stdout that every parser takes."""

import json
from typing import Any

import typer

from l2c_ray.printable import printable
from l2c_ray.strict_json import without_infinities


def print_json(content: Any, indent: int | None = None) -> None:
    """Prints the content; a number that is not finite is null there, and named on stderr."""
    finite, infinities = without_infinities(content)
    typer.echo(json.dumps(finite, indent=indent, allow_nan=False))
    for place, number in infinities.items():
        typer.echo(f"warning: {printable(place)} is {number}, which JSON cannot tell: it is null there", err=True)
