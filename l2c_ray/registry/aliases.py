"""Moving aliases: the one way in which any of them comes to point to another version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from l2c_ray.errors import ConflictError, RegistryError
from l2c_ray.registry.audit import AliasMove, moves_of, next_number, utc_now, who_am_i
from l2c_ray.registry.mutex import exclusive
from l2c_ray.registry.tracking import server_errors
from l2c_ray.registry.versions import find, holder_of, missing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

MOST_WORDS = 500
"""Characters of a reason. A tag has room for 5000 on every database, and JSON takes six for the worst of characters."""


@server_errors()
def move_alias(
    client: MlflowClient,
    name: str,
    alias: str,
    to: int | None,
    *,
    expected: int | None,
    why: str,
    rollback: bool = False,
) -> AliasMove:
    """Moves an alias of a registered model and writes down who did so, when, from where to where, and why.

    Two that move one alias at once come after one another, and the second is told that it is not where it was.

    Args:
        to: the version that gets it; None takes the alias away.
        expected: the version that had it when the move was decided; None where none had.
        why: as the history of the model shall tell.
        rollback: it takes the last move back, so that no rule makes that one again.

    Raises:
        ConflictError: the alias is not, or no longer, at `expected`.
        RegistryError: there is no such model or version.
        UnreachableError: the registry does not answer.
    """
    if to is not None and find(lambda: client.get_model_version(name, str(to))) is None:
        raise missing(f"models:/{name}/{to}")
    with exclusive(client, name) as held:
        current = holder_of(client, name, alias)
        if current != expected:
            raise ConflictError(
                f"{name}@{alias}",
                f"is at {_place(current)} and no longer at {_place(expected)}, for which the move was decided",
                "see l2c registry show for who moved it, and decide again",
            )
        move = AliasMove(
            next_number(_model(client, name)), alias, current, to, who_am_i(), utc_now(), why[:MOST_WORDS], rollback
        )
        held.require()
        # First the word, then the deed: no move is without its record, whenever this process is ended.
        client.set_registered_model_tag(name, *move.tag)
        try:
            _set(client, name, alias, to)
        except Exception:
            # The server may have done it all the same, where its answer was lost.
            if holder_of(client, name, alias) == current:
                client.delete_registered_model_tag(name, move.tag[0])
            raise
    return move


@server_errors()
def roll_back(client: MlflowClient, name: str, alias: str, why: str) -> AliasMove:
    """Moves an alias to where it was before its last move, which a second time takes it back again.

    Raises:
        RegistryError: the alias was never moved by `move_alias`, or by something else since.
        ConflictError: somebody moves it right now.
        UnreachableError: the registry does not answer.
    """
    moves = [move for move in history(client, name) if move.alias == alias]
    if not moves:
        raise RegistryError(f"{name}@{alias}", "was never moved", "see l2c registry list")
    last, current = moves[-1], holder_of(client, name, alias)
    if last.after != current:
        raise RegistryError(
            f"{name}@{alias}",
            f"is at {_place(current)}, but its last recorded move was to {_place(last.after)}",
            "name the version that it shall have: l2c registry promote",
        )
    return move_alias(client, name, alias, last.before, expected=current, why=f"rollback: {why}", rollback=True)


@server_errors()
def history(client: MlflowClient, name: str) -> list[AliasMove]:
    """Every move of an alias of the registered model, the oldest first.

    Raises:
        RegistryError: there is no such model.
        UnreachableError: the registry does not answer.
    """
    return moves_of(_model(client, name))


def _model(client: MlflowClient, name: str) -> RegisteredModel:
    model = find(lambda: client.get_registered_model(name))
    if model is None:
        raise missing(name)
    return model


def _set(client: MlflowClient, name: str, alias: str, to: int | None) -> None:
    if to is None:
        client.delete_registered_model_alias(name, alias)
    else:
        client.set_registered_model_alias(name, alias, str(to))


def _place(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
