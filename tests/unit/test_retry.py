"""Retries: how often and how long, and which error is told in the end."""

import pytest
from clocks import Clock

from l2c_ray.storage import retry as retrying
from l2c_ray.storage.retry import Backoff, retry


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    passing = Clock()
    monkeypatch.setattr(retrying, "time", passing)
    return passing


def test_pauses_double_up_to_four_seconds_and_end_at_the_deadline(clock: Clock) -> None:
    backoff = Backoff(20.0)
    pauses = []
    while (pause := backoff.pause_after(OSError())) is not None:
        pauses.append(pause)
        clock.sleep(pause)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 0.25]


def test_deadline_is_counted_from_the_first_failure(clock: Clock) -> None:
    attempts: list[float] = []

    def work() -> str:
        if not attempts:
            clock.sleep(100.0)
        attempts.append(clock.now)
        if len(attempts) < 3:
            raise OSError
        return "done"

    assert retry(work, 1.0, (OSError,)) == "done"
    assert len(attempts) == 3


def test_last_error_is_raised_and_others_are_not_retried(clock: Clock) -> None:
    errors = iter(OSError(number) for number in range(100))

    def fail() -> None:
        raise next(errors)

    with pytest.raises(OSError, match="^3$"):
        retry(fail, 1.0, (OSError,))
    with pytest.raises(OSError, match="^4$"):
        retry(fail, 1.0, (KeyError,))
    with pytest.raises(OSError, match="^5$"):
        retry(fail, 0.0, (OSError,))


def test_long_outage_is_logged_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by what reaches the root logger, which is every library's to configure.
    logged: list[str] = []
    monkeypatch.setattr(retrying._log, "warning", lambda message, *given: logged.append(message % given))
    with pytest.raises(OSError, match="away"):
        retry(lambda: (_ for _ in ()).throw(OSError("away")), 20.0, (OSError,))
    assert logged == ["away. Trying again for 20 s"]
