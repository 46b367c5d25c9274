"""Refuses code that does not belong to the running application.

Flower unpacks the application on every machine and imports it by the generic names
``server_app``, ``client_app`` and ``fedkim_core``. A worker that finds another copy of one of them
first (an older checkout in the working directory, an installed version on the path) would run
that copy without a word. Two checks prevent it: where this process imported from, and whether
both sides hold the same code.
"""

import hashlib
import os
import sys
from functools import cache
from pathlib import Path

from fedkim_core.errors import UserError
from fedkim_core.paths import APP, CONF

PACKAGES = ("client_app", "fedkim_core", "server_app")


class OtherCode(UserError):
    """Server and site hold different versions of fedkim."""


def check_origin(*files: str) -> None:
    """Refuse to go on when this process runs, or mixes in, another copy of the application.

    Both applications call it on import with their own ``__file__``. A copy whose code and
    configuration equal the running bundle's passes: ``flwr run .`` in a checkout makes its Ray
    workers import from there.

    Args:
        files: ``__file__`` of modules that must lie in a package beside the imported
            ``fedkim_core``.

    Raises:
        UserError: names the module's file and the folder it should have come from.
    """
    running = _bundle()
    if running and running != APP and code_digest(running, running / "conf") != code_digest():
        raise UserError(
            f"fedkim_core was imported from {APP}, but the running app is {running}; "
            "remove the first from PYTHONPATH or start Flower's SuperLink from another directory"
        )
    loaded = [sys.modules[name].__file__ for name in PACKAGES if name in sys.modules]
    for file in (*files, *(name for name in loaded if name)):
        if Path(file).resolve().parent.parent != APP:
            raise UserError(
                f"{file} was imported, but the running app is {APP}; "
                "remove the other copy from PYTHONPATH, or start the SuperLink somewhere else"
            )


def _bundle() -> Path | None:
    """The bundle that Flower put on the path of this process, if Flower runs it.

    Flower (``flwr.supercore.object_ref.load_app``) inserts ``$FLWR_HOME/apps/<bundle>`` at the
    head of ``sys.path`` before it imports a component.
    """
    home = Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr").resolve()
    for entry in sys.path:
        if entry and Path(entry).resolve().parent == home / "apps":
            return Path(entry).resolve()
    return None


@cache
def code_digest(app: Path = APP, conf: Path = CONF) -> str:
    """SHA-256 over every Python file of the three packages and every YAML file of ``conf`` but
    for ``conf/matrix``.

    Independent of where the application lies: the server puts its own into each message, a
    client compares (:func:`require_digest`).
    """
    files = {
        path.relative_to(app).as_posix(): path
        for package in PACKAGES
        for path in (app / package).rglob("*.py")
        if "__pycache__" not in path.parts
    }
    files |= {
        f"conf/{path.relative_to(conf).as_posix()}": path
        for path in conf.rglob("*.yaml")
        # Lists of runs change no run: one more cell must not make finished ones out of date.
        if path.relative_to(conf).parts[0] != "matrix"
    }
    digest = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def require_digest(expected: str) -> None:
    """Refuse a message from a server whose code is not this code.

    Raises:
        OtherCode: names both digests and the folder of the code at hand.
    """
    own = code_digest()
    if own != expected:
        raise OtherCode(
            f"the server runs other code ({expected[:12]}) than this site ({own[:12]} in {APP}); "
            "run the same version of fedkim on both"
        )
