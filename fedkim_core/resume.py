"""``resume=RUN``: the configuration of a run that is gone on with is the run's own."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedkim_core import config as configuration
from fedkim_core.errors import UserError
from fedkim_core.paths import CONF
from fedkim_core.settings import Config

FREE = {"output", "resume", "tracking"}
"""Keys that a resumed run may have otherwise, besides ``rounds`` raised."""


def continued(folder: Path, overrides: Sequence[str]) -> Config:
    """The configuration of the run in ``folder``, with the overrides that it allows.

    An override that says what the run has anyway is no fault, so its command can be repeated.
    ``output`` defaults to ``folder``.

    Raises:
        UserError: no run folder; or names the key that contradicts the run.
    """
    folder = folder.expanduser().absolute()
    saved = configuration.load(folder).model_dump(mode="json")
    saved |= {"output": str(folder), "resume": str(folder)}
    wanted = OmegaConf.create(saved)
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, value = override.key_or_group, override.value()
        if key in groups:
            _check_group(folder, key, value, saved)
        elif key != "resume":
            try:
                OmegaConf.update(wanted, key, value)
            except (OmegaConfBaseException, ValueError, TypeError) as error:
                reason = " ".join(str(error).split())
                raise UserError(f"{override.input_line}: cannot be set: {reason}") from error
    config = configuration.check(OmegaConf.to_container(wanted))
    now = dict(_flat(config.model_dump(mode="json")))
    for key, before in _flat(saved):
        if key == "rounds" and now[key] > before and config.injector.few_shot:
            raise UserError(
                f"rounds={now[key]}: the run in {folder} ends with tuning on examples of unseen "
                f"tasks (injector.few_shot={config.injector.few_shot}) after round {before}, and "
                "more rounds would train on top of it; begin a new run with as many rounds"
            )
        if key == "rounds" and now[key] >= before:
            continue
        if key not in FREE and now.get(key) != before:
            more = "; only more rounds are possible" if key == "rounds" else ""
            raise UserError(
                f"{key}={now.get(key)}: the run in {folder} has {key}={before}, and a resumed run "
                f"keeps its settings{more}; leave it out"
            )
    return config


def _check_group(folder: Path, group: str, choice: Any, saved: Mapping[str, Any]) -> None:
    has = (saved.get(group) or {}).get("name")
    if choice != has:
        raise UserError(
            f"{group}={choice}: the run in {folder} has {group}={has or '(its own values)'}, and a "
            "resumed run keeps its settings; leave it out"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
