"""Loggers whose arguments are printed in one printable line, whatever text from outside they hold."""

import logging

from l2c_ray.errors import L2CError
from l2c_ray.printable import printable


def logger(name: str) -> logging.Logger:
    """The logger of this name; arguments of its messages are made `printable`."""
    log = logging.getLogger(name)
    log.addFilter(_fill_printably)
    return log


def _fill_printably(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple):
        record.args = tuple(map(_printable, record.args))
    return True


def _printable(part: object) -> object:
    """The printable part; an L2CError is printable already, in several parts of full length."""
    return part if isinstance(part, int | float | L2CError) else printable(str(part))
