"""What a search leaves: its trials, the best settings as an experiment, and what mattered."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial, TrialState

from fedkim_core.paths import CONF
from fedkim_core.tune.search import JUDGES, Search


def conclude(search: Search) -> list[Path]:
    """Write ``trials.csv`` and, once a trial is complete, ``best.yaml`` and ``importance.svg``."""
    written = [_trials(search)]
    complete = search.trials(TrialState.COMPLETE)
    if complete:
        written.append(_best(search))
    if figure := _importance(search, complete):
        written.append(figure)
    return written


def _trials(search: Search) -> Path:
    path = search.root / "trials.csv"
    keys = [d.key for d in search.space.dimensions]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "value", "seconds", *keys, "reason"])
        for t in search.trials():
            if t.state != TrialState.WAITING:
                values = [t.params.get(key, "") for key in keys]
                told = [t.user_attrs.get(name, "") for name in ("seconds", "reason")]
                value = "" if t.value is None else t.value
                writer.writerow([t.number, t.state.name.lower(), value, told[0], *values, told[1]])
    return path


def _best(search: Search) -> Path:
    best = search.study.best_trial
    path = search.root / "best.yaml"
    head = (
        "# @package _global_\n"
        f"# Trial {best.number} of {len(search.trials())}: "
        f"{JUDGES[search.by][0]} {best.value:.4f}.\n"
        "# Copy to conf/experiment/NAME.yaml, then: fedkim run experiment=NAME\n"
    )
    settings = experiment(search.space.words(best.params))
    path.write_text(head + yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def experiment(words: Sequence[str]) -> dict[str, Any]:
    """Overrides as the content of a file of ``conf/experiment``; the last word on a key counts."""
    base: list[Any] = []
    groups: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(words)):
        key, value = override.get_key_element().lstrip("+"), override.value()
        if key == "experiment":
            base = [value]
        elif (CONF / key).is_dir():
            groups[f"override /{key}"] = str(value)
        else:
            place = settings
            *parents, last = key.split(".")
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = _plain(value)
    defaults = [*base, *({group: choice} for group, choice in groups.items())]
    return ({"defaults": defaults} if defaults else {}) | settings


def _plain(value: Any) -> Any:
    """Hydra's quoted strings as strings, in lists as well."""
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    return (
        value
        if isinstance(value, bool | int | float | None)
        else str(getattr(value, "text", value))
    )


def _importance(search: Search, complete: Sequence[FrozenTrial]) -> Path | None:
    """How much of the difference between good and other trials each setting explains.

    PED-ANOVA (Watanabe et al. 2023). None while trials are too few or all alike.
    """
    keys = [d.key for d in search.space.dimensions]
    if len(complete) < 4 or len(keys) < 2 or len({t.value for t in complete}) < 2:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    shares = get_param_importances(search.study, evaluator=PedAnovaImportanceEvaluator())
    order = sorted(shares, key=lambda key: shares[key])
    figure = Figure(figsize=(7, 1.1 + 0.34 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.barh(order, [shares[key] for key in order], color="#0b5cad")
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the importance (PED-ANOVA)")
    axes.set_title(f"What mattered, in {len(complete)} complete trials", fontsize=9)
    path = search.root / "importance.svg"
    with rc_context({"svg.hashsalt": "fedkim"}):  # same data, same bytes
        figure.savefig(path, metadata={"Date": None})
    return path
