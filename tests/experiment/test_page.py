"""The page of an experiment: the answer first, whole while runs are missing, safe and plain."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedkim_core.cli import app
from fedkim_core.errors import UserError
from fedkim_core.experiment import summary
from fedkim_core.experiment.page import render, write_page
from fedkim_core.experiment.summary import MEAN, ExperimentSummary
from fedkim_core.experiment.words import answer, details, ranked
from tests.experiment.conftest import Runs, Write
from tests.experiment.test_execute import run
from tests.report.test_report import Page

SEEDS = (0, 1, 2)


def score(row: str, value: float, role: str = "train", task: str = MEAN) -> dict[str, Any]:
    each = dict.fromkeys(SEEDS, value)
    return {"row": row, "role": role, "task": task, "metric": "auroc", "value": value, "each": each}


def difference(row: str, value: float, p: float, **more: Any) -> dict[str, Any]:
    return {
        "row": row,
        "role": "train",
        "task": MEAN,
        "tasks": 2,
        "value": value,
        "low": value - 0.02,
        "high": value + 0.02,
        "p": p / 2,
        "p_holm": p,
        "each": dict.fromkeys(SEEDS, value),
        "sd_seeds": 0.01,
        "n": 120,
    } | more


def made(**more: Any) -> ExperimentSummary:
    """Base, a row clearly above it, one clearly below, one that is neither."""
    rows = {"base": 0.8, "better": 0.85, "worse": 0.7, "alike": 0.81}
    values: dict[str, Any] = {
        "fedkim": "0",
        "name": "own",
        "title": "A test",
        "synthetic": True,
        "compare": "base",
        "cells": {name: [f"injector.rank={i}"] for i, name in enumerate(rows)},
        "runs": [
            {"cell": cell, "seed": s, "state": "done", "seconds": 60.0, "bytes": 5_000_000}
            for cell in rows
            for s in SEEDS
        ],
        "scores": [
            score(row, value, task=task)
            for row, value in rows.items()
            for task in ("covid19", "sepsis", MEAN)
        ],
        "compared": [
            difference("better", 0.05, 0.01),
            difference("worse", -0.1, 0.001),
            difference("alike", 0.01, 0.6),
        ],
    }
    return ExperimentSummary.model_validate(values | more)


def test_the_answer_is_the_best_row_and_how_sure_that_is() -> None:
    assert answer(made()) == (
        "better is best on the 2 trained tasks, with a mean AUROC of 0.850: clearly 0.050 above "
        "base."
    )
    sure, others = details(made())
    assert sure == (
        "Of better and base on the 2 trained tasks: the 95\N{NO-BREAK SPACE}% interval over "
        "patients is 0.030 to 0.070, p = 0.010 after correction for 3 comparisons, above in 3 of 3 "
        "seeds."
    )
    assert others.endswith("of 3 other rows 1 is clearly above and 1 is clearly below base.")


def test_nothing_is_called_best_that_one_seed_contradicts() -> None:
    torn = made(compared=[difference("better", 0.05, 0.01, each={0: 0.2, 1: 0.01, 2: -0.06})])
    assert answer(torn).startswith("better is highest on")
    assert answer(torn).endswith("0.050 above base, which is not clear.")
    assert details(torn)[0].endswith("above in 2 of 3 seeds.")


def test_the_row_that_all_are_compared_with_may_be_best() -> None:
    found = made(compared=[difference("worse", -0.1, 0.001), difference("alike", -0.03, 0.04)])
    assert answer(found) == (
        "base is best on the 2 trained tasks, with a mean AUROC of 0.800; the next, alike, lies "
        "clearly 0.030 below."
    )
    assert "is 0.010 to 0.050, p = 0.040" in details(found)[0]
    found = made(compared=[difference("alike", -0.01, 0.4)])
    assert answer(found).startswith("base is highest on")
    assert answer(found).endswith("alike, lies 0.010 below, which is not clear.")
    assert "is \N{MINUS SIGN}0.030 to 0.010, p = 0.40, below in 3 of 3" in details(found)[0]


def test_a_row_of_fewer_tasks_is_not_the_best() -> None:
    lone = difference("alike", 0.2, 0.001, tasks=1, task="covid19")
    found = made(compared=[difference("better", 0.05, 0.01), lone])
    assert answer(found).startswith("better is best")
    assert [pair[0].row for pair in ranked(found, "train")] == ["alike", "better", "base", "worse"]
    assert "1 task only" in Page(render(found)).text


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"compare": "", "compared": []}, "names no row to compare with, so nothing says how sure"),
        ({"compare": "later", "compared": []}, "later, which the others are compared with, has no"),
        ({"scores": [], "compared": []}, "No run has an AUROC."),
        (
            {"scores": [score("base", 0.8)], "compared": []},
            "of 0.800; is still alone.",
        ),
    ],
)
def test_without_comparisons(more: dict[str, Any], said: str) -> None:
    assert said in answer(made(**more))
    render(made(**more))


def test_what_failed_or_is_missing_is_shown() -> None:
    runs = [
        {"cell": "base", "seed": 0, "state": "done", "seconds": 60.0, "bytes": 5},
        {"cell": "base", "seed": 1, "state": "failed", "reason": "the disk is <full>"},
        {"cell": "better", "seed": 0, "state": "to run"},
    ]
    found = made(runs=runs)
    assert details(found)[-2:] == [
        "1 run failed; the reasons stand below.",
        "1 of 3 runs are done, 1 still to come: all this may change.",
    ]
    page = Page(render(found))
    assert "the disk is <full>" in page.text
    (link,) = [a for a in page.all("a", "href") if a["href"].startswith("#failed")]
    assert link["href"][1:] in [a["id"] for a in page.all("tr", "id")]
    nothing = made(runs=runs[2:], scores=[], compared=[])
    assert "No run is done yet." in Page(render(nothing)).text


def test_the_page_is_well_formed_and_needs_no_network() -> None:
    text = render(made())
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    page = Page(text)
    assert not page.all("script")
    assert "default-src 'none'" in page.all("meta", "http-equiv")[0]["content"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["href"][1:] in ids for a in page.all("a", "href"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert len(page.all("h1")) == 1
    for region in (a for _, a in page.elements if a.get("class") == "wide"):
        assert region["tabindex"] == "0"
        assert region["aria-label"]
    labels = [a["aria-label"] for a in page.all("svg", "aria-label")]
    assert "better: +0.050, 0.030 to 0.070; by seed +0.050, +0.050, +0.050" in labels
    assert "Synthetic data." in page.text
    assert "Synthetic" not in Page(render(made(synthetic=False))).text


def test_hostile_names_are_text() -> None:
    evil = '<script>alert("1")</script>'
    text = made().model_dump_json().replace('"better"', json.dumps(evil))
    page = Page(render(ExperimentSummary.model_validate_json(text)))
    assert not page.all("script")
    assert 'alert("1")' in page.text


def test_it_is_written_again_when_a_run_has_ended(
    write: Write, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, pages = tmp_path / "out", []
    runs.strength = {"a": 2.0, "b": 1.0}
    runs.fail = {"rounds=7": "the disk is full"}
    seen = runs.__call__

    def watched(*args: Any) -> Any:
        pages.append((out / "report.html").read_text() if pages or runs.asked else "")
        return seen(*args)

    monkeypatch.setattr("fedkim_core.experiment.execute.run_child", watched)
    cells = {"a": [], "b": ["injector.rank=2"], "c": ["rounds=7"]}
    run(write(cells, compare="b", seeds=[0, 1]), out)
    assert "1 of 6 runs are done, 5 still to come" in Page(pages[1]).text
    assert "1 run failed" in Page(pages[3]).text
    found = summary.read(out)
    assert answer(found).startswith("a is best on the 2 trained tasks")
    assert "above in 2 of 2 seeds" in " ".join(details(found))
    whole = (out / "report.html").read_text()
    assert "the disk is full" in whole
    assert (out / "compare.csv").is_file()
    # `fedkim report` makes it again from experiment.json alone.
    (out / "report.html").unlink()
    shown = CliRunner().invoke(app, ["report", str(out)])
    assert (shown.exit_code, shown.output.strip()) == (0, str(out / "report.html"))
    assert (out / "report.html").read_text() == whole


def test_a_finished_run_that_cannot_be_read_has_failed(
    write: Write, runs: Runs, tmp_path: Path
) -> None:
    path, out = write({"a": [], "b": ["injector.rank=2"]}, compare="a"), tmp_path / "out"
    run(path, out)
    (out / "runs" / "a" / "seed-0" / "answers.parquet").write_bytes(b"PAR1")
    (out / "runs" / "b" / "seed-0" / "summary.json").write_text("{}")
    run(path, out, dry_run=True)  # reads nothing of them
    code, shown = run(path, out)
    assert code == 1
    assert len(runs.asked) == 2
    text = Page((out / "report.html").read_text()).text
    assert "summary.json: schema_version" in text
    assert "answers.parquet cannot be read" in text
    code, shown = run(path, out)
    assert "failed: b, seed 0" in shown
    assert "(will be tried again)" in shown
    assert len(runs.asked) == 4


def test_a_broken_file_is_one_line_that_names_it(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"schema_version": 2}'):
        (tmp_path / summary.FILE).write_text(content)
        with pytest.raises(UserError, match=r"experiment\.json: .* fedkim experiment") as caught:
            write_page(tmp_path)
        assert "\n" not in str(caught.value)
