"""The page: whole, self-contained, true to its files, and safe with hostile names."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from fedkim_core.errors import UserError
from fedkim_core.report import write_report
from tests.report.example import SITES, rows, summary, write_run

VOID = {"meta", "br", "img", "link", "hr", "input", "col", "wbr"}


class Page(HTMLParser):
    """Checks nesting and collects elements, ids, links and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag, key=None):
        return [a for t, a in self.elements if t == tag and (key is None or key in a)]


def make(folder, values=None, lines=None):
    return Page(write_report(write_run(folder, values, lines)).read_text(encoding="utf-8"))


def test_page_is_well_formed_and_names_everything(tmp_path):
    page = make(tmp_path)
    for attributes in page.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    targets = [a["href"] for a in page.all("a", "href")]
    assert all(t.startswith("#") and t[1:] in ids for t in targets)
    headings = [t for t, _ in page.elements if re.fullmatch("h[1-6]", t)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert page.all("html")[0]["lang"] == "en"
    for region in (a for _, a in page.elements if a.get("class") == "wide"):
        assert region["tabindex"] == "0"
        assert region["aria-label"]


def test_page_needs_no_network_and_no_script(tmp_path):
    text = write_report(write_run(tmp_path)).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    page = Page(text)
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert not any(name.startswith("on") for name in attributes)
    assert not page.all("script")
    assert "default-src 'none'" in page.all("meta", "http-equiv")[0]["content"]


def test_numbers_of_the_files_stand_on_the_page(tmp_path):
    values = summary()
    page = make(tmp_path, values)
    for name, task in values["tasks"].items():
        assert name.replace("_", " ") in page.text
        lead = "auroc" if task["answer"] == "yes_no" else "bleu1"
        injected = task["injected"][lead]
        assert f"{injected['value']:.2f}" in page.text
        assert f"{injected['low']:.2f} to {injected['high']:.2f}" in page.text
    assert "1.24 bits" in page.text
    assert "0.93 bits over the trained ones" in page.text
    assert "3.58 bits" in page.text  # log2(12)
    assert "139 MB" in page.text  # 15 transfers of 9.256 MB
    assert "3.6 GB" in page.text
    assert "4 min 33 s" in page.text
    assert "no reply within 600 s" in page.text
    for site in SITES:
        assert site in page.text
    labels = " ".join(a.get("aria-label", "") for a in page.all("svg"))
    assert "lung opacity, AUROC on the validation set, rounds 0 to 3: Extractor" in labels
    assert "lung opacity, loss by site, rounds 1 to 3: coast" in labels


def test_answer_comes_first(tmp_path):
    page = make(tmp_path)
    start = page.text.index("Injection raised the mean AUROC of 4 trained tasks from 0.50 to 0.86")
    assert start < page.text.index("How to read this page")
    assert "all are clearly better (95\N{NO-BREAK SPACE}% intervals do not overlap)" in (
        " ".join(page.words)
    )


@pytest.mark.parametrize("synthetic", [True, False])
def test_synthetic_data_is_said_and_only_then(tmp_path, synthetic):
    values = summary()
    values["synthetic"] = synthetic
    values["data"]["name"] = "mine"
    for task in values["tasks"].values():
        task["synthetic"] = synthetic
    page = make(tmp_path, values)
    assert ("Synthetic data." in page.text) == synthetic
    assert ("synthetic" in page.text.lower()) == synthetic


def test_one_synthetic_task_among_real_ones_is_marked(tmp_path):
    values = summary()
    values["synthetic"] = False
    for name, task in values["tasks"].items():
        task["synthetic"] = name == "sepsis"
    page = make(tmp_path, values)
    assert page.text.count("AUROC , synthetic") + page.text.count("AUROC, synthetic") == 1


def test_hostile_names_are_text(tmp_path):
    evil = '<script>alert("1")</script>'
    values, lines = summary(), rows()
    text = json.dumps([values, lines]).replace('"harbour"', json.dumps(evil))
    values, lines = json.loads(text)
    values["left_out"][0]["reason"] = "</style><img src=x onerror=alert(1)>"
    values["tasks"]["sepsis"]["absent"]["before.mcc"] = '"><b id="results">'
    values["foundation"]["name"] = evil
    page = make(tmp_path, values, lines)
    assert not page.all("script")
    assert not page.all("img")
    assert 'alert("1")' in page.text
    assert len([a for _, a in page.elements if a.get("id") == "results"]) == 1


def test_without_gate(tmp_path):
    values = summary()
    values["gate"] = None
    page = make(tmp_path, values)
    assert "bits" not in page.text
    assert not [a for a in page.all("a") if a.get("href") == "#gate"]


@pytest.mark.parametrize("experts", [1, 4, 40])
def test_gate_of_any_width(tmp_path, experts):
    page = make(tmp_path, summary(experts=experts))
    cells = [a for a in page.all("td", "style") if a["style"].startswith("--w:")]
    assert len(cells) == 12 * experts
    most = {1: "0.00 bits", 4: "2.00 bits", 40: "3.58 bits"}[experts]
    assert f"the most possible here is {most}" in page.text


def test_one_round_only(tmp_path):
    page = make(tmp_path, summary(rounds=1), [line for line in rows(1) if line["round"] == 1])
    labels = [a["aria-label"] for a in page.all("svg", "aria-label")]
    assert any("validation set, round 1: Extractor 0." in label for label in labels)


def test_absent_scores_are_explained_once_per_table(tmp_path):
    page = make(tmp_path)
    marked = [a["title"] for a in page.all("span", "title") if a.get("class") == "na"]
    assert "all predictions are the same answer" in marked
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    notes = [a["id"] for a in page.all("li", "id")]
    assert notes == ["result-note-1", "score-note-1", "score-note-2", "score-note-3"]


def test_nothing_to_compare_is_said(tmp_path):
    values = summary()
    for task in values["tasks"].values():
        task["before"] = {}
        task["absent"] = dict.fromkeys(("before.auroc", "before.bleu1"), "no examples")
    page = make(tmp_path, values)
    assert "nothing can be compared" in page.text
    assert "no examples" in page.text


def test_many_sites_share_one_style_with_a_median(tmp_path):
    values, lines = summary(), rows()
    for line in lines:
        if line["sites"]:
            line["sites"] = {f"s{i:02d}": {"examples": 9, "loss": i / 10} for i in range(20)}
    page = make(tmp_path, values, lines)
    assert "each of 20 sites" in page.text
    assert "median over sites" in page.text
    labels = [a["aria-label"] for a in page.all("svg", "aria-label")]
    assert any("median 0.95, 0.95, 0.95" in label for label in labels)


def test_torn_last_line_is_left_out_with_a_note(tmp_path):
    write_run(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "task": "sep')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "The last line of metrics.jsonl (line 49) is cut off; left out." in page.text


def test_a_round_run_again_replaces_its_lines(tmp_path):
    lines = rows()
    again = copy.deepcopy(lines[-1])
    again["injected"] = dict.fromkeys(again["injected"], 0.99)
    page = make(tmp_path, None, [*lines, again])
    labels = [a["aria-label"] for a in page.all("svg", "aria-label")]
    found = [x for x in labels if x.startswith(again["task"].replace("_", " ") + ",")]
    assert found[0].endswith("0.99")


def test_missing_configuration_is_noted(tmp_path):
    write_run(tmp_path)
    (tmp_path / "config.yaml").unlink()
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "config.yaml is missing or unreadable" in page.text


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe", b"[]\n[]\n"])
def test_broken_file_is_one_line_that_names_it(tmp_path, name, content):
    write_run(tmp_path)
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content + b"\n{}\n" if name == "metrics.jsonl" else content)
    with pytest.raises(UserError) as caught:
        write_report(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"tasks": {"sepsis": {"role": "train"}}}, "tasks.sepsis.answer"),
        ({"gate": {"tasks": ["a"], "alpha": [[0.5], [0.5]], "bits": 0}}, "one row per task"),
        ({"peak_memory_bytes": -1}, "peak_memory_bytes"),
    ],
)
def test_wrong_field_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path, summary() | change)


def test_nan_is_refused(tmp_path):
    values = summary()
    values["tasks"]["sepsis"]["injected"]["auroc"]["value"] = float("nan")
    with pytest.raises(UserError, match=r"tasks\.sepsis\.injected\.auroc\.value"):
        make(tmp_path, values)


def test_page_that_cannot_be_written_leaves_nothing_half_written(tmp_path):
    write_run(tmp_path)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"report\.html: cannot be written"):
        write_report(tmp_path)
    assert not list(tmp_path.glob("*.partial"))
