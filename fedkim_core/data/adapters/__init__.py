"""Public data sets, one file each; adding a file here adds the data set.

Every file exports the names of :class:`Adapter`.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from fedkim_core.data.prepare import Progress


class Adapter(Protocol):
    """What a module in this folder exports."""

    NAME: str
    MODALITIES: tuple[str, ...]
    TASKS: tuple[str, ...]
    LICENCE: str
    OBTAIN: str
    """One sentence: where the data set is to be had."""

    def prepare(
        self, source: Path, out: Path, *, sites: int, seed: int, progress: Progress | None = None
    ) -> None:
        """Read the official layout in ``source`` and write the network folder ``out``.

        Raises:
            UserError: a file of the data set is missing or broken, or ``out`` cannot be written.
        """


def available() -> dict[str, Adapter]:
    """Every adapter, by its ``NAME``.

    Raises:
        TypeError: a file in this folder lacks one of the names (a mistake of its author).
    """
    found: dict[str, Adapter] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        names = (*Adapter.__annotations__, "prepare")
        if absent := [name for name in names if not hasattr(module, name)]:
            raise TypeError(f"{module.__file__}: an adapter must export {absent[0]}")
        found[module.NAME] = cast(Adapter, module)
    return dict(sorted(found.items()))
