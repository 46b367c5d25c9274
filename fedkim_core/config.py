"""How overrides become a configuration: composed, checked, saved and read again.

Both sides of a federation call :func:`compose` with the same overrides and get the same
configuration; nothing else is shared. The YAML files in ``conf`` hold the values,
:mod:`fedkim_core.settings` says what they mean.
"""

import difflib
import os
import re
import shlex
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from fedkim_core.errors import UserError
from fedkim_core.files import write_whole
from fedkim_core.paths import CONF
from fedkim_core.settings import Config


def split_overrides(text: str) -> list[str]:
    """The run-config key ``overrides`` is one string; quote as in a shell."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"overrides={text!r}: {error}") from error


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose ``conf/config.yaml`` with Hydra overrides and check the result.

    With ``resume=RUN`` the values are those of that run instead.

    Raises:
        UserError: names every wrong key with its value and what is allowed.
    """
    if folder := _check_groups(overrides):
        from fedkim_core.resume import continued  # which needs this file

        return continued(Path(folder), overrides)
    words = tuple(overrides)
    variables = _variables(CONF) | set(_VARIABLE.findall(" ".join(words)))
    return check(_values(words, CONF, tuple((v, os.environ.get(v)) for v in sorted(variables))))


_VARIABLE = re.compile(r"oc\.env:(\w+)")


@lru_cache
def _variables(conf: Path) -> set[str]:
    """The environment variables that the YAML files name."""
    texts = (path.read_text() for path in conf.rglob("*.yaml"))
    return {name for text in texts for name in _VARIABLE.findall(text)}


@lru_cache(maxsize=32)
def _values(words: tuple[str, ...], conf: Path, environment: Hashable) -> Any:
    """What Hydra makes of the overrides; kept, as sites that share a process share their words.

    Args:
        words: the overrides.
        conf: the folder of the YAML files, which do not change while a process runs.
        environment: names and values of the variables that these name.
    """
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(words))
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        raise UserError(_hydra_message(error)) from error
    if isinstance(values, dict):
        values.pop("experiment", None)
    return values


def check(values: Any) -> Config:
    """The configuration that these values are.

    Raises:
        UserError: names every wrong key with its value and what is allowed.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise UserError(_schema_message(error)) from error
    _check_files(config)
    return config


def _check_files(config: Config) -> None:
    """Refuse a part whose file is not there now, not once the data have been prepared."""
    # These know the configuration. The files of the defaults get by without torch, so that a
    # command need not wait for it to refuse a mistake.
    from fedkim_core import codecs, corrections, trackers
    from fedkim_core.aggregation import combiner
    from fedkim_core.models import encoders
    from fedkim_core.server_optimisers import stepper

    trackers.check(config.tracking)
    combiner(config.strategy)
    stepper(config.strategy)
    codecs.choose(config.strategy.codec)
    corrections.choose(config.strategy)
    for kind, encoder in config.extractor.encoders:
        encoders.check(kind, encoder.name)


def _check_groups(overrides: Sequence[str]) -> str | None:
    """Name the choices when ``group=choice`` picks a file that is not there.

    Returns the value of ``resume``.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read override: {str(error).splitlines()[0]}") from error
    groups = {path.name: path for path in CONF.iterdir() if path.is_dir()}
    resume = None
    for override in parsed:
        group, value = override.key_or_group, override.value()
        if group == "resume":
            resume = None if value is None else str(value)
        if not group:
            raise UserError(f"cannot read override: {override.input_line!r} names no setting")
        if group == "task":
            raise UserError(f"task={value}: select tasks with tasks=[name,...]")
        if group in groups:
            choices = sorted(path.stem for path in groups[group].glob("*.yaml"))
            if value not in choices:
                raise UserError(f"{group}={value}: unknown; one of {', '.join(choices)}")
    return resume


def _hydra_message(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    text = " ".join(str(error).split())
    if "Could not override" in text or "not in struct" in text:
        name = text.split("'")[1] if "'" in text else str(key)
        if name in _known_keys():
            group = name.partition(".")[0]
            return f"{name}: the chosen {group} leaves it at its default; set it with +{name}=..."
        close = difflib.get_close_matches(name, _known_keys(), n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        return f"{name}: no such setting{hint}"
    if "Missing mandatory value" in text:
        return f"{key}: must be given, e.g. {key}=..."
    return text


def _known_keys() -> list[str]:
    def walk(model: type[BaseModel], prefix: str) -> list[str]:
        keys = []
        for name, field in model.model_fields.items():
            keys.append(prefix + name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                keys += walk(field.annotation, f"{prefix}{name}.")
        return keys

    return walk(Config, "")


def _schema_message(error: ValidationError) -> str:
    lines = []
    known = set(_known_keys())
    for fault in error.errors():
        parts = [str(part) for part in fault["loc"]]
        key = ".".join(parts)
        # Of a setting of several types pydantic adds the type that it tried last.
        while parts and key not in known and fault["type"] != "extra_forbidden":
            parts.pop()
            key = ".".join(parts)
        value = "" if isinstance(fault["input"], dict | BaseModel) else f"={fault['input']!r}"
        if fault["type"] == "extra_forbidden":
            close = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.4)
            hint = f"; did you mean {close[0]}?" if close else ""
            lines.append(f"{key}{value}: no such setting{hint}")
            continue
        message = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{key}{value}: {message[:1].lower()}{message[1:]}".lstrip(": "))
    return "; ".join(dict.fromkeys(lines))


def save(config: Config, folder: Path) -> None:
    """Write the resolved configuration to ``folder/config.yaml``, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(folder / "config.yaml", config.model_copy(update={"resume": None}).to_yaml())


def load(folder: Path) -> Config:
    """Read the configuration that :func:`save` wrote.

    Raises:
        UserError: there is none, or somebody has changed it for the worse.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path}: not found; is {folder} a run folder?")
    try:
        return Config.model_validate(OmegaConf.to_container(OmegaConf.load(path)))
    except ValidationError as error:
        raise UserError(f"{path}: {_schema_message(error)}") from error
    except (OSError, ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read: {reason}") from error
