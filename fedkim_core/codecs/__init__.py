"""How a vector of parameters travels: one file each, exporting ``codec``.

``codec(*, settings) -> Codec`` makes named parts of a vector and a vector of the parts;
``strategy.codec`` names the file and its settings. The server says it in every message, the site
obeys. docs/strategies.md compares them.

A codec that is not exact carries the *change* of a module's weights, which the server adds to the
weights that it sent: a change is small beside the weights, so the same share of it that is lost is
small beside them too, and what the weights already hold is not lost again in every round.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

from fedkim_core.methods import find
from fedkim_core.settings import Chosen

if TYPE_CHECKING:
    from torch import Tensor

Parts = dict[str, "Tensor"]
"""Name -> one-dimensional tensor of a type that NumPy has."""


@dataclass(frozen=True)
class Part:
    """What one part must be; anything else is refused before it is decoded."""

    dtype: str
    length: int


class Codec(ABC):
    """A way to write a vector ``[size]`` of float32 down."""

    exact: ClassVar[bool] = False
    """Decoding gives back every bit."""
    weights: ClassVar[bool] = False
    """Is also good for the weights themselves, and so for the way from the server to the sites."""
    feedback: ClassVar[bool] = False
    """A site adds to its next update what this one lost (Karimireddy et al. 2019, Error feedback
    fixes SignSGD and other gradient compression schemes)."""

    @abstractmethod
    def layout(self, size: int) -> Mapping[str, Part]:
        """The parts of a vector of ``size``."""

    @abstractmethod
    def encode(self, vector: Tensor) -> Parts:
        """Parts as :meth:`layout` says."""

    @abstractmethod
    def decode(self, parts: Parts, size: int) -> Tensor:
        """The vector; parts have been checked against :meth:`layout`, floats for being finite.

        Raises:
            ValueError: no vector is encoded like this.
        """


def choose(chosen: Chosen) -> Codec:
    """The codec of this name, with its settings.

    Raises:
        UserError: there is none of that name, or it does not take these settings.
    """
    return cast(Codec, find(__name__, "codec", "strategy.codec", chosen)())


def downward(codec: Codec) -> Codec:
    """What carries the weights to the sites, when ``codec`` carries their updates.

    Sites come and go, and hold no common state from which a difference could be taken: it must be
    a codec that is good for the weights themselves.
    """
    return codec if codec.weights else choose(Chosen(name="fp32"))
