"""Sentences, units, and the terminal table."""

import io

import pytest
from rich.console import Console

from fedkim_core.errors import UserError
from fedkim_core.report import result_table
from fedkim_core.report.charts import Series, median_line
from fedkim_core.report.schema import Task, parse_summary
from fedkim_core.report.words import amount, answer_first, clear, duration, number, parameters
from tests.report.example import summary


def _task(before, injected, answer="yes_no", role="train"):
    def score(ends):
        low, high = ends
        return {"auroc": {"value": (low + high) / 2, "low": low, "high": high}}

    return {
        "role": role,
        "answer": answer,
        "n": 10,
        "synthetic": True,
        "before": score(before),
        "extractor": None,
        "injected": score(injected),
    }


@pytest.mark.parametrize(
    ("tasks", "sentence"),
    [
        ([((0.4, 0.5), (0.7, 0.9))], "raised the AUROC of 1 trained task from 0.45 to 0.80; it is"),
        ([((0.4, 0.5), (0.6, 0.7))] * 2, "2 trained tasks from 0.45 to 0.65; both are clearly b"),
        ([((0.4, 0.6), (0.5, 0.7))], "no difference is clear of sampling error"),
        ([((0.4, 0.6), (0.4, 0.6))], "left the AUROC of 1 trained task at 0.50"),
        (
            [((0.6, 0.7), (0.2, 0.3)), ((0.4, 0.5), (0.6, 0.7)), ((0.4, 0.5), (0.4, 0.5))],
            "lowered the mean AUROC of 3 trained tasks from 0.52 to 0.45; 1 of 3 is clearly better "
            "and 1 of 3 is clearly worse",
        ),
    ],
)
def test_answer_says_what_happened(tasks, sentence):
    values = summary()
    values["tasks"] = {f"t{i}": _task(*ends) for i, ends in enumerate(tasks)}
    assert sentence in answer_first(parse_summary(values))[0]


def test_no_interval_no_claim():
    task = _task((0.4, 0.5), (0.8, 0.9))
    task["before"]["auroc"]["low"] = None
    assert clear(Task.model_validate(task)) == 0


def test_extractor_stands_beside_the_injected_model():
    last = answer_first(parse_summary(summary()))[-1]
    assert "mean AUROC of 0.85 on the same patients; the foundation model now has 0.86" in last


def test_run_without_injection_answers_with_its_extractor():
    values = summary()
    for task in values["tasks"].values():
        task["before"] = task["injected"] = None
        task["absent"] = {}
    parsed = parse_summary(values)
    trained = [t.estimate("extractor").value for t in parsed.group("train").values()]
    (said,) = answer_first(parsed)
    assert f"mean AUROC of {number(sum(trained) / len(trained))} on 4 trained tasks" in said
    assert "nothing was injected" in said
    assert "not asked" in next(iter(parsed.group("unseen").values())).reason("injected")
    for task in values["tasks"].values():
        task["extractor"] = None
    assert answer_first(parse_summary(values)) == [
        "No task has a score both before and after injection, so nothing can be compared."
    ]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (245_000_000, "245 MB")],
)
def test_amount(size, text):
    assert amount(size) == text


def test_units():
    assert amount(3_612_000_000) == "3.6 GB"
    assert [duration(s) for s in (0.42, 61, 7260)] == ["0.4 s", "1 min 1 s", "2 h 1 min"]
    assert [parameters(n) for n in (900, 2_314_000, 7 * 10**9)] == [
        "900",
        "2.3 million",
        "7.0 billion",
    ]
    assert [number(v) for v in (-0.25, -0.001)] == ["\N{MINUS SIGN}0.25", "0.00"]


def test_median_over_sites():
    series = [
        Series("a", "many", "circle", [(1, 0.1), (2, 0.3)]),
        Series("b", "many", "circle", [(1, 0.5)]),
        Series("c", "many", "circle", [(1, 0.2), (2, 0.5)]),
    ]
    assert median_line(series) == [(1, 0.2), (2, 0.4)]


def _printed(values, width=120):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result_table(values))
    return console.export_text()


def test_terminal_table_holds_every_task_and_says_synthetic():
    values = summary()
    text = _printed(values)
    assert "Results on the test set (synthetic data)" in text
    assert all(name in text for name in values["tasks"])
    assert "0.84 0.80\N{EN DASH}0.88" in text
    assert text.count("n/a") == 8 + 1  # unseen tasks have no extractor score; the caption
    values["synthetic"] = False
    assert "synthetic" not in _printed(values)


def test_terminal_table_reads_no_markup_in_names():
    values = summary()
    values["tasks"] = {"[red]evil[/red]": values["tasks"]["sepsis"]}
    assert "[red]evil[/red]" in _printed(values)


def test_terminal_table_refuses_an_unknown_summary():
    with pytest.raises(UserError, match="summary: schema_version"):
        result_table({})
