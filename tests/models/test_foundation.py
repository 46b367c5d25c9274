"""Foundation models: the bundled one against an independent reader, folders, and bad input."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedkim_core.config import FoundationConfig, compose
from fedkim_core.errors import UserError
from fedkim_core.models import bundled
from fedkim_core.models.foundation import load_foundation


@pytest.fixture(scope="module")
def smollm2():
    return load_foundation(compose(["foundation.dtype=float32"]).foundation)


def test_bundled_model_equals_the_gguf_reader_of_transformers(smollm2) -> None:
    """An independent reading of the same file: logits agree."""
    source = bundled._gguf_file()
    other = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    ids = torch.tensor([smollm2.token_ids("The chest radiograph shows a large effusion.")])
    with torch.no_grad():
        torch.testing.assert_close(
            smollm2.model(ids).logits, other(ids).logits, atol=2e-3, rtol=1e-3
        )


def test_bundled_model_knows_its_language(smollm2) -> None:
    ids = torch.tensor([smollm2.token_ids("The capital of France is")])
    with torch.no_grad():
        best = int(smollm2.model(ids).logits[0, -1].argmax())
    assert smollm2.tokenizer.decode([best]).strip() == "Paris"


def test_bundled_model_is_converted_once(monkeypatch, smollm2) -> None:
    monkeypatch.setattr(bundled, "_convert", lambda *_: pytest.fail("converted again"))
    assert (bundled.bundled_folder() / "model.safetensors").is_file()


def test_everything_is_frozen(smollm2) -> None:
    assert not any(p.requires_grad for p in smollm2.model.parameters())
    assert not smollm2.model.training
    assert smollm2.parameters == 134_515_008


def test_head_of_two_tokens_equals_the_whole_head(smollm2) -> None:
    hidden = torch.randn(3, smollm2.width)
    ids = torch.tensor([5, 700])
    with torch.no_grad():
        torch.testing.assert_close(
            smollm2.head(hidden, ids), smollm2.head(hidden)[:, ids], atol=1e-4, rtol=1e-4
        )


def test_hidden_is_the_same_with_padding_on_the_left() -> None:
    tiny = load_foundation(compose(["foundation=tiny"]).foundation)
    embeddings = torch.randn(1, 6, tiny.width)
    padded = torch.cat([torch.randn(1, 4, tiny.width), embeddings], 1)
    mask = torch.tensor([[0] * 4 + [1] * 6]).bool()
    with torch.no_grad():
        torch.testing.assert_close(
            tiny.hidden(padded, mask)[:, 4:],
            tiny.hidden(embeddings, torch.ones(1, 6).bool()),
            atol=1e-5,
            rtol=1e-4,
        )


def test_a_folder_loads_as_it_was_saved(tmp_path) -> None:
    tiny = load_foundation(compose(["foundation=tiny"]).foundation)
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = load_foundation(
        compose(
            ["foundation=huggingface", f"foundation.model={tmp_path}", "foundation.dtype=float32"]
        ).foundation
    )
    ids = torch.tensor([tiny.token_ids("cough and fever")])
    with torch.no_grad():
        torch.testing.assert_close(tiny.model(ids).logits, again.model(ids).logits)
    assert again.answer_ids("yes") == tiny.answer_ids("yes")


def folder_config(path) -> FoundationConfig:
    return compose(["foundation=huggingface", f"foundation.model={path}"]).foundation


def test_folder_without_weights_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_foundation(folder_config(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match=r"no \*\.safetensors") as caught:
        load_foundation(folder_config(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_corrupt_weights_are_one_line(tmp_path) -> None:
    tiny = load_foundation(compose(["foundation=tiny"]).foundation)
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_foundation(folder_config(tmp_path))
    assert "\n" not in str(caught.value)


def test_unusable_device_is_one_line() -> None:
    with pytest.raises(UserError, match=r"foundation\.device=nonsense"):
        load_foundation(compose(["foundation=tiny", "foundation.device=nonsense"]).foundation)


def test_unpermute_inverts_the_gguf_layout() -> None:
    heads, width = 3, 8
    weight = torch.randn(heads * 4, width)
    stored = weight.reshape(heads, 2, 2, width).swapaxes(1, 2).reshape(weight.shape)
    assert torch.equal(bundled.unpermute(stored, heads), weight)
