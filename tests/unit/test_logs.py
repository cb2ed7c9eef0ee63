import re
from pathlib import Path

import pytest

import l2c_ray
from l2c_ray.errors import StorageError
from l2c_ray.logs import logger
from l2c_ray.printable import MOST_CHARACTERS

HOSTILE = "\x1b[31mX\nerror: gone" + "x" * 50_000


def test_log_line_is_one_bounded_line_whatever_it_repeats(caplog: pytest.LogCaptureFixture) -> None:
    logger("l2c_ray.test").warning("%s of %d: %s", HOSTILE, 3, ValueError(HOSTILE))
    (line,) = caplog.messages
    assert line.isprintable()
    assert line.startswith("\\x1b[31mX\\nerror: gone")
    assert " of 3: " in line
    assert len(line) <= 2 * MOST_CHARACTERS + len(" of 3: ")


def test_error_in_a_log_line_keeps_all_its_parts(caplog: pytest.LogCaptureFixture) -> None:
    error = StorageError("a" * 400, "b" * 400, "c" * 400)
    logger("l2c_ray.test").warning("%s. Trying again for %.0f s", error, 2.5)
    assert caplog.messages == [f"{error}. Trying again for 2 s"]


def test_every_module_logs_so() -> None:
    package = Path(l2c_ray.__file__).parent
    others = [file for file in package.rglob("*.py") if re.search(r"getLogger\(__name__\)", file.read_text())]
    assert others == []
