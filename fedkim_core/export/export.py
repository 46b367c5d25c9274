"""``fedkim export``: tasks of a finished run as folders that work without fedkim."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedkim_core.data.examples import Example
from fedkim_core.errors import UserError
from fedkim_core.export import folder as folders
from fedkim_core.export.adapter import folded, modality_set, truncated
from fedkim_core.export.base import Base, base_of
from fedkim_core.export.card import model_card
from fedkim_core.export.check import Check, compare, restricted, run_answers
from fedkim_core.export.load import ExportedModel
from fedkim_core.models.injected import InjectedModel
from fedkim_core.report.schema import Summary
from fedkim_core.settings import Config


@dataclass(frozen=True)
class Wish:
    """How the tasks are to be exported."""

    modalities: tuple[str, ...] | None = None
    """None: all that a task reads."""
    rank: int | None = None
    """None: the adapter's own."""
    merge: bool = False


@dataclass(frozen=True)
class Exported:
    task: str
    folder: Path
    check: Check | None
    """None where the run's validation set was not at hand or has no example of the task."""

    @property
    def said(self) -> str:
        """One line: what was measured."""
        check = self.check
        if check is None:
            return "written; not measured, the run's validation set has nothing for it here"
        run, own = (
            "n/a" if value is None else f"{value:.3f}" for value in (check.run, check.export)
        )
        return (
            f"{check.metric} on {check.n} validation examples {run} in the run, {own} exported; "
            f"{check.same_answers:.1%} of the answers are the same"
        )


def export(
    model: InjectedModel,
    config: Config,
    tasks: Sequence[str],
    out: Path,
    wish: Wish,
    *,
    single: bool,
    validation: Sequence[Example],
    summary: Summary | None,
    synthetic: bool | None,
) -> list[Exported]:
    """Write one folder per task, all of them or none.

    Args:
        model: the run's model, in float32.
        out: new folder; the export itself if ``single``, otherwise it holds one for each task.
        validation: examples on which every export is measured against ``model``; may be empty.

    Raises:
        UserError: a task, modality or rank that the run does not have, a base model that is gone,
            or a folder that cannot be written.
    """
    if model.experts is None and wish.rank is not None:
        raise UserError(f"--rank: this run ({config.injector.name}) has no adapter to compress")
    if model.experts is None and not wish.merge:
        raise UserError(
            f"this run ({config.injector.name}) has no adapter; export it with --merge, as the "
            "base model with encoders and connectors"
        )
    wanted = [_export(model, task, wish) for task in tasks]
    with base_of(config.foundation) as base, folders.new_folder(out) as scratch:
        checks = []
        for export in wanted:
            place = scratch if single else scratch / export.task
            folders.write(place, export, model, config, base)
            if wish.merge:
                folders.merge(place, base)
            about = folders.describe(export, model, config, base, synthetic)
            folders.write_json(place / "fedkim.json", about)
            check = _check(place, export, model, config, base, validation)
            about["check"] = check.to_json() if check else None
            folders.write_json(place / "fedkim.json", about)
            text = model_card(
                export,
                model.cards[export.task],
                config,
                base,
                summary,
                check,
                merged=wish.merge,
                synthetic=synthetic,
            )
            (place / "README.md").write_text(text)
            checks.append(check)
    return [
        Exported(e.task, out if single else out / e.task, check)
        for e, check in zip(wanted, checks, strict=True)
    ]


def _export(model: InjectedModel, task: str, wish: Wish) -> folders.Export:
    present = modality_set(model, task, wish.modalities)
    adapter = folded(model, task, present)
    if adapter is not None and wish.rank is not None:
        adapter = truncated(adapter, wish.rank)
    return folders.Export(task, present, adapter)


def _check(
    place: Path,
    export: folders.Export,
    model: InjectedModel,
    config: Config,
    base: Base,
    validation: Sequence[Example],
) -> Check | None:
    card = model.cards[export.task]
    examples = restricted(validation, export.task, export.present)
    if not examples:
        return None
    wanted = run_answers(model, card, examples, config.evaluation.max_new_tokens)
    exported = ExportedModel(place, str(base.folder))
    return compare(exported, card, export.present, examples, wanted)
