"""Encoders: one file each, exporting a class ``Encoder``; a configuration picks one by file name.

Every encoder maps the values of one modality to ``[b, tokens, width]`` and treats each row of the
batch alone: no batch statistics, so that what is averaged over sites is all there is.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from fedkim_core.errors import UserError
from fedkim_core.methods import files
from fedkim_core.modalities import Modality
from fedkim_core.settings import EncoderConfig

if TYPE_CHECKING:
    from torch import nn


def build_encoder(
    config: EncoderConfig, modality: Modality, *, width: int, tokens: int, image_size: int
) -> nn.Module:
    """Make the encoder that ``config`` names for ``modality``.

    Raises:
        UserError: there is no such encoder, or it does not take the settings.
    """
    try:
        encoder = find_encoder(modality.kind, config.name)(
            modality, width=width, tokens=tokens, image_size=image_size, **config.settings
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"extractor.encoders.{modality.kind}: {error}") from error
    return encoder


def check(kind: str, name: str) -> None:
    """Raises UserError: there is no file ``name``. The file is not read: it needs torch."""
    known = files(__path__)
    if name not in known:
        raise UserError(
            f"extractor.encoders.{kind}.name={name}: no such encoder; known: {', '.join(known)}"
        )


def find_encoder(kind: str, name: str) -> Callable[..., nn.Module]:
    """The class ``Encoder`` of the file ``name``.

    Raises:
        UserError: there is no such encoder.
    """
    try:
        module = importlib.import_module(f"{__name__}.{name}")
        return cast("Callable[..., nn.Module]", module.Encoder)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"extractor.encoders.{kind}.name={name}: no such encoder") from error
