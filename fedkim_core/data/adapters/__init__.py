"""Public data sets, one file each; adding a file here adds the data set.

Every file exports the names of :class:`Adapter`.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from fedkim_core.data.prepare import SourceData
from fedkim_core.errors import UserError


class Adapter(Protocol):
    """What a module in this folder exports."""

    NAME: str
    MODALITIES: tuple[str, ...]
    TASKS: tuple[str, ...]
    LICENCE: str
    OBTAIN: str
    """One sentence: where the data set is to be had."""

    def read(self, source: Path, scratch: Path) -> SourceData:
        """Read the official layout in ``source``, unmodified.

        Memory does not grow with the data set: images and signals are read when they are asked
        for, and long tables go to parquet files in ``scratch``, which is removed after writing.
        Settings of a data set are further keyword-only parameters of type str, int, float or bool,
        each with a default: ``fedkim prepare NAME --set key=value``.

        Raises:
            UserError: a file of the data set is missing or broken.
        """


def available() -> dict[str, Adapter]:
    """Every adapter, by its ``NAME``.

    Raises:
        TypeError: a file in this folder lacks one of the names (a mistake of its author).
    """
    found: dict[str, Adapter] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        names = (*Adapter.__annotations__, "read")
        if absent := [name for name in names if not hasattr(module, name)]:
            raise TypeError(f"{module.__file__}: an adapter must export {absent[0]}")
        found[module.NAME] = cast(Adapter, module)
    return dict(sorted(found.items()))


def settings(adapter: Adapter) -> dict[str, inspect.Parameter]:
    """The settings of a data set: the keyword-only parameters of its ``read``."""
    parameters = inspect.signature(adapter.read).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def settings_of(adapter: Adapter, words: Sequence[str]) -> dict[str, Any]:
    """``["rate=500"]`` as arguments of ``read``, in the types of its defaults.

    Raises:
        UserError: no such setting, or a value of the wrong type.
    """
    known = settings(adapter)
    given: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            names = ", ".join(known) or "none"
            raise UserError(f"--set {word}: {adapter.NAME} has no such setting; known: {names}")
        kind = type(known[key].default)
        try:
            given[key] = TypeAdapter(kind).validate_python(value)
        except ValidationError as error:
            raise UserError(f"--set {word}: must be {kind.__name__}") from error
    return given
