"""The model card of an export, ``README.md``."""

from fedkim_core.export.base import Base
from fedkim_core.export.check import Check
from fedkim_core.export.folder import Export
from fedkim_core.report.parts import Estimate
from fedkim_core.report.schema import Summary
from fedkim_core.settings import Config
from fedkim_core.tasks import TaskCard

NAMES = {
    "before": "foundation model alone",
    "extractor": "federated encoders with their own heads",
    "injected": "this model, with its live gate",
}


def model_card(
    export: Export,
    card: TaskCard,
    config: Config,
    base: Base,
    summary: Summary | None,
    check: Check | None,
    *,
    merged: bool,
    synthetic: bool | None,
) -> str:
    """The card as Markdown, with the front matter that Hugging Face reads."""
    parts = [
        _front(base, merged=merged, synthetic=synthetic),
        f"# {export.task}: a medical foundation model with federated knowledge (fedkim)\n",
        _data_line(synthetic),
        f"> {card.question}\n\n{card.description}",
        _use(card, export, base, merged=merged),
        _base(base),
        _training(config, summary),
        _results(export.task, card, summary),
        _fidelity(export, check),
        _limits(card, export),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _front(base: Base, *, merged: bool, synthetic: bool | None) -> str:
    tags = ["medical", "federated-learning", "fedkim", *(["synthetic-data"] if synthetic else [])]
    lines = [f"base_model: {base.name}", f"license: {base.licence.lower()}"]
    lines += [f"library_name: {'transformers' if merged else 'peft'}"]
    lines += ["tags:", *(f"- {tag}" for tag in tags)]
    return "---\n" + "\n".join(lines) + "\n---"


def _data_line(synthetic: bool | None) -> str:
    if synthetic is None:
        return "**The run does not say whether its data are real or synthetic.**"
    if synthetic:
        return (
            "**Trained on synthetic patients. It knows nothing about real ones and must not be "
            "asked about them.**"
        )
    return "**Trained on data of real patients. Research software, not a medical device.**"


def _use(card: TaskCard, export: Export, base: Base, *, merged: bool) -> str:
    given = ", ".join(export.present)
    lines = [f"## Use\n\nReads: {given}. Answers: {card.answer.replace('_', '/')}."]
    lines.append("Shapes, units, leads and variables stand in `fedkim.json`, `encoders`.")
    lacking = [m for m in card.modalities if m not in export.present]
    if lacking:
        lines.append(f"Made without {', '.join(lacking)}, which the task can read too.")
    if len([m for m in export.present if m != "text"]) > 1:
        lines.append(
            "The gate was folded for a patient who has all of these. Without one of them it still "
            "answers, but not exactly as the run's own model would."
        )
    option = "" if merged else " --base FOLDER_OF_THE_BASE_MODEL"
    lines.append(f"\n```\npython load.py STUDY.safetensors{option}\n```\n")
    lines.append(
        "`load.py` needs no fedkim and shows how the parts fit together. "
        + (
            "`AutoModelForCausalLM.from_pretrained` loads the language model from this folder."
            if merged
            else "`PeftModel.from_pretrained(base, folder)` loads the adapter alone."
        )
        + " Alone it reads text; patients come in through `encoders.safetensors` and "
        "`connectors.safetensors`."
    )
    return "\n".join(lines)


def _base(base: Base) -> str:
    return (
        f"## Base model\n\n{base.name}, licence: {base.licence}. SHA-256 of its weights: "
        f"`{base.sha256}`. {base.note}"
    )


def _training(config: Config, summary: Summary | None) -> str:
    privacy = ", ".join(f"{key} {value}" for key, value in config.privacy.model_dump().items())
    lines = [
        f"## Training\n\nStrategy {config.strategy.name}, {config.rounds} rounds, seed "
        f"{config.seed}; injector {config.injector.name}; data {config.data.name}. What hospitals "
        f"did to their updates before sending (privacy): {privacy}."
    ]
    if config.privacy.noise_multiplier == 0:
        lines.append("No noise was added: there is no formal privacy guarantee.")
    if summary is not None:
        counts = sum(sum(site.examples.values()) for site in summary.data.sites.values())
        lines.append(f"{len(summary.data.sites)} sites, {counts} training examples of all tasks.")
    return "\n".join(lines)


def _results(task: str, card: TaskCard, summary: Summary | None) -> str:
    if summary is None or task not in summary.tasks:
        return "## Results\n\nUnknown: the run has no summary of this task."
    entry = summary.tasks[task]
    kind = "synthetic" if entry.synthetic else "real"
    role = (
        "Hospitals trained on this task."
        if card.role == "train"
        else "Nobody trained on this task; it is answered zero-shot."
    )
    positives = "" if entry.positives is None else f", {entry.positives} of them yes"
    lines = [f"## Results\n\n{role} Test set: {entry.n} examples of {kind} patients{positives}."]
    lines.append("Value and 95 % interval over patients, as the run measured them.\n")
    columns = [c for c in NAMES if getattr(entry, c) is not None]
    lines.append("| metric | " + " | ".join(NAMES[c] for c in columns) + " |")
    lines.append("|---" * (len(columns) + 1) + "|")
    for metric in entry.metrics:
        cells = [_cell((getattr(entry, c) or {}).get(metric)) for c in columns]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "n/a"
    if estimate.span is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.span[0]:.3f}, {estimate.span[1]:.3f}]"


def _fidelity(export: Export, check: Check | None) -> str:
    lines = ["## This export against the run's model\n"]
    adapter = export.adapter
    if adapter is None:
        lines.append("The run trained no adapter: the language model is the base model.")
    elif adapter.errors:
        errors = sorted(adapter.errors.values())
        lines.append(
            f"Compressed to rank {adapter.rank}. Relative Frobenius error of a layer: median "
            f"{errors[len(errors) // 2]:.3f}, largest {errors[-1]:.3f} (all in `fedkim.json`)."
        )
    else:
        lines.append(f"Adapter of full rank {adapter.rank}: the folded gate changes nothing.")
    if check is None:
        lines.append("Not measured: the run's validation set is not here.")
        return "\n".join(lines)
    lines.append(
        f"On the {check.n} validation examples, in float32: {check.metric} {_point(check.run)} "
        f"before, {_point(check.export)} after; {check.same_answers:.1%} of the answers are the "
        "same"
        + (
            ""
            if check.largest_difference is None
            else f"; largest difference of a logit {check.largest_difference:.1e}"
        )
        + "."
    )
    return "\n".join(lines)


def _point(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _limits(card: TaskCard, export: Export) -> str:
    return (
        "## What it must not be used for\n\n"
        "- Diagnosis, treatment or triage of anybody. It is research software and no medical "
        "device; no authority has assessed it.\n"
        f"- Any question but the task's own ({export.task}). The folded gate is that of this "
        "task.\n"
        "- Patients, devices or hospitals unlike those it was tested on, without testing it there "
        "first.\n"
        "- Finding out who was in the training data. Models can remember; before you pass this "
        "on, check the terms of the data that it was trained on."
    )
