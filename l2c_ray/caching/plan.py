"""Works out from a mask, before any image is sampled, what each unit does at each step."""

from enum import Enum, auto

from l2c_ray.schedule import Mask


class Action(Enum):
    """What a unit does at one step."""

    COMPUTE = auto()
    """Compute; nobody needs the output again."""
    COMPUTE_AND_KEEP = auto()
    """Compute; a later step reuses the output."""
    REUSE = auto()
    """Take the kept output; a later step reuses it too."""
    REUSE_AND_DROP = auto()
    """Take the kept output for the last time, so that its memory is free."""


Plan = tuple[tuple[Action, ...], ...]
"""[steps][units]."""


def plan(mask: Mask) -> Plan:
    """The actions of a mask [steps][units] whose step 0 computes everything."""
    by_unit = [_actions(column) for column in zip(*mask, strict=True)]
    return tuple(zip(*by_unit, strict=True))


def _actions(column: tuple[int, ...]) -> list[Action]:
    """The actions of one unit over all steps."""
    actions = []
    for step, computed in enumerate(column):
        reused_next = step + 1 < len(column) and not column[step + 1]
        if computed:
            actions.append(Action.COMPUTE_AND_KEEP if reused_next else Action.COMPUTE)
        else:
            actions.append(Action.REUSE if reused_next else Action.REUSE_AND_DROP)
    return actions
