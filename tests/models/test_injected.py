"""The injected model on a tiny foundation model: sequences, losses, scores and answers."""

import pytest
import torch

from fedkim_core.config import compose
from fedkim_core.data.examples import collate
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.tasks import load_tasks
from tests.patients import example

TRAINED = [name for name, card in load_tasks().items() if card.role == "train"]


def build(*overrides: str) -> InjectedModel:
    config = compose(
        [
            "foundation=tiny",
            "data.image_size=32",
            "extractor.width=32",
            "extractor.tokens=2",
            "injector.experts=3",
            "injector.rank=2",
            *overrides,
        ]
    )
    torch.manual_seed(0)
    extractor = KnowledgeExtractor(config, config.cards())
    model = InjectedModel(
        extractor, load_foundation(config.foundation), config.injector, config.cards()
    )
    if model.experts is not None:
        for parameter in model.experts.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    return build()


def all_tasks(seed: int = 1) -> list:
    return [example(name, seed + i) for i, name in enumerate(load_tasks())]


def test_mixed_tasks_in_one_batch_answer_as_alone(model: InjectedModel) -> None:
    """Greedy answers and scores do not change with padding or with company."""
    rows = [e for e in all_tasks() if load_tasks()[e.task].answer == "yes_no"]
    together = model.score(collate(rows))
    alone = torch.cat([model.score(collate([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    rows = all_tasks()
    answers = model.generate(collate(rows), 6)
    assert answers == [model.generate(collate([row]), 6)[0] for row in rows]
    assert any(answers)


def test_padding_stands_on_the_left(model: InjectedModel) -> None:
    rows = [example("mortality", 1), example("lung_opacity", 2)]
    sequences = model._sequences(collate(rows), answers=True)
    assert not sequences.mask[1, 0]
    assert sequences.mask[:, -1].all()
    answer = [*model.foundation.answer_ids(rows[0].answer), model.foundation.end_id]
    assert sequences.targets[0][sequences.targets[0] >= 0].tolist() == answer
    assert sequences.targets[0, -1] == model.foundation.end_id


def test_every_modality_of_the_patient_is_in_the_sequence(model: InjectedModel) -> None:
    whole = model._sequences(collate([example("mortality", 1)]), answers=False)
    fewer = model._sequences(collate([example("mortality", 1, without=("labs",))]), answers=False)
    label = len(model.foundation.token_ids(" Labs:"))
    tokens = model.extractor.encoders["labs"].pool.queries.shape[0]
    assert whole.mask.sum() - fewer.mask.sum() == tokens + label


def test_loss_is_the_cross_entropy_of_answer_tokens_only(model: InjectedModel) -> None:
    """Against the whole vocabulary at every position, by hand."""
    rows = [example("lung_opacity", 1), example("med_vqa_rad", 2), example("mortality", 3)]
    batch = collate(rows)
    sequences = model._sequences(batch, answers=True)
    with torch.no_grad(), model._gated(batch):
        logits = model.foundation.model(
            inputs_embeds=sequences.embeddings, attention_mask=sequences.mask.long()
        ).logits
    terms = []
    for i in range(len(rows)):
        for position, target in enumerate(sequences.targets[i].tolist()):
            if target >= 0:
                terms.append(-torch.log_softmax(logits[i, position].double(), -1)[target])
    want = torch.stack(terms).mean().float()
    assert len(terms) == sum(len(model.foundation.answer_ids(r.answer)) + 1 for r in rows)
    torch.testing.assert_close(model.loss(batch).detach(), want, atol=1e-4, rtol=1e-4)


def test_distillation_adds_the_cross_entropy_with_the_heads(model: InjectedModel) -> None:
    """The logit of "yes" against "no" before the answer is what :meth:`score` gives."""
    rows = [example("lung_opacity", 1), example("med_vqa_rad", 2), example("mortality", 3)]
    batch, heads = collate(rows), torch.tensor([0.9, torch.nan, 0.2])
    with torch.no_grad():
        plain, taught = model.loss(batch), model.loss(batch, heads, 0.5)
    said = model.score(batch)[[0, 2]].sigmoid()
    want = torch.tensor([0.9, 0.2])
    terms = -want * said.log() - (1 - want) * (1 - said).log()
    torch.testing.assert_close(taught - plain, 0.5 * terms.mean(), atol=1e-4, rtol=1e-4)
    nobody = torch.full((3,), torch.nan)
    assert model.loss(batch, nobody, 0.5) == model.loss(batch)


def test_score_is_the_difference_of_two_logits(model: InjectedModel) -> None:
    batch = collate([example("ecg_abnormal", 4)])
    sequences = model._sequences(batch, answers=False)
    with torch.no_grad(), model._gated(batch):
        last = model.foundation.model(
            inputs_embeds=sequences.embeddings, attention_mask=sequences.mask.long()
        ).logits[0, -1]
    yes, no = model.foundation.answer_ids("yes")[0], model.foundation.answer_ids("no")[0]
    torch.testing.assert_close(model.score(batch)[0], last[yes] - last[no], atol=1e-4, rtol=1e-4)


def test_gradients_reach_what_is_trained_and_nothing_else(model: InjectedModel) -> None:
    model.zero_grad()
    frozen = model.foundation.embedding.weight
    loss = model.loss(collate([example(t, i) for i, t in enumerate(TRAINED)]))
    (loss - 0.1 * model.gate_information()).backward()
    assert frozen.grad is None
    assert not frozen.requires_grad
    for module in (model.connectors, model.gate, model.extractor.encoders):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert all(p.grad is not None for p in model.experts.parameters())
    assert all(p.grad is None for p in model.extractor.heads.parameters())


def test_plain_is_the_foundation_model_and_sees_only_text(model: InjectedModel) -> None:
    one, two = example("lung_opacity", 1), example("lung_opacity", 2)
    scores = model.score(collate([one, two]), plain=True)
    assert scores[0] == scores[1]
    bare = build("injector=fedplug").score(collate([one]), plain=True)
    torch.testing.assert_close(scores[:1], bare, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("injector", ["fedplug", "lora"])
def test_without_gate(injector: str) -> None:
    experts = {"fedplug": 0, "lora": 1}[injector]
    model = build(f"injector={injector}", f"injector.experts={experts}")
    assert model.gate is None
    assert (model.experts is None) == (injector == "fedplug")
    rows = [example(t, i) for i, t in enumerate(TRAINED)]
    assert model.score(collate(rows)).isfinite().all()
    model.loss(collate(rows)).backward()


def test_alpha_depends_on_task_and_on_modalities_present(model: InjectedModel) -> None:
    keys = [
        ("mortality", ("vitals", "labs", "inputs", "outputs")),
        ("mortality", ("vitals",)),
        ("sepsis", ("vitals", "labs", "inputs", "outputs")),
    ]
    alphas = model.alphas(keys)
    assert alphas.shape == (3, 3)
    for i in range(3):
        torch.testing.assert_close(alphas[i], model.alphas(keys[i : i + 1])[0])
        for j in range(i):
            assert not torch.allclose(alphas[i], alphas[j], atol=1e-6)


def test_dropout_of_the_experts_follows_the_mode() -> None:
    model = build("injector.dropout=0.5")
    batch = collate([example("lung_opacity", 1)])
    assert torch.equal(model.score(batch), model.score(batch))
    model.train()
    model.extractor.eval()
    assert not torch.equal(model.score(batch), model.score(batch))
    # Only the adapter's dropout: the frozen model runs as in inference.
    assert not model.foundation.model.training
