"""Moves of aliases, each recorded in the registry; nothing else changes an alias."""

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
"""Length limit of a reason in characters: a tag holds 5000, and JSON may take six for one."""


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
    """Moves an alias of a registered model and records who did so, when, from where to where, and why.

    Concurrent moves are serialised by a mutex; the later one finds the alias elsewhere and is refused.

    Args:
        to: the version that gets the alias; None removes it.
        expected: the version that had it when the move was decided; None for no version.
        why: reason for the model's history.
        rollback: the move takes the last one back, so that no rule repeats that one.

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
        # The record comes first, so that no move lacks one if this process is killed.
        client.set_registered_model_tag(name, *move.tag)
        try:
            _set(client, name, alias, to)
        except Exception:
            # The server may have moved it although its answer was lost.
            if holder_of(client, name, alias) == current:
                client.delete_registered_model_tag(name, move.tag[0])
            raise
    return move


@server_errors()
def roll_back(client: MlflowClient, name: str, alias: str, why: str) -> AliasMove:
    """Moves an alias back to where it was before its last move; a second rollback undoes the first.

    Raises:
        RegistryError: the alias was never moved by `move_alias`, or was moved by something else since.
        ConflictError: another process moves it at the same time.
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
    """All moves of the registered model's aliases, the oldest first.

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
