"""The faults of the authors' released code: one test each that this code has not got it."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from flwr.app import Message, MessageType
from safetensors.torch import load_file, save_file

from fedkim_core import exchange
from fedkim_core.config import compose
from fedkim_core.data.contract import TABLES_SCHEMA
from fedkim_core.data.examples import collate
from fedkim_core.data.network import Network
from fedkim_core.data.simulate.build import true_answers
from fedkim_core.data.simulate.hospitals import PROFILES, one_hospital
from fedkim_core.data.simulate.patients import draw_patients
from fedkim_core.data.site import Site, SiteCard, load_examples, write_site
from fedkim_core.errors import UserError
from fedkim_core.exchange import Contract, Instructions, KnowledgeUpdate
from fedkim_core.guard import code_digest
from fedkim_core.models.injected import InjectedModel
from fedkim_core.models.m3oe import Gate
from fedkim_core.models.sequences import pad
from fedkim_core.tasks import load_tasks
from server_app import checkpoint
from server_app.evaluation import Answers, ask, points, score
from server_app.injection import Injector
from tests.patients import example
from tests.tiny import make_extractor, make_grid, make_model, overrides, same, tiny
from tests.updates import combined

CARDS = load_tasks()
CONFIG = tiny()


@pytest.fixture(scope="module")
def model() -> InjectedModel:
    """With experts that do something: their B starts at zero."""
    made = make_model(CONFIG)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.experts.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return made.eval()


def test_clients_partitioned_again_every_round(network: Path) -> None:
    grid = make_grid(overrides(network))
    extractor = make_extractor(CONFIG)
    seen = []
    for round in (1, 2, 3):
        content = exchange.encode_model(extractor.arrays(), Instructions(round, code_digest()))
        (reply,) = grid.send_and_receive([Message(content, 101, MessageType.TRAIN)])
        update = exchange.decode_update(reply, Contract.of(extractor))
        seen.append((update.site, dict(update.examples)))
    assert seen[0] == seen[1] == seen[2]


def test_unweighted_mean_over_all_parameters() -> None:
    def update(site: str, value: float, examples: dict[str, int]) -> KnowledgeUpdate:
        arrays = {m: {"w": torch.tensor([value])} for m in examples}
        return KnowledgeUpdate(site, arrays, examples, dict.fromkeys(examples, 1), {})

    got = combined([update("x", 1.0, {"a": 30, "b": 1}), update("y", 5.0, {"a": 10})])
    assert got["a"]["w"].item() == pytest.approx(2.0)
    assert got["b"]["w"].item() == pytest.approx(1.0)


def test_lora_scaling_never_applied() -> None:
    x = torch.randn(1, 3, 32)
    parts = []
    for alpha in (16.0, 32.0):
        experts = make_model(tiny(f"injector.alpha={alpha}")).experts
        layer = experts._layers[0]
        assert layer.scaling["default"] == alpha / CONFIG.injector.rank
        with torch.no_grad(), experts.gated(torch.full((1, 3), 1 / 3)):
            layer.lora_B["default"].weight.fill_(0.1)
            layer.lora_A["default"].weight.fill_(0.1)
            parts.append(layer(x) - layer.base_layer(x))
    torch.testing.assert_close(2 * parts[0], parts[1], atol=1e-5, rtol=1e-4)


def test_gate_padding_unmasked() -> None:
    gate = Gate(8, 3, 4, normalise=True)
    task, modality = torch.randn(1, 5, 8), torch.randn(1, 4, 8)
    mask = torch.tensor([[True, True, True, False, False]])
    junk = torch.where(mask[..., None], task, 50.0)
    want = gate(task[:, :3], mask[:, :3], modality[:, :2], mask[:, :2])
    got = gate(junk, mask, torch.where(mask[:, 1:, None], modality, 50.0), mask[:, 1:])
    torch.testing.assert_close(got, want)


def test_gate_a_single_linear_layer() -> None:
    mlp = Gate(8, 3, 4, normalise=True).mlp
    one, two = torch.randn(2, 1, 4)
    assert not torch.allclose(mlp(one) + mlp(two), mlp(one + two) + mlp(torch.zeros(1, 4)))


def test_clinical_transformer_attends_over_patients() -> None:
    encoder = make_extractor(CONFIG).encoders["vitals"].eval()
    tables = torch.stack([example("mortality", i).features["vitals"] for i in range(3)])
    with torch.no_grad():
        torch.testing.assert_close(encoder(tables)[:1], encoder(tables[:1]), atol=1e-5, rtol=1e-4)


def test_clinical_transformer_without_positions() -> None:
    encoder = make_extractor(CONFIG).encoders["vitals"].eval()
    table = example("mortality", 1).features["vitals"][None]
    with torch.no_grad():
        assert not torch.allclose(encoder(table), encoder(table.flip(1)), atol=1e-4)


def test_loss_averaged_over_ignored_positions(model: InjectedModel) -> None:
    """The loss of two answers is the mean over their tokens, however long the prompts."""
    short, long = example("covid19", 2), example("mortality", 1)
    with torch.no_grad():
        together = model.loss(collate([short, long]))
        apart = [model.loss(collate([row])) for row in (short, long)]
    tokens = [len(model.foundation.answer_ids(row.answer)) + 1 for row in (short, long)]
    want = (tokens[0] * apart[0] + tokens[1] * apart[1]) / sum(tokens)
    torch.testing.assert_close(together, want, atol=1e-4, rtol=1e-4)


def test_one_modality_per_batch_and_per_sample(model: InjectedModel) -> None:
    rows = [example("mortality", 1), example("covid19", 2), example("ecg_abnormal", 3)]
    batch = collate(rows)
    assert len(batch.features) == 6
    assert model.loss(batch).isfinite()
    # Every modality of the first patient has a say in the answer.
    whole = model.score(collate(rows[:1]))
    for name in CARDS["mortality"].encoded:
        without = model.score(collate([example("mortality", 1, without=(name,))]))
        assert not torch.allclose(whole, without, atol=1e-6), name


@pytest.mark.parametrize("extractor", ["default", "paper"])
def test_batch_norm_statistics_lost_in_checkpoints(extractor: str) -> None:
    """Nothing that a forward pass changes; all that counts is among the arrays."""
    config = compose([f"extractor={extractor}", "data.image_size=32"])
    one, two = make_extractor(config), make_extractor(config.model_copy(update={"seed": 8}))
    batch = collate([example("covid19", 1), example("ecg_abnormal", 2), example("mortality", 3)])
    before = one.arrays()
    one.train()
    one.logits(batch)
    assert same(before, one.arrays())
    two.load_arrays(before)
    with torch.no_grad():
        assert torch.equal(one.eval().logits(batch), two.eval().logits(batch))


def test_loading_with_strict_false(tmp_path: Path) -> None:
    model = make_model(CONFIG)
    injector = Injector(model, [example("covid19", 1)], CONFIG.injector, seed=0, rounds=1)
    folder = checkpoint.save(tmp_path, 1, model, model.extractor.arrays(), injector)
    for file in ("extractor.safetensors", "connectors.safetensors", "gate.safetensors"):
        tensors = load_file(folder / file)
        kept = dict(tensors)
        kept.pop(sorted(kept)[0])
        save_file(kept, folder / file)
        with pytest.raises(UserError, match="checkpoint cannot be read"):
            checkpoint.load(folder, model)
        save_file(tensors, folder / file)
    checkpoint.load(folder, model)


def test_logits_cut_at_one_half() -> None:
    given = Answers(["a", "b"], ["yes", "no"], [1, 0], [0.2, -0.2])
    assert points(score({"covid19": given}, CARDS, bootstrap=0, seed=0)["covid19"])["accuracy"] == 1


def test_unparsable_answers_scored_as_a_class(model: InjectedModel) -> None:
    rows = [example("covid19", i) for i in range(12)]
    assert not {"yes", "no"} & set(model.generate(collate(rows), 4))
    answers = ask(model, rows, CONFIG.evaluation)["covid19"]
    torch.testing.assert_close(
        torch.tensor(answers.logits), model.score(collate(rows)), atol=1e-4, rtol=1e-4
    )
    # Free text that says nothing scores nothing.
    empty = Answers(["a"], ["yes"], [0], texts=["#?"])
    scores = points(score({"med_vqa_rad": empty}, CARDS, bootstrap=0, seed=0)["med_vqa_rad"])
    assert scores["exact_match"] == 0


def test_the_same_checkpoint_scores_twice_differently(model: InjectedModel) -> None:
    rows = [example(task, i) for task in CARDS for i in range(2)]
    model.train()
    first = ask(model, rows, CONFIG.evaluation)
    torch.manual_seed(123)
    assert ask(model, rows, CONFIG.evaluation) == first


def test_pleural_effusion_labelled_from_the_atelectasis_column(network: Path) -> None:
    patients = draw_patients(one_hospital(PROFILES[0], 300), np.random.default_rng(2))
    answers = true_answers(patients)
    assert np.array_equal(answers["pleural_effusion"][1], patients.effusion > 0)
    assert np.array_equal(answers["atelectasis"][1], patients.atelectasis > 0)
    assert (answers["pleural_effusion"][1] != answers["atelectasis"][1]).any()
    rows = pl.read_parquet(network / "test" / "examples.parquet")
    written = {
        task: dict(rows.filter(pl.col("task") == task).select("patient_id", "answer").iter_rows())
        for task in ("pleural_effusion", "atelectasis")
    }
    assert written["pleural_effusion"].keys() == written["atelectasis"].keys()
    assert written["pleural_effusion"] != written["atelectasis"]


def test_splits_by_row(network: Path) -> None:
    owners: dict[str, set[tuple[str, str]]] = {}
    found = Network(network)
    for folder in [*found.sites, *(found.server_set(n) for n in ("public", "validation", "test"))]:
        rows = pl.read_parquet(folder / "examples.parquet")
        for patient, split in rows.select("patient_id", "split").iter_rows():
            owners.setdefault(patient, set()).add((folder.name, split))
    assert all(len(places) == 1 for places in owners.values())


def test_embeddings_padded_on_the_wrong_side_at_generation(model: InjectedModel) -> None:
    rows = [example("med_vqa_rad", 1), example("mortality", 2), example("ecg_noise_qa", 3)]
    _, mask = pad(model.foundation, model._rows(collate(rows), answers=False))
    assert mask[:, -1].all()
    assert not mask.all()
    together = model.generate(collate(rows), 6)
    assert together == [model.generate(collate([row]), 6)[0] for row in rows]


def test_tokens_added_after_peft_unfreeze_the_embedding() -> None:
    model = make_model(CONFIG)
    words = len(model.foundation.tokenizer)
    before = model.foundation.embedding.weight.clone()
    rows = [example("covid19", i) for i in range(4)]
    Injector(model, rows, CONFIG.injector, seed=0, rounds=1).inject(1, lambda *_: None)
    assert len(model.foundation.tokenizer) == words == len(model.foundation.embedding.weight)
    assert not model.foundation.embedding.weight.requires_grad
    assert torch.equal(model.foundation.embedding.weight, before)
    trained = {n for n, p in model.experts.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)


def test_modality_guessed_from_the_file_path(tmp_path: Path) -> None:
    """A radiograph may be called what it likes: the column says what it is."""
    name = "images/ecg_signals_vitals_mimic_text.png"
    row = {
        "example_id": "1",
        "patient_id": "p",
        "task": "lung_opacity",
        "split": "train",
        "answer": "yes",
        "image": name,
    }
    write_site(
        tmp_path / "site",
        SiteCard(name="north", tasks=("lung_opacity",), synthetic=True),
        pl.DataFrame([row]),
        images={name: np.full((20, 20), 7, dtype=np.uint8)},
        signals={},
        tables=pl.DataFrame(schema=TABLES_SCHEMA),
    )
    site = Site.open(tmp_path / "site")
    (read,) = load_examples(site, split="train", cards=CARDS, image_size=32)
    assert read.features.keys() == {"image"}
    assert read.features["image"].shape == (1, 32, 32)
