import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from l2c_ray.distributed import local_head
from l2c_ray.distributed.local_head import LocalHead
from l2c_ray.distributed.temporary_folder import make_temporary_folder, temp_dir_in
from l2c_ray.errors import StorageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("L2C_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def head_of(pid: int, temp_dir: Path) -> LocalHead:
    return LocalHead(pid=pid, gcs_port=6379, dashboard_port=8265, serve_port=8000, temp_dir=str(temp_dir))


def test_no_head_is_found_where_none_was_started() -> None:
    assert local_head.find() is None


def test_stopping_a_dead_head_spares_the_program_that_has_its_pid_now(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    local_head.stop(head_of(sleeper.pid, tmp_path / "ray"))
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(timeout=0.5)


def test_files_of_a_dead_head_are_removed(folder: Path, sleeper: subprocess.Popen[bytes]) -> None:
    temp_dir = folder / "ray"
    (temp_dir / "session").mkdir(parents=True)
    (folder / "local-head.json").write_text(head_of(sleeper.pid, temp_dir).model_dump_json())
    (folder / "head.env").write_text("export A=b\n")
    assert local_head.find() is None
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("content", ['{"id": "a"}', "[]", "", '{"id": "a", "pid": 1, "port": 6379}'])
def test_state_of_another_version_is_refused_naming_its_file_and_kept(folder: Path, content: str) -> None:
    path = folder / "local-head.json"
    path.write_text(content)
    with pytest.raises(StorageError) as caught:
        local_head.find()
    assert caught.value.subject == str(path)
    assert "\n" not in str(caught.value)
    assert path.read_text() == content


def test_state_with_a_field_of_a_later_version_is_refused(folder: Path) -> None:
    state = json.loads(head_of(1, folder).model_dump_json()) | {"region": "here"}
    (folder / "local-head.json").write_text(json.dumps(state))
    with pytest.raises(StorageError, match="local-head.json"):
        local_head.find()


def test_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secrets" / "token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert local_head.token_file() == path
    made = local_head.token()
    assert len(made) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert local_head.token() == made


def test_token_of_the_environment_is_taken_and_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert local_head.token_file() is None
    assert local_head.token() == "s3cret"
    assert list(tmp_path.iterdir()) == []


def test_address_of_another_cluster_does_not_reach_a_head_and_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS"):
        monkeypatch.setenv(name, "http://elsewhere:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("KEPT", "as it is")
    variables = local_head.environment()
    assert not any("elsewhere" in value for value in variables.values())
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["KEPT"] == "as it is"
    assert variables["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_exports_keep_shells_from_asking_a_proxy_for_the_head(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "corp.example")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cret")
    exported = shell(local_head.exports(head_of(1, folder)) + 'printf "$NO_PROXY $no_proxy"')
    assert exported == " ".join(["corp.example,localhost,127.0.0.1,::1"] * 2)


def shell(script: str) -> str:
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout


def test_lock_of_a_start_lies_where_nobody_else_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "common"))
    (tmp_path / "common").mkdir()
    # As somebody else may have made it.
    (tmp_path / "common" / f"l2c-ray-{os.getuid()}.lock").mkdir()
    with local_head.one_start_at_a_time():
        (lock,) = (tmp_path / "user").rglob("*.lock")
        assert lock.stat().st_mode & 0o077 == 0
        assert lock.parent.stat().st_mode & 0o777 == 0o700


def test_lock_of_a_start_is_under_the_home_folder_of_a_user_without_a_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    with local_head.one_start_at_a_time():
        assert len(list(folder.glob("*.lock"))) == 1


def test_nobody_else_gets_into_the_folder_of_sockets_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = make_temporary_folder()
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        # Ray opens the one that it is given to everybody.
        assert temp_dir_in(folder).parent == folder
    finally:
        folder.rmdir()
