"""How overrides become a configuration: composed, checked, saved and read again.

Both sides of a federation call :func:`compose` with the same overrides and get the same
configuration; nothing else is shared. The YAML files in ``conf`` hold the values,
:mod:`fedkim_core.settings` says what they mean.
"""

import difflib
import shlex
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
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
    parsed = _parse(overrides)
    resume = [override.value() for override in parsed if override.key_or_group == "resume"]
    if resume and resume[-1] is not None:
        from fedkim_core.resume import continued  # which needs this file

        return continued(Path(str(resume[-1])), overrides)
    return check(_values(parsed))


def _values(parsed: Sequence[Override]) -> Any:
    """What Hydra makes of the overrides.

    The choices of files are composed once in a process; what sets a value in them is then a few
    assignments. What is not as plain as that is left to Hydra from the beginning, which also has
    the words for a mistake.
    """
    groups = set(_groups())
    choices = [override for override in parsed if override.key_or_group in groups]
    settings = [override for override in parsed if override.key_or_group not in groups]
    try:
        if all(map(_is_choice, choices)) and all(map(_is_setting, settings)):
            composed = deepcopy(_composed(_lines(choices), CONF))
            try:
                for override in settings:
                    OmegaConf.update(composed, override.key_or_group, override.value(), merge=True)
            except OmegaConfBaseException:
                composed = _hydra(_lines(parsed), CONF)
        else:
            composed = _hydra(_lines(parsed), CONF)
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, OSError) as error:
        raise UserError(_hydra_message(error)) from error
    if isinstance(values, dict):
        values.pop("experiment", None)
    return values


def _is_choice(override: Override) -> bool:
    return _is_assignment(override) and isinstance(override.value(), str)


def _is_setting(override: Override) -> bool:
    key = override.key_or_group
    return _is_assignment(override) and key.replace(".", "_").isidentifier() and key != "hydra"


def _is_assignment(override: Override) -> bool:
    """``key=value`` with one value, no ``+key``, ``~key``, ``key@package`` nor a sweep."""
    return override.type is OverrideType.CHANGE and not (
        override.package or override.is_sweep_override() or override.is_hydra_override()
    )


def _lines(overrides: Sequence[Override]) -> tuple[str, ...]:
    return tuple(str(override.input_line) for override in overrides)


def _hydra(words: tuple[str, ...], conf: Path) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return hydra_compose("config", overrides=list(words))


_composed = lru_cache(maxsize=32)(_hydra)
"""The folder is an argument as tests have others; its files do not change while a process runs."""


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


def _groups() -> dict[str, Path]:
    """The folders of ``conf``, by name."""
    return {path.name: path for path in CONF.iterdir() if path.is_dir()}


def _parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra's grammar reads them.

    Raises:
        UserError: one cannot be read, or ``group=choice`` picks a file that is not there; names
            the choices.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read override: {str(error).splitlines()[0]}") from error
    groups = _groups()
    for override in parsed:
        group, value = override.key_or_group, override.value()
        if not group:
            raise UserError(f"cannot read override: {override.input_line!r} names no setting")
        if group == "task":
            raise UserError(f"task={value}: select tasks with tasks=[name,...]")
        if group in groups:
            choices = sorted(path.stem for path in groups[group].glob("*.yaml"))
            if value not in choices:
                raise UserError(f"{group}={value}: unknown; one of {', '.join(choices)}")
    return parsed


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
