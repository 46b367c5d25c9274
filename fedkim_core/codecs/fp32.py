"""Every value as it is: four bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedkim_core.codecs import Codec, Part, Parts

if TYPE_CHECKING:
    from torch import Tensor


class Fp32(Codec):
    exact = True
    weights = True

    def layout(self, size: int) -> Mapping[str, Part]:
        return {"values": Part("float32", size)}

    def encode(self, vector: Tensor) -> Parts:
        return {"values": vector}

    def decode(self, parts: Parts, size: int) -> Tensor:
        return parts["values"]


def codec() -> Codec:
    return Fp32()
