"""The sections that say how sure the results are: there with the figures, gone without."""

import copy

import pytest

from fedkim_core.report.schema import Task, parse_summary
from fedkim_core.report.words import answer_first, p_value, signed
from tests import drawn
from tests.report.example import summary
from tests.report.test_report import make

SECTIONS = ("sure", "by-site", "by-group", "calibration", "operating", "controls", "follows")


@pytest.fixture(scope="module")
def values() -> dict:
    return {**summary(), "tasks": drawn.tasks(controls=True)}


def _sections(page) -> set[str]:
    return {a["id"] for a in page.all("section", "id")}


def test_every_section_shows_its_figures(tmp_path, values) -> None:
    page = make(tmp_path, values)
    assert set(SECTIONS) <= _sections(page)
    targets = {a["href"] for a in page.all("a", "href")}
    assert {f"#{name}" for name in SECTIONS} <= targets
    text = page.text.replace("\N{MINUS SIGN}", "-")
    task = values["tasks"]["covid19"]
    difference = task["paired"]["injected-before"]["auroc"]
    assert f"+{difference['value']:.2f}" in text
    assert f"{difference['low']:.2f} to {difference['high']:.2f}" in text
    assert f"{task['calibration']['injected']['brier']['value']:.2f}" in text
    point = task["operating"]["injected"]["sensitivity_at_90_specificity"]
    assert f"{point['low']:.2f} to {point['high']:.2f}" in text
    assert f"{task['sites']['gap']:.2f}" in text
    assert "language prior 100 % of the gain left" in text
    followed = values["tasks"]["sepsis"]["follows"]
    assert f"{followed['task'].replace('_', ' ')} {followed['correlation']:+.2f}" in text
    assert "By sex" in text
    assert "By age band" in text
    assert "fewer than 10 patients with either answer" in text
    labels = [a["aria-label"] for a in page.all("svg", "aria-label")]
    assert any(x.startswith("covid19: extractor, probability and share of yes: 0.") for x in labels)
    # The page stays one that a keyboard and a screen reader can use.
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(a["tabindex"] == "0" for _, a in page.elements if a.get("class") == "wide")


def test_an_older_summary_has_none_of_them(tmp_path) -> None:
    page = make(tmp_path)
    assert _sections(page).isdisjoint(SECTIONS)
    assert {a["href"] for a in page.all("a", "href")}.isdisjoint(f"#{s}" for s in SECTIONS)
    assert "intervals before and after do not overlap" in page.text


def test_without_controls_and_sites_the_rest_is_shown(tmp_path, values) -> None:
    fewer = copy.deepcopy(values)
    for task in fewer["tasks"].values():
        for key in ("controls", "language_prior", "sites", "groups", "follows"):
            task.pop(key, None)
    page = make(tmp_path, fewer)
    assert _sections(page) & set(SECTIONS) == {"sure", "calibration", "operating"}


def test_the_answer_rests_on_the_paired_tests(values) -> None:
    sentences = answer_first(parse_summary(values))
    assert "clearly better (paired tests on the same patients, p below 0.05" in sentences[0]
    assert sentences[-1].startswith("But with another patient's data a clear gain is left in ecg")
    assert "med vqa slake: that much is a language prior" in sentences[-1]
    honest = copy.deepcopy(values)
    for task in honest["tasks"].values():
        task["language_prior"] = {"verdict": "knowledge", "share": 0.1}
    assert answer_first(parse_summary(honest))[-1].startswith("No gain survives")
    for task in honest["tasks"].values():
        task["language_prior"] = {"verdict": "no gain", "share": None}
    assert "survives" not in " ".join(answer_first(parse_summary(honest)))


def test_a_difference_is_clear_after_correction_only(values) -> None:
    task = copy.deepcopy(values["tasks"]["covid19"])
    lead = task["paired"]["injected-before"]["auroc"]
    lead |= {"p": 0.03, "p_holm": 0.2}
    assert Task.model_validate(task).difference("before").sign == 0
    lead["p_holm"] = 0.04
    assert Task.model_validate(task).difference("before").sign == 1
    lead |= {"p": None, "p_holm": None}
    assert Task.model_validate(task).difference("before").sign == 0


def test_extractor_and_injected_are_compared_by_their_tests(values) -> None:
    worse = copy.deepcopy(values)
    trained = [t for t in worse["tasks"].values() if t["role"] == "train"]
    for place, task in enumerate(trained):
        lead = task["paired"]["injected-extractor"]["auroc"]
        lead |= {"value": -0.1, "p": 0.001, "p_holm": 0.004 if place == 0 else 0.5}
    text = " ".join(answer_first(parse_summary(worse)))
    assert f"clearly worse in 1 of {len(trained)}." in text
    for task in trained:
        task["paired"]["injected-extractor"]["auroc"]["p_holm"] = 0.5
    assert "no difference between the two is clear" in " ".join(answer_first(parse_summary(worse)))


def test_hostile_names_of_sites_and_controls_are_text(tmp_path, values) -> None:
    evil = "<img src=x onerror=alert(1)>"
    hostile = copy.deepcopy(values)
    for task in hostile["tasks"].values():
        task["sites"]["sites"][evil] = {"value": 0.1, "n": 3}
        task["sites"]["left_out"]["<b>"] = evil
        task["sites"]["lowest"] = evil
        task["controls"][evil] = {"auroc": {"value": 0.5}}
        task["language_prior"] = {"verdict": evil, "share": None}
    page = make(tmp_path, hostile)
    assert not page.all("img")
    assert evil in page.text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0004, "< 0.001"), (0.0123, "0.012"), (0.0999, "0.100"), (0.456, "0.46")]
)
def test_p_values(p, text) -> None:
    assert p_value(p) == text


def test_signed_numbers() -> None:
    assert [signed(x) for x in (0.123, -0.2, 0.001, -0.001)] == [
        "+0.12",
        "\N{MINUS SIGN}0.20",
        "0.00",
        "0.00",
    ]
