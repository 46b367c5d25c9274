"""The largest values alone, with their places (Stich et al. 2018, Sparsified SGD with memory)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from fedkim_core.codecs import Codec, Part, Parts


@dataclass(frozen=True)
class TopK(Codec):
    share: float
    feedback = True

    def layout(self, size: int) -> Mapping[str, Part]:
        kept = self._kept(size)
        return {"places": Part("int32", kept), "values": Part("float32", kept)}

    def encode(self, vector: Tensor) -> Parts:
        kept, sizes = self._kept(len(vector)), vector.abs()
        least = sizes.topk(kept).values[-1]
        # Which of several equal values are kept must not depend on the machine: the first.
        above = (sizes > least).nonzero().squeeze(1)
        equal = (sizes == least).nonzero().squeeze(1)[: kept - len(above)]
        places = torch.cat([above, equal]).sort().values
        return {"places": places.to(torch.int32), "values": vector[places]}

    def decode(self, parts: Parts, size: int) -> Tensor:
        places = parts["places"].long()
        inside = bool((places >= 0).all()) and bool((places < size).all())
        if not inside or not bool((places.diff() > 0).all()):
            raise ValueError("places: not rising, or outside the module")
        return torch.zeros(size).index_copy(0, places, parts["values"])

    def _kept(self, size: int) -> int:
        return math.ceil(self.share * size)


def codec(*, share: Annotated[float, Field(gt=0, le=1)] = 0.05) -> Codec:
    """``share``: of each module's values, how many are sent."""
    return TopK(share)
