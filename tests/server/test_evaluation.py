"""Questions put to the models, and what becomes of the answers."""

import pytest
import torch

from fedkim_core.data.examples import Example, collate
from fedkim_core.models.injected import InjectedModel
from fedkim_core.tasks import load_tasks
from server_app import evaluation
from server_app.evaluation import Answers, ask, ask_heads, points, score
from tests.patients import example
from tests.tiny import make_model, tiny

CONFIG = tiny("evaluation.batch_size=3")
CARDS = load_tasks()
ROWS = [example(task, i) for i in range(5) for task in CARDS]


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    made = make_model(CONFIG)
    with torch.no_grad():
        for parameter in made.experts.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1)
            )
    return made


def of(task: str) -> list[Example]:
    return [row for row in ROWS if row.task == task]


def test_every_task_is_answered_row_by_row(model: InjectedModel) -> None:
    done: list[str] = []
    answers = ask(model, ROWS, CONFIG.evaluation, done=done.append)
    assert sorted(done) == sorted(answers) == sorted(CARDS)
    for task, given in answers.items():
        own = of(task)
        assert given.patients == [row.patient_id for row in own]
        assert given.truth == [row.answer for row in own]
        if CARDS[task].answer == "yes_no":
            assert given.labels == [float(row.answer == "yes") for row in own]
            torch.testing.assert_close(
                torch.tensor(given.logits), model.score(collate(own)), atol=1e-4, rtol=1e-4
            )
            assert given.texts == []
        else:
            assert given.texts == model.generate(collate(own), 4)
            assert given.logits == []


def test_merged_experts_say_what_the_gate_says(
    model: InjectedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patients without all modalities have another gate, and so their own merge."""
    fewer = [example("mortality", i, without=("labs",)) for i in range(3)]
    live = ask(model, [*ROWS, *fewer], CONFIG.evaluation)
    merged: list[object] = []
    own = InjectedModel.merged

    def watched(self: InjectedModel, key: object) -> object:
        merged.append(key)
        return own(self, key)

    monkeypatch.setattr(evaluation, "WORTH_MERGING", 1)
    monkeypatch.setattr(InjectedModel, "merged", watched)
    got = ask(model, [*ROWS, *fewer], CONFIG.evaluation)
    assert len(merged) == len(CARDS) + 1
    for task, answers in live.items():
        assert got[task].texts == answers.texts
        torch.testing.assert_close(
            torch.tensor(got[task].logits), torch.tensor(answers.logits), atol=1e-4, rtol=1e-4
        )
    assert ask(model, ROWS, CONFIG.evaluation, plain=True) == ask(
        model, ROWS, CONFIG.evaluation, plain=True
    )


def test_asked_again_it_says_the_same(model: InjectedModel) -> None:
    """Greedy, dropout off, also straight after training."""
    first = ask(model, ROWS, CONFIG.evaluation)
    model.train()
    assert ask(model, ROWS, CONFIG.evaluation) == first
    before = score(first, CARDS, bootstrap=20, seed=3)
    assert score(first, CARDS, bootstrap=20, seed=3) == before
    assert score(first, CARDS, bootstrap=20, seed=4) != before


def test_the_model_alone_is_asked_each_question_once(
    model: InjectedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        Example(str(i), f"p{i}", "med_vqa_rad", question, "left lung", note)
        for i, (question, note) in enumerate(
            [("Where?", "Cough."), ("Where?", "Fever."), ("What?", "Cough."), ("Where?", "Cough.")]
        )
    ]
    rows += of("lung_opacity")
    want = model.generate(collate(rows[:4]), 4, plain=True)
    scores = model.score(collate(rows[4:]), plain=True)
    asked: list[str] = []
    for name in ("score", "generate"):
        real = getattr(model, name)

        def noted(batch, *args, real=real, **options):
            assert options == {"plain": True}
            asked.extend(batch.questions)
            return real(batch, *args, **options)

        monkeypatch.setattr(model, name, noted)
    answers = ask(model, rows, CONFIG.evaluation, plain=True)
    assert len(asked) == 3 + 1
    assert answers["med_vqa_rad"].texts == want
    torch.testing.assert_close(torch.tensor(answers["lung_opacity"].logits), scores)
    assert len(answers["lung_opacity"].logits) == len(rows) - 4


def test_an_answer_is_yes_above_logit_zero() -> None:
    """The released code cuts logits at 0.5."""
    given = Answers(["a", "b", "c", "d"], ["yes", "yes", "no", "no"], [1, 1, 0, 0])
    given.logits = [0.3, 0.1, -0.1, -0.3]
    scores = score({"covid19": given}, CARDS, bootstrap=0, seed=0)["covid19"]
    assert points(scores) == dict.fromkeys(
        ("auroc", "auprc", "f1", "accuracy", "precision", "recall", "mcc"), 1.0
    )


def test_yes_and_no_are_scored_from_logits_whatever_the_model_would_write(
    model: InjectedModel,
) -> None:
    """The tiny model writes gibberish; no class is made up for it."""
    rows = [example("covid19", i) for i in range(24)]
    texts = model.generate(collate(rows), 4)
    assert not {"yes", "no"} & set(texts)
    answers = ask(model, rows, CONFIG.evaluation)
    assert len(set(answers["covid19"].logits)) > 12
    scores = points(score(answers, CARDS, bootstrap=0, seed=0)["covid19"])
    assert 0 < scores["auroc"] < 1


def test_heads_answer_the_trained_tasks_only(model: InjectedModel) -> None:
    answers = ask_heads(model.extractor, ROWS, 2)
    assert sorted(answers) == sorted(n for n, card in CARDS.items() if card.role == "train")
    model.extractor.eval()
    with torch.no_grad():
        want = model.extractor.logits(collate(of("mortality")))
    torch.testing.assert_close(
        torch.tensor(answers["mortality"].logits), want, atol=1e-5, rtol=1e-4
    )


def test_free_text_is_scored_by_its_words() -> None:
    given = Answers(["a", "b"], ["left lung", "right lung"], [0, 0], texts=["the left lung", "#!"])
    scores = points(score({"med_vqa_rad": given}, CARDS, bootstrap=0, seed=0)["med_vqa_rad"])
    assert scores["exact_match"] == 0.5
    assert sorted(scores) == ["bleu1", "exact_match", "meteor", "rouge_l"]
