"""`l2c registry promote`: runs the promotion job and reports its verdicts and moves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from l2c_ray.cli.inputs import require_there
from l2c_ray.cli.json_output import print_json
from l2c_ray.cli.output import checks_table, console, move_in_words
from l2c_ray.cli.progress import progress_display
from l2c_ray.config.promotion import PromotionConfig
from l2c_ray.errors import L2CError

if TYPE_CHECKING:
    from l2c_ray.distributed.promotion import Verdict
    from l2c_ray.registry.audit import AliasMove


def promote_and_report(config: PromotionConfig, as_json: bool) -> None:
    """Measures with a progress display, then prints the verdicts and the moves, also if the gate says no."""
    require_there("promotion.checkpoint", config.promotion.checkpoint)

    from l2c_ray.distributed.promotion import promote

    found: list[Verdict] = []
    moves: list[AliasMove] = []
    try:
        with progress_display() as display:
            promote(config, found.extend, moves.append, display.on_images)
    except L2CError:
        if found:
            _report(found, moves, as_json)
        raise
    _report(found, moves, as_json)


def _report(verdicts: list[Verdict], moves: list[AliasMove], as_json: bool) -> None:
    if as_json:
        print_json(_as_dict(verdicts, moves))
        return
    for verdict in verdicts:
        proposal = verdict.proposal
        console.print(f"{proposal.version.name} version {proposal.version.version} for {proposal.alias}")
        console.print(checks_table(check.as_dict() for check in verdict.checks))
    if not verdicts:
        console.print("every alias is at its version already")
    for move in moves:
        console.print(move_in_words(move), soft_wrap=True)


def _as_dict(verdicts: list[Verdict], moves: list[AliasMove]) -> dict[str, Any]:
    return {
        "verdicts": [
            {
                "name": verdict.proposal.version.name,
                "version": verdict.proposal.version.version,
                "alias": verdict.proposal.alias,
                "incumbent": verdict.proposal.incumbent,
                "passed": verdict.passed,
                "checks": [check.as_dict() for check in verdict.checks],
            }
            for verdict in verdicts
        ],
        "moves": [asdict(move) for move in moves],
    }
