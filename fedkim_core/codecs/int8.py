"""Blocks of 8-bit codes, each block with a scale (Dettmers et al. 2022, 8-bit optimizers).

A value is ``code * scale`` with a code from -127 to 127 and the block's largest value at either
end, so nothing is off by more than half a scale. One byte, and four for each block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from fedkim_core.codecs import Codec, Part, Parts

LARGEST = 127


@dataclass(frozen=True)
class Int8(Codec):
    block: int
    feedback = True

    def layout(self, size: int) -> Mapping[str, Part]:
        return {"codes": Part("int8", size), "scales": Part("float32", self._blocks(size))}

    def encode(self, vector: Tensor) -> Parts:
        rows = self._rows(vector)
        # At most a ten millionth of a block is lost by this floor, and no scale is subnormal.
        scales = rows.abs().amax(1) / LARGEST
        scales = torch.where(scales < torch.finfo(torch.float32).tiny, 0.0, scales)
        steps = torch.where(scales > 0, scales, 1.0)
        codes = torch.round(rows / steps[:, None]).clamp(-LARGEST, LARGEST)
        codes = torch.where(scales[:, None] > 0, codes, 0.0)
        return {"codes": codes.to(torch.int8).reshape(-1)[: len(vector)], "scales": scales}

    def decode(self, parts: Parts, size: int) -> Tensor:
        codes, scales = self._rows(parts["codes"]), parts["scales"]
        if bool((scales < 0).any()):
            raise ValueError("scales: one is negative")
        if bool((codes < -LARGEST).any()):
            raise ValueError(f"codes: one is below -{LARGEST}")
        # The largest value of a block stands at the end of the codes.
        if bool(((codes.abs().amax(1) == LARGEST) != (scales > 0)).any()):
            raise ValueError("codes: a block does not use its scale")
        return (codes * scales[:, None]).reshape(-1)[:size]

    def _blocks(self, size: int) -> int:
        return -(-size // self.block)

    def _rows(self, vector: Tensor) -> Tensor:
        """``[blocks, block]`` float32; the last block is filled up with zeros."""
        missing = self._blocks(len(vector)) * self.block - len(vector)
        return pad(vector.to(torch.float32), (0, missing)).reshape(-1, self.block)


def codec(*, block: Annotated[int, Field(ge=16, le=65536)] = 256) -> Codec:
    return Int8(block)
