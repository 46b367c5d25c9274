"""One foundation model over several GPUs: layers one after the other, as accelerate places them.

For a model that one GPU cannot hold. What is read goes from device to device with every forward
pass, so one GPU works at a time.
"""

from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_balanced_memory

from fedkim_core.errors import UserError

ELSEWHERE = ("cpu", "disk")


def spread(model: Any, how: str) -> torch.device:
    """Lay the layers of ``model`` over the GPUs there are; returns where its embeddings lie.

    Without a GPU the model stays on the CPU.

    Args:
        model: on the CPU, in the type it is to have.
        how: ``foundation.device_map``, by transformers' names: sequential fills one GPU after
            the other; balanced and auto fill all of them alike.

    Raises:
        UserError: the GPUs together cannot hold it.
    """
    whole = list(getattr(model, "_no_split_modules", None) or [])
    model.tie_weights()  # accelerate must know which are one
    memory = None
    if how != "sequential":
        memory = get_balanced_memory(model, no_split_module_classes=whole)
    places = infer_auto_device_map(model, memory, no_split_module_classes=whole)
    check(places, how)
    # A cache stays where its layer put it.
    skipped = getattr(model, "_skip_keys_device_placement", None)
    dispatch_model(model, places, skip_keys=skipped)
    return device_of_embeddings(model)


def check(places: dict[str, Any], how: str) -> None:
    """Refuse a map that leaves layers of a model on GPUs outside of them.

    They would be fetched for every pass, forward and backward, and training keeps all of them.

    Raises:
        UserError: names the first of them.
    """
    gpus = {place for place in places.values() if place not in ELSEWHERE}
    outside = [name for name, place in places.items() if place in ELSEWHERE]
    if gpus and outside:
        raise UserError(
            f"foundation.device_map={how}: the GPUs cannot hold {outside[0] or 'the model'}; use "
            "foundation.quantised=nf4, or a smaller model"
        )


def device_of_embeddings(model: Any) -> torch.device:
    """Where what is read has to lie."""
    return torch.device(model.get_input_embeddings().weight.device)
