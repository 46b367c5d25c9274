"""The guard: code of another copy is refused, wherever the copies lie."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedkim_core import guard
from fedkim_core.errors import UserError
from fedkim_core.paths import APP, CONF


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A second copy of the application."""
    copy = tmp_path / "apps" / "fedkim.fedkim.0.1.0.abcdef12"
    for name in (*guard.PACKAGES, "conf"):
        shutil.copytree(APP / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def check_in_new_process(code: str, *path: Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "FLWR_HOME": str(home),
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=home, capture_output=True, text=True
    )


def test_own_files_pass() -> None:
    guard.check_origin(guard.__file__, str(APP / "server_app" / "app.py"))


def test_a_file_of_another_copy_is_refused(other: Path) -> None:
    with pytest.raises(UserError, match=r"client_app.*was imported, but the running app is") as e:
        guard.check_origin(str(other / "client_app" / "app.py"))
    assert str(APP) in str(e.value)


def test_a_mixed_process_is_refused(other: Path) -> None:
    code = (
        "import sys, fedkim_core, fedkim_core.guard as guard\n"
        f"sys.path.insert(0, {str(APP)!r})\n"
        "import client_app\n"
        f"assert client_app.__file__.startswith({str(APP)!r})\n"
        "guard.check_origin()"
    )
    shutil.rmtree(other / "client_app")
    done = check_in_new_process(code, other, home=other.parent)
    assert done.returncode != 0
    assert "client_app" in done.stderr.splitlines()[-1]
    assert "was imported" in done.stderr.splitlines()[-1]


def test_a_process_that_left_the_bundle_is_refused(other: Path) -> None:
    """As Ray workers did: the checkout came first on the path, the bundle second."""
    code = "import fedkim_core.guard as guard; guard.check_origin()"
    home = other.parent.parent
    assert check_in_new_process(code, APP, other, home=home).returncode == 0  # the same code
    with (other / "client_app" / "__init__.py").open("a") as file:
        file.write("CHANGED = True\n")
    done = check_in_new_process(code, APP, other, home=home)
    assert done.returncode != 0
    assert f"the running app is {other}" in done.stderr.splitlines()[-1]
    assert check_in_new_process(code, other, APP, home=home).returncode == 0


def test_digest_is_of_the_content_not_of_the_place(other: Path) -> None:
    own = guard.code_digest()
    assert guard.code_digest(other, other / "conf") == own
    (other / "fedkim_core" / "__pycache__").mkdir()
    (other / "fedkim_core" / "__pycache__" / "x.py").write_text("left = 'by a tool'")
    guard.code_digest.cache_clear()
    assert guard.code_digest(other, other / "conf") == own


@pytest.mark.parametrize("changed", ["client_app/__init__.py", "conf/config.yaml"])
def test_digest_sees_every_change(other: Path, changed: str) -> None:
    before = guard.code_digest()
    with (other / changed).open("a") as file:
        file.write("\n# another version\n")
    assert guard.code_digest(other, other / "conf") != before


def test_digest_sees_a_renamed_file(other: Path) -> None:
    (other / "conf" / "config.yaml").rename(other / "conf" / "renamed.yaml")
    assert guard.code_digest(other, other / "conf") != guard.code_digest(APP, CONF)


def test_require_digest() -> None:
    guard.require_digest(guard.code_digest())
    with pytest.raises(
        UserError, match=r"the server runs other code .0123456789ab. than this site"
    ):
        guard.require_digest("0123456789abcdef")
