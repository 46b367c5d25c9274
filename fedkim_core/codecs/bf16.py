"""bfloat16: the upper half of a float32, rounded to nearest; two bytes, 8 bits of precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedkim_core.codecs import Codec, Part, Parts


class Bf16(Codec):
    weights = True

    def layout(self, size: int) -> Mapping[str, Part]:
        # NumPy, and so Flower, has no bfloat16: its bits travel as integers.
        return {"bits": Part("int16", size)}

    def encode(self, vector: Tensor) -> Parts:
        return {"bits": vector.to(torch.bfloat16).view(torch.int16)}

    def decode(self, parts: Parts, size: int) -> Tensor:
        return parts["bits"].view(torch.bfloat16).to(torch.float32)


def codec() -> Codec:
    return Bf16()
