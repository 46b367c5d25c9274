"""Methods that a configuration picks by file name, and the check of their settings.

A method is one file of a package, such as ``fedkim_core/aggregation/median.py``, with one function.
What the function takes by keyword only are the method's settings: their annotations say type and
range, their values stand in ``conf/strategy`` where the function has no default.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from fedkim_core.errors import UserError
from fedkim_core.settings import Chosen

_NONE = inspect.Parameter.empty


def files(path: Iterable[str]) -> list[str]:
    """Names of the files of a package, by its ``__path__``; none of them is read."""
    return sorted(module.name for module in pkgutil.iter_modules(path))


def find(package: str, function: str, key: str, chosen: Chosen) -> Callable[..., Any]:
    """``function`` of ``package``'s file ``chosen.name``, with the settings that were chosen.

    Args:
        package: e.g. ``fedkim_core.aggregation``.
        function: its name in every file of the package.
        key: where the choice stands in the configuration, for messages.
        chosen: name of the file, and settings.

    Raises:
        UserError: there is no such method, or it does not take these settings.
    """
    folder = importlib.import_module(package)
    names = files(folder.__path__)
    if chosen.name not in names:
        raise UserError(f"{key}.name={chosen.name}: unknown; one of {', '.join(names)}")
    method = getattr(importlib.import_module(f"{package}.{chosen.name}"), function)
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is _NONE else parameter.default)
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    rules = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    try:
        settings = create_model("Settings", __config__=rules, **fields)(**chosen.settings)
    except ValidationError as error:
        raise UserError(_faults(error, key, chosen.name)) from error
    return partial(method, **settings.model_dump())


def _faults(error: ValidationError, key: str, method: str) -> str:
    lines = []
    for fault in error.errors():
        name = ".".join([key, *map(str, fault["loc"])])
        if fault["type"] == "extra_forbidden":
            lines.append(f"{name}={fault['input']!r}: {method} has no such setting")
        elif fault["type"] == "missing":
            lines.append(f"{name}: {method} needs it; set it with +{name}=...")
        else:
            message = fault["msg"]
            lines.append(f"{name}={fault['input']!r}: {message[:1].lower()}{message[1:]}")
    return "; ".join(lines)
