"""Optuna's own tests of what a storage must hold to, on the journal of a study that has no database."""

from pathlib import Path

import pytest
from optuna.storages import JournalStorage
from optuna.testing.pytest_storages import StorageTestCase

from l2c_ray.search.journal import Journal


class TestJournal(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> JournalStorage:
        return JournalStorage(Journal(tmp_path / "study.journal"))
