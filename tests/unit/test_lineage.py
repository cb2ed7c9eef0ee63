import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import l2c_ray
from l2c_ray.registry.lineage import commit_of

PROJECT = Path(l2c_ray.__file__).parents[1]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit_everything(folder: Path) -> str:
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return git(folder, "rev-parse", "HEAD")


def copy_package(folder: Path) -> None:
    shutil.copytree(PROJECT / "l2c_ray", folder / "l2c_ray", ignore=shutil.ignore_patterns("embedded", "__pycache__"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    copy_package(folder)
    return folder


def test_clean_checkout_is_its_commit(checkout: Path) -> None:
    assert commit_of(checkout) is None
    commit = commit_everything(checkout)
    (checkout / "untracked").write_text("of no matter")
    assert commit_of(checkout) == commit


def test_tag_changes_nothing(checkout: Path) -> None:
    commit = commit_everything(checkout)
    git(checkout, "tag", "--annotate", "v1", "--message", "first")
    assert commit_of(checkout) == commit


def test_changed_file_makes_the_commit_dirty(checkout: Path) -> None:
    commit = commit_everything(checkout)
    with (checkout / "l2c_ray" / "errors.py").open("a") as file:
        file.write("# changed\n")
    assert commit_of(checkout) == f"{commit}-dirty"


def test_deleted_file_makes_the_commit_dirty(checkout: Path) -> None:
    commit = commit_everything(checkout)
    (checkout / "l2c_ray" / "errors.py").unlink()
    assert commit_of(checkout) == f"{commit}-dirty"


def test_repository_of_somebody_else_around_an_installation_is_not_ours(tmp_path: Path) -> None:
    site_packages = tmp_path / "venv" / "site-packages"
    site_packages.mkdir(parents=True)
    (tmp_path / "stranger.py").write_text("")
    commit_everything(tmp_path)
    copy_package(site_packages)
    script = "import l2c_ray; from l2c_ray.registry import lineage; print(l2c_ray.__file__, lineage.git_commit())"
    # Without the environment's packages, where this one is installed from a checkout.
    found = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=site_packages, capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [str(site_packages / "l2c_ray" / "__init__.py"), "None"]


def test_folder_that_is_not_there_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path / "none") is None
