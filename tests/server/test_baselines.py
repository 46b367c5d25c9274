"""What the method is compared with: other federations, no injection, tuning, a few examples."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from flwr.app import MessageType
from hypothesis import given
from hypothesis import strategies as st

from client_app.app import app, open_workplace
from fedkim_core.config import compose
from fedkim_core.data.examples import NO, YES, Example, batches
from fedkim_core.data.network import Network
from fedkim_core.data.site import Site
from fedkim_core.errors import UserError
from server_app.finished import evaluate_run
from server_app.run import execute
from server_app.tuning import few_examples, tune_extractor
from tests.grid import InProcessGrid
from tests.patients import example
from tests.tiny import SITES, make_extractor, overrides, public_examples, same, tiny


def workplace(network: Path, *words: str, node: int = 0):
    return open_workplace(shlex.join(overrides(network, *words)), None, node)


def identities(examples: list[Example]) -> list[tuple[str, str]]:
    return sorted((e.patient_id, e.example_id) for e in examples)


def run(network: Path, output: Path, *words: str, nodes: int = 1) -> dict:
    own = overrides(network, "rounds=1", "evaluation.bootstrap=2", *words)
    path = execute([*own, f"output={output}"], InProcessGrid(app, nodes, shlex.join(own)))
    return json.loads(path.read_text())


def test_who_takes_part(network: Path) -> None:
    found = Network(network)

    def members(*words: str) -> list[list[str]]:
        config = compose(words).federation
        return [[path.name for path in member] for member in found.members(config)]

    largest_first = members()
    assert sorted(largest_first) == [[name] for name in SITES]
    counts = [len(Site.open(network / "sites" / name).examples) for (name,) in largest_first]
    assert counts == sorted(counts, reverse=True)
    assert members("federation=public") == [["public"]]
    assert members("federation=central") == [list(SITES)]
    assert members("federation=local", f"federation.site={SITES[1]}") == [[SITES[1]]]
    assert members("federation=local", "federation.site=2") == [[SITES[2]]]
    for wrong in ("nowhere", "3"):
        with pytest.raises(UserError, match=f"federation.site={wrong}: no such site; one of brook"):
            members("federation=local", f"federation.site={wrong}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["federation=local"], r"local, and no other, needs federation\.site"),
        (["federation=central", "federation.site=1"], "local, and no other"),
        (["federation=lokal"], "central, federated, local, public"),
        (["injector.gate.top_k=13"], "there are 12 experts"),
    ],
)
def test_a_wrong_setting_is_named(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(words)


def test_central_holds_the_union_of_all_sites(network: Path) -> None:
    central = workplace(network, "federation=central")
    assert central.name == "central"
    for split in ("train", "validation"):
        each = [workplace(network, node=i).examples[split] for i in range(3)]
        assert identities(central.examples[split]) == identities([e for own in each for e in own])


def test_public_holds_the_servers_public_set(network: Path) -> None:
    public = workplace(network, "federation=public")
    expected = public_examples(network, tiny("tasks=[lung_opacity,covid19,ecg_abnormal,mortality]"))
    assert identities(public.examples["train"]) == identities(expected)


def test_a_hospital_with_data_of_its_own_takes_no_part_in_a_baseline(network: Path) -> None:
    text = shlex.join(overrides(network, "federation=central"))
    with pytest.raises(UserError, match="federation=central: is for simulations"):
        open_workplace(text, network / "sites" / SITES[0], 0)


@pytest.mark.parametrize(
    ("words", "site"),
    [
        (["federation=public"], "public"),
        (["federation=central"], "central"),
        (["federation=local", "federation.site=1"], SITES[1]),
    ],
)
def test_a_run_of_each(words: list[str], site: str, network: Path, tmp_path: Path) -> None:
    summary = run(network, tmp_path / "run", "tasks=[lung_opacity,sepsis,mortality]", *words)
    assert list(summary["data"]["sites"]) == [site]
    assert summary["left_out"] == []
    assert summary["tasks"]["mortality"]["injected"]["auroc"]["value"] >= 0


def test_the_only_client_is_the_aggregate(network: Path, tmp_path: Path) -> None:
    """With one client, aggregation returns what this client trained."""
    from fedkim_core import exchange
    from fedkim_core.exchange import Contract
    from tests.tiny import rounds

    words = overrides(network, "federation=central", "tasks=[lung_opacity]")
    grid = InProcessGrid(app, 1, shlex.join(words))
    strategy = rounds(words, tmp_path, grid=grid)
    (sent,) = [m for m in grid.received if m.metadata.message_type == MessageType.TRAIN]
    update = exchange.decode_update(sent, Contract.of(make_extractor(compose(words))))
    assert strategy.arrays.keys() == update.arrays.keys()
    for name, parameters in update.arrays.items():
        torch.testing.assert_close(strategy.arrays[name], parameters)  # n * x / n is not quite x


def test_without_injection_only_the_extractor_is_measured(network: Path, tmp_path: Path) -> None:
    words = ["tasks=[lung_opacity,sepsis]", "injector=none"]
    summary = run(network, tmp_path / "run", *words, nodes=3)
    opacity, sepsis = summary["tasks"]["lung_opacity"], summary["tasks"]["sepsis"]
    assert opacity["before"] is opacity["injected"] is sepsis["injected"] is None
    assert not {"before", "inject"} & summary["seconds"].keys()
    assert evaluate_run(tmp_path / "run").is_file()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert line["injected"] is None
    assert "auroc" in line["extractor"]
    # The federation does not notice: the extractor is that of the run with injection.
    other = run(network, tmp_path / "other", words[0], nodes=3)
    assert other["tasks"]["lung_opacity"]["extractor"] == opacity["extractor"]


def test_encoders_that_injection_trained_are_measured_again(network: Path, tmp_path: Path) -> None:
    trained = run(
        network, tmp_path / "run", "tasks=[lung_opacity]", "injector.train_encoders=true"
    )["tasks"]["lung_opacity"]
    assert trained["extractor_after"].keys() == trained["extractor"].keys()
    assert trained["extractor_after"] != trained["extractor"]
    still = run(network, tmp_path / "still", "tasks=[lung_opacity]")["tasks"]["lung_opacity"]
    assert "extractor_after" not in still


def loss(extractor: torch.nn.Module, examples: list[Example]) -> float:
    (batch,) = batches(examples, len(examples))
    with torch.no_grad():
        logits = extractor.logits(batch)
    return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels))


def test_tuning_on_the_public_set_learns_it() -> None:
    examples = [example("lung_opacity", i) for i in range(6)]
    config = tiny("strategy.batch_size=4", "strategy.learning_rate=0.003")

    def tuned(seed: int) -> torch.nn.Module:
        extractor = make_extractor(config)
        extractor.encoders.requires_grad_(False)
        tune_extractor(extractor, examples, config.strategy, epochs=20, seed=seed, round=1)
        return extractor

    extractor, start = tuned(0), make_extractor(config)
    assert loss(extractor, examples) < 0.5 * loss(start.eval(), examples)
    assert same(extractor.arrays(), tuned(0).arrays())
    assert not same(extractor.arrays(), tuned(1).arrays())
    # Encoders were tuned as well, though injection had switched them off; that is restored.
    name = "encoder.image"
    assert not same({name: start.arrays()[name]}, {name: extractor.arrays()[name]})
    assert not any(p.requires_grad for p in extractor.encoders.parameters())
    assert all(p.requires_grad for p in extractor.heads.parameters())


def test_public_tuning_changes_what_the_federation_sends(network: Path, tmp_path: Path) -> None:
    words = ["tasks=[lung_opacity]", "injector=none"]
    plain = run(network, tmp_path / "plain", *words)
    tuned = run(network, tmp_path / "tuned", *words, "federation.public_epochs=2")
    assert "tune" in tuned["seconds"]
    assert (
        tuned["tasks"]["lung_opacity"]["extractor"] != plain["tasks"]["lung_opacity"]["extractor"]
    )


rows = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([YES, NO])), max_size=20)


@given(first=rows, second=rows, count=st.integers(1, 6), seed=st.integers(0, 9))
def test_few_examples(first: list, second: list, count: int, seed: int) -> None:
    def made(kind: str, pairs: list) -> list[Example]:
        return [Example(f"{kind}{i}", f"{kind}{i}", t, "?", a) for i, (t, a) in enumerate(pairs)]

    sources = [made("public", first), made("validation", second)]
    drawn = few_examples(sources, ["a", "c"], count, seed=seed)
    assert drawn == few_examples(sources, ["a", "c"], count, seed=seed)
    assert len({e.example_id for e in drawn}) == len(drawn)
    own = [[e for e in source if e.task == "a"] for source in sources]
    pool = own[0] or own[1]
    assert len(drawn) == min(count, len(pool))
    assert all(e in pool for e in drawn)
    answers = [e.answer for e in drawn]
    for answer in (YES, NO):  # as even as the pool allows
        there = sum(e.answer == answer for e in pool)
        assert answers.count(answer) >= min(there, count // 2)


def test_a_few_unseen_examples_reach_the_model(network: Path, tmp_path: Path) -> None:
    words = ["tasks=[lung_opacity,atelectasis,med_vqa_rad]"]
    shot = [*words, "injector.few_shot=4", "injector.few_shot_steps=3"]
    zero = run(network, tmp_path / "zero", *words, nodes=3)
    few = run(network, tmp_path / "few", *shot, nodes=3)
    assert "few_shot" in few["seconds"]
    assert few["tasks"]["atelectasis"]["injected"] != zero["tasks"]["atelectasis"]["injected"]
    assert few["tasks"]["lung_opacity"]["extractor"] == zero["tasks"]["lung_opacity"]["extractor"]
    again = json.loads(evaluate_run(tmp_path / "few").read_text())  # it is in the checkpoint
    assert again["tasks"]["atelectasis"]["injected"] == few["tasks"]["atelectasis"]["injected"]


def test_no_unseen_example_anywhere(network: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"injector\.few_shot=2: neither the public nor"):
        run(network, tmp_path / "run", "tasks=[lung_opacity]", "injector.few_shot=2")
