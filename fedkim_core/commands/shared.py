"""What the commands share: the terminal, progress, and packages that may be missing."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedkim_core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console


def require(*modules: str, extra: str = "server,simulation") -> None:
    """Refuse a command whose optional packages are not installed.

    Raises:
        UserError: names the package and how to install it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{module} is not installed; install 'fedkim[{extra}]'")


def require_run(folder: Path) -> None:
    """Refuse what is no run folder before seconds are spent on what its model needs.

    Raises:
        UserError: says why it is none.
    """
    from fedkim_core.config import load

    load(folder)


def terminal() -> "Console":
    from rich.console import Console

    # Rich takes 80 columns for a file or pipe; the table of results wants more.
    return Console(width=None if sys.stdout.isatty() else 120)


@contextmanager
def progress_view() -> Iterator[Callable[[str, int, int], None]]:
    from fedkim_core.view import PrepareView

    with PrepareView(terminal()) as view:
        yield view


def quiet() -> None:
    """Silence transformers' progress bars and what it says of its own future."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
