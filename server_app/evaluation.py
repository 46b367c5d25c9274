"""What the models answer on patients that nobody trained on, and how good that is."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from fedkim_core.answers import Answers
from fedkim_core.data.contract import GROUPS
from fedkim_core.data.examples import YES, Example, batches
from fedkim_core.evidence import draw
from fedkim_core.metrics import Scores
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.sequences import Key
from fedkim_core.seeds import derive
from fedkim_core.settings import EvaluationConfig
from fedkim_core.tasks import TaskCard

WORTH_MERGING = 8
"""Questions with the same gate from which on it pays to merge the experts for them."""


def ask(
    model: InjectedModel,
    examples: Sequence[Example],
    config: EvaluationConfig,
    *,
    plain: bool = False,
    done: Callable[[str], None] | None = None,
) -> dict[str, Answers]:
    """Ask the injected model, or with ``plain`` the foundation model alone, about every example.

    The foundation model alone sees only text, so a question that many examples share is put to
    it once.
    """
    result = {}
    for task in sorted({example.task for example in examples}):
        own = [example for example in examples if example.task == task]
        asked = list({_text_key(e): e for e in own}.values()) if plain else own
        given = _ask_task(model, task, asked, config, plain=plain)
        if plain:
            place = {_text_key(e): i for i, e in enumerate(asked)}
            given = [given[place[_text_key(e)]] for e in own]
        answers = unanswered(own)
        if model.cards[task].answer == "yes_no":
            answers.logits = [float(value) for value in given]
        else:
            answers.texts = [str(value) for value in given]
        result[task] = answers
        if done:
            done(task)
    return result


def _text_key(example: Example) -> tuple[str, str | None]:
    return example.question, example.text


def _length(example: Example) -> int:
    return len(example.question) + len(example.text or "")


def _ask_task(
    model: InjectedModel,
    task: str,
    examples: Sequence[Example],
    config: EvaluationConfig,
    *,
    plain: bool,
) -> list[float | str]:
    model.eval()
    keys: dict[Key, list[int]] = {}
    for i, example in enumerate(examples):
        keys.setdefault(model.key(task, example.features), []).append(i)
    given: dict[int, float | str] = {}
    for key, own in sorted(keys.items()):
        # Like lengths together: a batch is as long as its longest question.
        order = sorted(own, key=lambda i: _length(examples[i]))
        said: list[float | str] = []
        merge = config.merge_experts and not plain and len(own) >= WORTH_MERGING
        with model.merged(key) if merge else nullcontext():
            for batch in batches([examples[i] for i in order], config.batch_size):
                if model.cards[task].answer == "yes_no":
                    said += model.score(batch, plain=plain).tolist()
                else:
                    said += model.generate(batch, config.max_new_tokens, plain=plain)
        given |= dict(zip(order, said, strict=True))
    return [given[i] for i in range(len(examples))]


@torch.no_grad()
def ask_heads(
    extractor: KnowledgeExtractor, examples: Sequence[Example], batch_size: int
) -> dict[str, Answers]:
    """What the extractor's own heads say; tasks without a head are left out."""
    extractor.eval()
    result = {}
    for task in sorted({example.task for example in examples} & set(extractor.heads)):
        own = [example for example in examples if example.task == task]
        answers = unanswered(own)
        for batch in batches(own, batch_size):
            answers.logits += extractor.logits(batch).tolist()
        result[task] = answers
    return result


def unanswered(examples: Sequence[Example]) -> Answers:
    """The rows of one task's examples, with nothing said yet."""
    return Answers(
        patients=[e.patient_id for e in examples],
        truth=[e.answer for e in examples],
        labels=[float(e.answer == YES) for e in examples],
        example_ids=[e.example_id for e in examples],
        sites=[e.origin for e in examples],
        groups={name: [e.groups.get(name) for e in examples] for name in GROUPS},
    )


def given(answers: Mapping[str, Answers]) -> dict[str, dict[str, list[Any]]]:
    """What was answered, as JSON, without the patients who were asked about."""
    return {task: {"logits": a.logits, "texts": a.texts} for task, a in answers.items()}


def recall(
    examples: Sequence[Example], given: Mapping[str, Mapping[str, list[Any]]]
) -> dict[str, Answers]:
    """The answers to ``examples`` again, from what :func:`given` gave for the same ones."""
    result = {}
    for task, said in given.items():
        answers = unanswered([example for example in examples if example.task == task])
        answers.logits, answers.texts = list(said["logits"]), list(said["texts"])
        result[task] = answers
    return result


def score(
    answers: Mapping[str, Answers],
    cards: Mapping[str, TaskCard],
    *,
    bootstrap: int,
    seed: int,
) -> dict[str, Scores]:
    """Scores with intervals; the resamples of a task are the same for every model."""
    return {
        task: Scores.of(
            draw(
                cards[task],
                given,
                bootstrap=bootstrap,
                seed=derive(seed, "bootstrap", task) % 2**32,
            )
        )
        for task, given in answers.items()
    }


def points(scores: Scores) -> dict[str, float]:
    """The values alone, for curves."""
    return {name: estimate["value"] for name, estimate in scores.metrics.items()}
