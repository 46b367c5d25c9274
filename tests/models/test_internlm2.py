"""InternLM2 as a Llama: against its published definition, computed from the fused layout."""

import math
import pickle
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import import_protobuf

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.models.foundation import Foundation, load_foundation
from fedkim_core.models.internlm2 import split_wqkv
from fedkim_core.models.sentencepiece import internlm2_tokenizer
from tests.internlm2 import CONFIG, checkpoint, write


def oracle(config: dict, weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Logits ``[n, vocabulary]`` in float64, head by head and straight from ``wqkv``."""
    w = {name: value.double() for name, value in weights.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    width, group, n = config["hidden_size"], heads // kv_heads, len(ids)
    d = width // heads
    base, scaling, most = config["rope_theta"], config["rope_scaling"], 0
    most = config["max_position_embeddings"]
    position = torch.arange(n).double()
    if scaling and scaling["type"] == "linear":
        position = position / scaling["factor"]
    if scaling and scaling["type"] == "dynamic" and n > most:
        factor = scaling["factor"]
        base = base * (factor * n / most - (factor - 1)) ** (d / (d - 2))
    angle = position[:, None] / base ** (torch.arange(0, d, 2).double() / d)

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight * x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()

    def rotate(x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, : d // 2], x[:, d // 2 :]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    hidden = w["model.tok_embeddings.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        x = norm(hidden, w[f"{layer}.attention_norm.weight"])
        fused = x @ w[f"{layer}.attention.wqkv.weight"].T + w.get(
            f"{layer}.attention.wqkv.bias", torch.zeros(1)
        )
        seen = []
        for kv in range(kv_heads):
            own = fused[:, kv * (group + 2) * d : (kv + 1) * (group + 2) * d]
            key, value = rotate(own[:, group * d : (group + 1) * d]), own[:, (group + 1) * d :]
            for q in range(group):
                query = rotate(own[:, q * d : (q + 1) * d])
                score = (query @ key.T / math.sqrt(d)).masked_fill(
                    ~torch.ones(n, n).tril().bool(), -torch.inf
                )
                seen.append(score.softmax(-1) @ value)
        out = torch.cat(seen, -1) @ w[f"{layer}.attention.wo.weight"].T
        hidden = hidden + out + w.get(f"{layer}.attention.wo.bias", torch.zeros(1))
        x = norm(hidden, w[f"{layer}.ffn_norm.weight"])
        gate = torch.nn.functional.silu(x @ w[f"{layer}.feed_forward.w1.weight"].T)
        up = x @ w[f"{layer}.feed_forward.w3.weight"].T
        hidden = hidden + (gate * up) @ w[f"{layer}.feed_forward.w2.weight"].T
    head = w.get("output.weight", w["model.tok_embeddings.weight"])
    return norm(hidden, w["model.norm.weight"]) @ head.T


def load(folder: Path) -> Foundation:
    words = ["foundation=huggingface", f"foundation.model={folder}", "foundation.dtype=float32"]
    return load_foundation(compose(words).foundation)


CASES = {
    "dynamic, in the first length": ({}, 12),
    "dynamic, beyond it": ({}, 29),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 12),
    "unscaled, biases": ({"rope_scaling": None, "bias": True}, 12),
    "one head for each key": ({"num_key_value_heads": 6}, 12),
    "tied": ({"tie_word_embeddings": True, "model_type": "internlm2"}, 12),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_logits_equal_the_published_definition(tmp_path: Path, case: str, kind: str) -> None:
    changes, length = CASES[case]
    config = CONFIG | changes
    weights = checkpoint(config)
    write(tmp_path, config, weights, kind=kind)
    loaded = load(tmp_path)
    ids = [(7 * i + 3) % 250 for i in range(length)]
    with torch.no_grad():
        got = loaded.model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got.double(), oracle(config, weights, ids), atol=1e-4, rtol=1e-4)
    assert loaded.answer_ids("yes") != loaded.answer_ids("no")


@given(kv=st.integers(1, 4), group=st.integers(1, 4), d=st.integers(1, 4), bias=st.booleans())
@settings(max_examples=30)
def test_split_takes_every_row_once(kv: int, group: int, d: int, bias: bool) -> None:
    rows = kv * (group + 2) * d
    fused = torch.arange(rows)[:, None] if not bias else torch.arange(rows)
    query, key, value = (part.flatten().tolist() for part in split_wqkv(fused, kv * group, kv))
    assert sorted(query + key + value) == list(range(rows))
    block = (group + 2) * d
    assert all(row % block < group * d for row in query)
    assert all(group * d <= row % block < (group + 1) * d for row in key)
    assert all((group + 1) * d <= row % block for row in value)


def test_it_is_in_memory_once(tmp_path: Path) -> None:
    """No parameter holds more storage than it has values, nor a view of the file."""
    write(tmp_path, CONFIG, checkpoint(CONFIG), kind="bin")
    for name, parameter in load(tmp_path).model.named_parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes, name


class Evil:
    def __reduce__(self):
        return print, ("a pickle ran code",)


def fault(folder: Path, weights: dict, name: str) -> dict:
    """Damage a checkpoint; returns the configuration to write."""
    config = dict(CONFIG)
    if name == "fewer":
        del weights["model.norm.weight"]
    elif name == "unknown":
        weights["model.layers.0.attention.extra.weight"] = torch.zeros(2)
    elif name == "shape":
        config["hidden_size"] = 36
    elif name == "heads":
        config["num_key_value_heads"] = 4
    elif name == "rope":
        config["rope_scaling"] = {"type": "spiral", "factor": 2.0}
    elif name == "key":
        del config["rms_norm_eps"]
    return config


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "fewer": r"1 weights are missing, first model\.norm",
        "unknown": r"attention\.extra\.weight is not a weight",
        "shape": "wrong shape",
        "heads": "wqkv has",
        "rope": "spiral",
        "key": "rms_norm_eps",
    }.items(),
)
def test_a_fault_is_one_line(tmp_path: Path, name: str, said: str) -> None:
    weights = checkpoint(CONFIG)
    write(tmp_path, fault(tmp_path, weights, name), weights)
    with pytest.raises(UserError, match=said) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_are_gone_damaged_or_dangerous(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, CONFIG, checkpoint(CONFIG), kind="bin")
    shard = tmp_path / "pytorch_model-00002-of-00002.bin"
    torch.save({"model.norm.weight": Evil()}, shard)
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)
    shard.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)
    assert "ran code" not in capsys.readouterr().out
    shard.unlink()
    with pytest.raises(UserError, match=r"00002-of-00002\.bin is missing"):
        load(tmp_path)


def test_without_a_tokenizer_file_it_says_so(tmp_path: Path) -> None:
    write(tmp_path, CONFIG, checkpoint(CONFIG))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        load(tmp_path)


# --- tokenizer.model -----------------------------------------------------------------------

PIECES = ["a", "b", "c", "\u2581", "ab", "\u2581a", "abc", "bc", "\u2581ab", "cab", "\u2581\u2581"]


def sentencepiece_file(folder: Path, *, dummy_prefix: bool, order: list[int]) -> Path:
    """A small tokenizer.model; ``order`` ranks the pieces of more than one letter."""
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = 2
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.unk_piece = "<unk>"
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
    kinds = {"<unk>": 2, "<s>": 3, "</s>": 3}
    pieces = [*kinds, *(f"<0x{i:02X}>" for i in range(256)), *PIECES]
    for i, piece in enumerate(pieces):
        kind = 6 if piece.startswith("<0x") else kinds.get(piece, 1)
        long = piece in PIECES and len(piece) > 1
        score = -float(order[PIECES.index(piece) % len(order)]) if long else -100.0 - i
        proto.pieces.add(piece=piece, score=score, type=kind)
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    return folder


def encoded_by_hand(text: str, order: list[int], *, dummy_prefix: bool) -> list[str]:
    """Of all neighbours that make a piece, the leftmost best joins first."""
    symbols = list((" " + text if dummy_prefix else text).replace(" ", "\u2581"))
    rank = {p: order[PIECES.index(p) % len(order)] for p in PIECES if len(p) > 1}
    while True:
        found = [(rank[a + b], i) for i, (a, b) in enumerate(pairwise(symbols)) if a + b in rank]
        if not found:
            return symbols
        _, i = min(found)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@settings(max_examples=40)
@given(
    text=st.text(alphabet="abc ", min_size=1, max_size=12),
    order=st.permutations(range(len(PIECES))),
    dummy=st.booleans(),
)
def test_sentencepiece_file_is_read_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, text: str, order: list[int], dummy: bool
) -> None:
    folder = sentencepiece_file(tmp_path_factory.mktemp("spm"), dummy_prefix=dummy, order=order)
    tokenizer = internlm2_tokenizer(folder)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id == 1
    pieces = tokenizer.convert_ids_to_tokens(ids[1:])
    assert pieces == encoded_by_hand(text, order, dummy_prefix=dummy)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_what_it_has_no_piece_for_becomes_bytes(tmp_path: Path) -> None:
    folder = sentencepiece_file(tmp_path, dummy_prefix=False, order=list(range(len(PIECES))))
    tokenizer = internlm2_tokenizer(folder)
    ids = tokenizer("\u00e9</s>", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<0xC3>", "<0xA9>", "</s>"]
    assert tokenizer.decode(ids[:2]) == "\u00e9"


def test_tokenizer_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        internlm2_tokenizer(tmp_path)
    proto = import_protobuf().ModelProto()
    proto.trainer_spec.model_type = 1
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UserError, match="plain byte-pair"):
        internlm2_tokenizer(tmp_path)
