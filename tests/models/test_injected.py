"""The injected model on a tiny foundation model: sequences, losses, scores and answers."""

import pytest
import torch

from fedkim_core.config import compose
from fedkim_core.data.examples import Example, collate
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.sequences import pad
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
    rows = model._rows(collate([example("mortality", 1), example("lung_opacity", 2)]), answers=True)
    _, mask = pad(model.foundation, rows)
    assert not mask[1, 0]
    assert mask[:, -1].all()
    assert mask.sum(1).tolist() == [len(row.prompt) + len(row.rest) for row in rows]


def test_every_modality_of_the_patient_is_in_the_sequence(model: InjectedModel) -> None:
    patients = [example("mortality", 1), example("mortality", 1, without=("labs",))]
    whole, fewer = model._rows(collate(patients), answers=False)
    label = len(model.foundation.token_ids(" Labs:"))
    tokens = model.extractor.encoders["labs"].pool.queries.shape[0]
    assert len(whole.rest) - len(fewer.rest) == tokens + label
    assert whole.prompt == fewer.prompt
    assert whole.gate != fewer.gate


def test_loss_is_the_cross_entropy_of_answer_tokens_only(model: InjectedModel) -> None:
    """Against the whole vocabulary at every position of every row alone, by hand."""
    rows = [example("lung_opacity", 1), example("med_vqa_rad", 2), example("mortality", 3)]
    terms = []
    for row in rows:
        answer = [*model.foundation.answer_ids(row.answer), model.foundation.end_id]
        logits = logits_alone(model, row, answers=True)
        for back, target in enumerate(reversed(answer), 1):
            terms.append(-torch.log_softmax(logits[-back].double(), -1)[target])
    want = torch.stack(terms).mean().float()
    torch.testing.assert_close(model.loss(collate(rows)).detach(), want, atol=1e-4, rtol=1e-4)


def logits_alone(model: InjectedModel, row: Example, *, answers: bool) -> torch.Tensor:
    """``[n, vocabulary]`` of one row, as transformers computes it."""
    (own,) = model._rows(collate([row]), answers=answers)
    with torch.no_grad(), model._gated([own.gate]):
        embeddings, _ = pad(model.foundation, [own])
        return model.foundation.model(inputs_embeds=embeddings).logits[0]


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
    row = example("ecg_abnormal", 4)
    last = logits_alone(model, row, answers=False)[-1]
    yes, no = model.foundation.answer_ids("yes")[0], model.foundation.answer_ids("no")[0]
    torch.testing.assert_close(
        model.score(collate([row]))[0], last[yes] - last[no], atol=1e-4, rtol=1e-4
    )


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
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)
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


def test_a_uniform_gate_is_one_plain_lora_of_all_ranks() -> None:
    """``gate.kind=uniform`` and ``lora_wide`` are one function: scale alpha / r times 1 / P."""
    uniform = build("injector.gate.kind=uniform")
    wide = build("injector=lora_wide", "injector.experts=1", "injector.rank=6")
    assert uniform.gate is wide.gate is None
    assert torch.allclose(uniform.task_alphas(TRAINED), torch.tensor(1 / 3))
    batch = collate([e for e in all_tasks() if load_tasks()[e.task].answer == "yes_no"])
    torch.testing.assert_close(uniform.score(batch), wide.score(batch))
    assert uniform.loss(batch).isfinite()


def test_lora_wide_has_as_many_parameters_as_the_experts() -> None:
    one, all_experts = (
        sum(p.numel() for p in build(f"injector={name}", *words).experts.parameters())
        for name, words in (
            ("lora_wide", ["injector.experts=1", "injector.rank=48"]),
            ("m3oe", ["injector.experts=12", "injector.rank=4"]),
        )
    )
    assert one == all_experts
    wide, m3oe = (compose([f"injector={name}"]).injector for name in ("lora_wide", "m3oe"))
    assert wide.experts * wide.rank == m3oe.experts * m3oe.rank


def test_a_gate_without_descriptions_cannot_tell_them_apart() -> None:
    tasks = [("lung_opacity", ("image",)), ("covid19", ("image",)), ("mortality", ("labs",))]
    inputs = [("mortality", ("labs",)), ("mortality", ("vitals",))]

    def distinct(words: list[str], keys: list) -> int:
        return len(torch.unique(build(*words).alphas(keys).round(decimals=6), dim=0))

    without_t = ["injector.gate.task_description=false"]
    without_m = ["injector.gate.modality_description=false"]
    assert distinct([], tasks) == 3
    assert distinct(without_t, tasks) == 2  # images and labs
    assert distinct(without_m, tasks) == 3
    assert distinct([], inputs) == 2
    assert distinct(without_m, inputs) == 1
    assert distinct([*without_t, *without_m], [*tasks, *inputs]) == 1


def test_compiled_layers_give_the_same_gradients(model: InjectedModel) -> None:
    """Captured as a graph without a break; what a backend makes of that graph is its own affair."""
    compiled = build("foundation.compile=eager")
    batch = collate([example(name, i) for i, name in enumerate(TRAINED)])
    torch._dynamo.utils.counters.clear()
    found = []
    for each in (model, compiled):
        each.zero_grad()
        for parameter in each.experts.parameters():
            parameter.grad = None
        loss = each.loss(batch)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in each.experts.parameters())])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]
