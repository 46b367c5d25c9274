"""Foundation models: the bundled one against an independent reader, folders, and bad input."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.models import bundled
from fedkim_core.models.foundation import load_foundation
from fedkim_core.settings import FoundationConfig


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


def saved(folder, **settings: object) -> None:
    """The tiny model in a folder, with other settings in its config.json."""
    tiny = load_foundation(compose(["foundation=tiny"]).foundation)
    tiny.model.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


FAULTS = {
    "more rows than there are": ({"vocab_size": 300}, r"other shapes than its config\.json"),
    "more layers than there are": ({"num_hidden_layers": 3}, "weights are missing"),
    "unknown architecture": ({"model_type": "spiral"}, "cannot be loaded"),
    "foreign code": (
        {"model_type": "spiral", "auto_map": {"AutoConfig": "a.B"}, "architectures": ["SpiralLM"]},
        "SpiralLM runs only with code of its own",
    ),
    "no language model": ({"model_type": "vit"}, "cannot be loaded"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_model_that_is_not_what_it_says_is_one_line(tmp_path, name: str) -> None:
    settings, said = FAULTS[name]
    saved(tmp_path, **settings)
    (tmp_path / "a.py").write_text("raise SystemExit('the code of the repository ran')")
    with pytest.raises(UserError, match=said) as caught:
        load_foundation(folder_config(tmp_path))
    assert "\n" not in str(caught.value)


def tokenizer(folder, **settings: object) -> None:
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))


def test_padding_may_be_missing_and_the_end_may_not(tmp_path) -> None:
    saved(tmp_path)
    tokenizer(tmp_path, pad_token=None)
    foundation = load_foundation(folder_config(tmp_path))
    assert foundation.tokenizer.pad_token_id == foundation.end_id
    tokenizer(tmp_path, eos_token=None)
    with pytest.raises(UserError, match="no end-of-text token"):
        load_foundation(folder_config(tmp_path))


def test_a_tokenizer_of_another_model_is_refused(tmp_path) -> None:
    saved(tmp_path)
    path = tmp_path / "tokenizer.json"
    found = json.loads(path.read_text())
    found["model"]["vocab"] |= {f"word{i}": 300 + i for i in range(9)}
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"embeddings for 258; they do not belong together"):
        load_foundation(folder_config(tmp_path))


def test_weights_in_pytorch_files_are_read_as_tensors_only(tmp_path, capsys) -> None:
    class Evil:
        def __reduce__(self):
            return print, ("a pickle ran code",)

    tiny = load_foundation(compose(["foundation=tiny"]).foundation)
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny.model.state_dict(), tmp_path / "pytorch_model.bin")
    again = load_foundation(folder_config(tmp_path))
    assert again.parameters == tiny.parameters
    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_foundation(folder_config(tmp_path))
    assert "ran code" not in capsys.readouterr().out


def test_unusable_device_is_one_line() -> None:
    with pytest.raises(UserError, match=r"foundation\.device=nonsense"):
        load_foundation(compose(["foundation=tiny", "foundation.device=nonsense"]).foundation)


def test_unpermute_inverts_the_gguf_layout() -> None:
    heads, width = 3, 8
    weight = torch.randn(heads * 4, width)
    stored = weight.reshape(heads, 2, 2, width).swapaxes(1, 2).reshape(weight.shape)
    assert torch.equal(bundled.unpermute(stored, heads), weight)
