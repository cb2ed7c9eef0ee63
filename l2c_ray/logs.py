"""Log lines of ours: one printable line each, whatever they repeat of others."""

import logging

from l2c_ray.errors import L2CError
from l2c_ray.printable import printable


def logger(name: str) -> logging.Logger:
    """The logger of this name. What its messages are filled with comes out as by `printable`."""
    log = logging.getLogger(name)
    log.addFilter(_fill_printably)
    return log


def _fill_printably(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_printable, record.args))
    return True


def _printable(part: object) -> object:
    """The part; of an error of ours all is printable already, and it has several parts of full length."""
    return part if isinstance(part, int | float | L2CError) else printable(str(part))
