"""What an experiment found, in sentences: the first one is the answer."""

from fedkim_core.experiment.summary import MEAN, Compared, ExperimentSummary, Score
from fedkim_core.report.words import number, p_value, plural

ROLES = {"train": "trained", "unseen": "unseen"}


def answer(summary: ExperimentSummary) -> str:
    """Which row is best on the trained and on the unseen tasks, and by how much."""
    said = [_best(summary, role)[0] for role in ROLES if ranked(summary, role)]
    if not said:
        return "No run has an AUROC." if summary.count("done") else "No run is done yet."
    return " ".join(said)


def details(summary: ExperimentSummary) -> list[str]:
    """How sure that is, how the other rows did, and what is missing."""
    sentences = [_best(summary, role)[1] for role in ROLES if ranked(summary, role)]
    sentences += [_others(summary, role) for role in ROLES]
    failed, left = summary.count("failed"), summary.count("to run")
    if failed:
        sentences.append(f"{plural(failed, 'run')} failed; the reasons stand below.")
    if left:
        sentences.append(
            f"{summary.count('done')} of {plural(len(summary.runs), 'run')} are done, {left} still "
            "to come: all this may change."
        )
    return [sentence for sentence in sentences if sentence]


def ranked(summary: ExperimentSummary, role: str) -> list[tuple[Score, Compared | None]]:
    """The rows with their mean score, the best first: by the difference on the same patients.

    The row that all are compared with has no difference. Where nothing is compared, by the score.
    """
    differences = {one.row: one for one in summary.main(role)}
    rows = list(dict.fromkeys(score.row for score in summary.scores))
    found = [(s, differences.get(row)) for row in rows if (s := summary.score(row, role))]
    if summary.score(summary.compare, role) is None:
        return sorted(found, key=lambda pair: -pair[0].value)
    comparable = [p for p in found if p[1] is not None or p[0].row == summary.compare]
    comparable.sort(key=lambda pair: -(pair[1].value if pair[1] else 0.0))
    return comparable + [p for p in found if p not in comparable]


def _best(summary: ExperimentSummary, role: str) -> tuple[str, str]:
    """Which row is best on the tasks of a role, and how sure that is; the latter may be empty."""
    rows = ranked(summary, role)
    tasks = _tasks(summary, role)
    if summary.score(summary.compare, role) is None or len(rows) == 1:
        score = rows[0][0]
        why = "is still alone" if len(rows) == 1 else _nothing_compared(summary)
        return f"On {tasks} {score.row} has {_mean(score)}; {why}.", ""
    main = summary.main(role)
    whole = max(one.tasks for one in main) if main else 0
    # A row that lacks tasks may have left out the hard ones.
    even = [pair for pair in rows if pair[1] is None or pair[1].tasks == whole]
    best, above = even[0]
    if above is not None:
        word = "best" if above.sign else "highest"
        said = f"{best.row} is {word} on {tasks}, with {_mean(best)}: "
        return f"{said}{_apart(above, f'above {summary.compare}')}.", _sure(summary, above)
    below = next((other for _, other in even if other), None)
    word = "best" if below and below.sign else "highest"
    said = f"{best.row} is {word} on {tasks}, with {_mean(best)}"
    if below is None:
        return f"{said}.", ""
    return f"{said}; the next, {below.row}, lies {_apart(below, 'below')}.", _sure(summary, below)


def _nothing_compared(summary: ExperimentSummary) -> str:
    if summary.compare:
        return f"{summary.compare}, which the others are compared with, has no result yet"
    return "the experiment names no row to compare with, so nothing says how sure that is"


def _tasks(summary: ExperimentSummary, role: str) -> str:
    named = {s.task for s in summary.scores if (s.role, s.metric) == (role, "auroc")} - {MEAN}
    many = plural(len(named), f"{ROLES[role]} task")
    return f"the {many}" if len(named) > 1 else f"the one {ROLES[role]} task"


def _mean(score: Score) -> str:
    mean = "a mean AUROC" if score.task == MEAN else "an AUROC"
    return f"{mean} of {number(score.value, 3)}"


def _apart(one: Compared, where: str) -> str:
    """``clearly 0.030 above X``."""
    size = number(abs(one.value), 3)
    return f"clearly {size} {where}" if one.sign else f"{size} {where}, which is not clear"


def _sure(summary: ExperimentSummary, one: Compared) -> str:
    """The interval, p after correction, and the seeds."""
    parts = []
    if one.span:
        low, high = sorted(map(abs, one.span)) if one.span[0] * one.span[1] > 0 else one.span
        interval = "the 95\N{NO-BREAK SPACE}% interval over patients is "
        parts.append(f"{interval}{number(low, 3)} to {number(high, 3)}")
    p = one.p if one.p_holm is None else one.p_holm
    if p is not None:
        many = sum(c.is_mean == one.is_mean for c in summary.compared if c.p is not None)
        text = p_value(p) if p_value(p).startswith("<") else f"= {p_value(p)}"
        correction = f" after correction for {many} comparisons" if many > 1 else ""
        parts.append(f"p {text}{correction}")
    side = "above" if one.value > 0 else "below"
    of_seeds = f"{side} in {one.alike} of {len(one.each)} seeds"
    parts.append(of_seeds if len(one.each) > 1 else "there is one seed only")
    return f"Of {one.row} and {summary.compare} on {_tasks(summary, one.role)}: {', '.join(parts)}."


def _others(summary: ExperimentSummary, role: str) -> str:
    """How many rows are clearly above or below the one they are compared with."""
    signs = [one.sign for one in summary.main(role)]
    if len(signs) < 2:
        return ""
    counted = [(signs.count(1), "above"), (signs.count(-1), "below")]
    verbs = [(n, "is" if n == 1 else "are", word) for n, word in counted if n]
    clear = " and ".join(f"{n} {verb} clearly {word}" for n, verb, word in verbs)
    where = f"On {_tasks(summary, role)}, of {len(signs)} other rows"
    return f"{where} {clear or 'none is clearly above or below'} {summary.compare}."
