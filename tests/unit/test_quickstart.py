import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

Access = Callable[[str], str]


@pytest.fixture(scope="module")
def mlflow_access() -> Access:
    quickstart = runpy.run_path(str(Path(__file__).parents[2] / "jobs" / "quickstart.py"))
    access: Access = quickstart["mlflow_access"]
    return access


def test_pages_of_a_local_registry_are_a_command_away(mlflow_access: Access) -> None:
    shown = mlflow_access("sqlite:////home/me/my models/mlflow.db")
    assert "mlflow ui --host 127.0.0.1 " in shown
    assert shown.endswith("--backend-store-uri 'sqlite:////home/me/my models/mlflow.db'")


def test_tracking_server_is_shown_by_its_address(mlflow_access: Access) -> None:
    assert mlflow_access("https://mlflow.example:5000") == "https://mlflow.example:5000"


@pytest.mark.parametrize("scheme", ["http", "https", "postgresql+psycopg"])
def test_password_is_never_shown(mlflow_access: Access, scheme: str) -> None:
    assert "s3cret" not in mlflow_access(f"{scheme}://me:s3cret@mlflow.example/db")
