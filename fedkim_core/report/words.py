"""Numbers and results in plain words, for the page and the terminal."""

from dataclasses import dataclass

from fedkim_core.report.parts import Estimate
from fedkim_core.report.schema import Column, Summary, Task

METRIC_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "f1": "F1",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "mcc": "MCC",
    "bleu1": "BLEU-1",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "exact_match": "Exact match",
}
COLUMN_NAMES: dict[Column, str] = {
    "before": "Before",
    "extractor": "Extractor",
    "injected": "Injected",
}


def spaced(name: str) -> str:
    """``lung_opacity`` as a person writes it."""
    return name.replace("_", " ")


def number(value: float, digits: int = 2) -> str:
    """Two decimals, with a true minus sign."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 2) -> str:
    """A difference, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value > 0 and float(text) else text


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def interval(estimate: Estimate, digits: int = 2) -> str:
    """``0.84 to 0.91``, or nothing where there is no interval."""
    span = estimate.span
    return f"{number(span[0], digits)} to {number(span[1], digits)}" if span else ""


def amount(size: int) -> str:
    """Bytes in decimal units."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            digits = 0 if unit == "bytes" or value >= 100 else 1
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def parameters(count: int) -> str:
    if count >= 10**9:
        return f"{count / 10**9:.1f} billion"
    return f"{count / 10**6:.1f} million" if count >= 10**6 else f"{count:,}"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True)
class Change:
    """Mean of one metric over some tasks, before and after injection."""

    metric: str
    tasks: int
    before: float
    injected: float
    better: int
    """Tasks that are clearly better."""
    worse: int
    tested: bool
    """By a paired test; otherwise by whether intervals overlap."""

    @property
    def difference(self) -> float:
        return self.injected - self.before


def clear(task: Task) -> int:
    """1 or -1 when the change by injection is clear, else 0.

    By the paired test, corrected for the number of tasks; a summary without it (an older one) is
    judged by whether the intervals before and after overlap.
    """
    if difference := task.difference("before"):
        return difference.sign
    before, injected = task.estimate("before"), task.estimate("injected")
    if before is None or injected is None:
        return 0
    if before.span is None or injected.span is None:
        return 0
    if injected.span[0] > before.span[1]:
        return 1
    return -1 if injected.span[1] < before.span[0] else 0


def change(tasks: list[Task]) -> Change | None:
    """Summarise tasks of one kind of answer; None when nothing can be compared."""
    both = [
        (task, before, injected)
        for task in tasks
        if (before := task.estimate("before")) and (injected := task.estimate("injected"))
    ]
    if not both:
        return None
    signs = [clear(task) for task, _, _ in both]
    return Change(
        metric=METRIC_NAMES[both[0][0].metrics[0]],
        tasks=len(both),
        before=sum(b.value for _, b, _ in both) / len(both),
        injected=sum(i.value for _, _, i in both) / len(both),
        better=signs.count(1),
        worse=signs.count(-1),
        tested=any(task.difference("before") for task, _, _ in both),
    )


def select(summary: Summary, role: str, answer: str) -> list[Task]:
    return [task for task in summary.group(role).values() if task.answer == answer]


def answer_first(summary: Summary) -> list[str]:
    """What got better, by how much, how sure: the first sentence is the answer."""
    sentences: list[str] = []
    for role, answer, what in (
        ("train", "yes_no", "trained task"),
        ("train", "free_text", "trained free-text task"),
        ("unseen", "yes_no", "yes/no task that nobody trained on"),
        ("unseen", "free_text", "free-text task that nobody trained on"),
    ):
        found = change(select(summary, role, answer))
        if found is not None:
            sentences.append(_sentence(found, what, first=not sentences))
    if not sentences:
        nothing = "No task has a score both before and after injection, so nothing can be compared."
        return [_extractor_alone(summary) or nothing]
    rest = (_beside_extractor(summary), _language_prior(summary))
    return [*sentences, *(sentence for sentence in rest if sentence)]


def _extractor_alone(summary: Summary) -> str:
    """Of a run without injection; nothing where there is no score of it."""
    scores = [
        extractor.value
        for task in select(summary, "train", "yes_no")
        if task.injected is None and (extractor := task.estimate("extractor"))
    ]
    if not scores:
        return ""
    mean = "mean " if len(scores) > 1 else ""
    return (
        f"The sites' own extractor has a {mean}AUROC of {number(sum(scores) / len(scores))} on "
        f"{plural(len(scores), 'trained task')}; nothing was injected into a foundation model."
    )


def _sentence(found: Change, what: str, *, first: bool) -> str:
    """``Injection raised ...``; the first sentence also says what "clearly" means."""
    noun = what if found.tasks == 1 else what.replace("task", "tasks", 1)
    mean = "the" if found.tasks == 1 else "the mean"
    subject = f"{mean} {found.metric} of {found.tasks} {noun}"
    before, injected = number(found.before), number(found.injected)
    who = "Injection" if first else "It"
    if before == injected:
        said = f"{who} left {subject} at {injected}"
    else:
        verb = "raised" if found.difference > 0 else "lowered"
        said = f"{who} {verb} {subject} from {before} to {injected}"
    explain = first and (found.better or found.worse)
    meaning = ""
    if explain and found.tested:
        meaning = " (paired tests on the same patients, p below 0.05 after correction)"
    elif explain:
        meaning = " (95\N{NO-BREAK SPACE}% intervals do not overlap)"
    return f"{said}; {_certainty(found)}{meaning}."


def _certainty(found: Change) -> str:
    every = {1: "it is", 2: "both are"}.get(found.tasks, "all are")
    parts = []
    for count, word in ((found.better, "better"), (found.worse, "worse")):
        if count == found.tasks:
            parts.append(f"{every} clearly {word}")
        elif count:
            parts.append(f"{count} of {found.tasks} {'is' if count == 1 else 'are'} clearly {word}")
    if not parts:
        return "no difference is clear of sampling error"
    return " and ".join(parts)


def _beside_extractor(summary: Summary) -> str:
    trained = select(summary, "train", "yes_no")
    pairs = [
        (extractor.value, injected.value)
        for task in trained
        if (extractor := task.estimate("extractor")) and (injected := task.estimate("injected"))
    ]
    if not pairs:
        return ""
    own, after = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    said = (
        f"On the trained tasks the sites' own extractor, without the foundation model, has a mean "
        f"AUROC of {number(own)} on the same patients; the foundation model now has "
        f"{number(after)}"
    )
    signs = [difference.sign for task in trained if (difference := task.difference("extractor"))]
    if not signs:
        return f"{said}."
    better, worse = signs.count(1), signs.count(-1)
    if not better and not worse:
        return f"{said}; no difference between the two is clear."
    counted = [(better, "better"), (worse, "worse")]
    clear = " and ".join(f"clearly {word} in {count}" for count, word in counted if count)
    return f"{said}, {clear} of {len(signs)}."


def _language_prior(summary: Summary) -> str:
    """What the controls say against the gains; nothing where none was asked."""
    judged = {name: t.language_prior for name, t in summary.tasks.items() if t.language_prior}
    if not judged:
        return ""
    flagged = [spaced(name) for name, prior in judged.items() if prior.flagged]
    if not flagged and all(prior.verdict != "knowledge" for prior in judged.values()):
        return ""
    if not flagged:
        return "No gain survives when patients get each other's data, as it should be."
    return (
        f"But with another patient's data a clear gain is left in {', '.join(flagged)}: that much "
        "is a language prior, not knowledge of the patient."
    )
