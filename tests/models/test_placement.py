"""Layers on several devices: the hooks change nothing, and what GPUs cannot hold is refused."""

from functools import partial
from typing import Any

import pytest
import torch

from fedkim_core.config import compose
from fedkim_core.data.examples import Batch, collate
from fedkim_core.errors import UserError
from fedkim_core.models import placement
from fedkim_core.models.injected import InjectedModel
from tests.patients import example
from tests.tiny import make_model, tiny

TASKS = ("lung_opacity", "ecg_abnormal", "mortality", "med_vqa_rad")
BATCH = collate([example(task, i) for task in TASKS for i in range(2)])
HEADS = torch.tensor([0.1, 0.9] * 3 + [float("nan")] * 2)


def layer_by_layer(model: Any, *_: object, **__: object) -> dict[str, torch.device]:
    """A map as accelerate makes it, of devices that this machine has."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    layers = range(model.config.num_hidden_layers)
    # As a device, for accelerate takes the word to mean what no GPU could hold.
    return dict.fromkeys([*names, *(f"model.layers.{i}" for i in layers)], torch.device("cpu"))


def said(model: InjectedModel, batch: Batch) -> list[torch.Tensor]:
    """Loss, gradients of all that is trained, scores, and scores with merged experts."""
    model.eval()
    loss = model.loss(batch, HEADS, 1.0)
    loss.backward()
    trained = [
        *model.connectors.parameters(),
        *model.gate.parameters(),
        *model.experts.parameters(),
    ]
    gradients = [p.grad for p in trained]
    one = collate([example("lung_opacity", i) for i in range(2)])
    with model.merged(model.key("lung_opacity", ["image"])):
        merged = model.score(one)
    return [loss.detach(), *gradients, model.score(batch), merged]


def moved(model: InjectedModel) -> InjectedModel:
    """Experts that do something, the same ones every time."""
    with torch.no_grad():
        draws = torch.Generator().manual_seed(5)
        for parameter in model.experts.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return model


def compared(map: str) -> None:
    plain = moved(make_model(tiny("foundation.device=cpu")))
    spread = moved(make_model(tiny("foundation.device=auto", f"foundation.device_map={map}")))
    for one, two in zip(said(plain, BATCH), said(spread, BATCH), strict=True):
        torch.testing.assert_close(one, two.cpu(), atol=1e-5, rtol=1e-4)
    assert plain.generate(BATCH, 5) == spread.generate(BATCH, 5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
@pytest.mark.parametrize("map", ["auto", "balanced", "sequential"])
def test_without_a_gpu_the_model_stays_on_the_cpu(map: str) -> None:
    model = make_model(tiny("foundation.device=auto", f"foundation.device_map={map}"))
    assert {p.device.type for p in model.foundation.model.parameters()} == {"cpu"}
    assert model.foundation.device == torch.device("cpu")


def test_hooks_between_layers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "infer_auto_device_map", layer_by_layer)
    hooked = partial(placement.dispatch_model, force_hooks=True)
    monkeypatch.setattr(placement, "dispatch_model", hooked)
    compared("sequential")
    model = make_model(tiny("foundation.device=auto", "foundation.device_map=sequential"))
    assert all(hasattr(m, "_hf_hook") for m in model.foundation.model.get_decoder().layers)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_say_what_one_processor_says() -> None:
    compared("balanced")
    model = make_model(tiny("foundation.device=auto", "foundation.device_map=balanced"))
    assert len({p.device for p in model.foundation.model.parameters()}) > 1


def test_a_model_larger_than_the_gpus_is_refused() -> None:
    placement.check({"": "cpu"}, "auto")
    placement.check({"model": 0, "lm_head": 1}, "auto")
    with pytest.raises(UserError, match=r"device_map=auto: the GPUs cannot hold model\.layers\.7;"):
        placement.check({"model.embed_tokens": 0, "model.layers.7": "cpu"}, "auto")
    with pytest.raises(UserError, match=r"cannot hold lm_head; use foundation\.quantised=nf4"):
        placement.check({"model": 1, "lm_head": "disk"}, "balanced")


@pytest.mark.parametrize("other", ["device=cpu", "compile=eager"])
def test_one_place_is_given(other: str) -> None:
    with pytest.raises(UserError, match=f"device_map and foundation.{other.split('=')[0]}: give"):
        compose(["foundation.device_map=auto", f"foundation.{other}"])
