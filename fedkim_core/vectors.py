"""A module's parameters as one vector: what is aggregated, and what travels."""

from collections.abc import Mapping

import torch
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape."""


def flatten(parameters: Mapping[str, Tensor]) -> Tensor:
    """One vector ``[size]`` of a module's parameters, in the order of their names."""
    return torch.cat([parameters[name].reshape(-1) for name in sorted(parameters)])


def unflatten(vector: Tensor, shapes: Shapes) -> dict[str, Tensor]:
    """What :func:`flatten` made a vector of."""
    names = sorted(shapes)
    sizes = [torch.Size(shapes[name]).numel() for name in names]
    parts = zip(names, vector.split(sizes), strict=True)
    return {name: part.reshape(shapes[name]).clone() for name, part in parts}


def size_of(shapes: Shapes) -> int:
    """Length of the vector."""
    return sum(torch.Size(shape).numel() for shape in shapes.values())
