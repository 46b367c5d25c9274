"""Peak of what a piece of code allocates in tensors: the same on every machine."""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Peak(TorchDispatchMode):
    """Within ``with Peak() as peak:`` every new storage counts while it lives; ``peak.most``.

    What a kernel allocates and frees inside of itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(s) for s in map(_storage, tree_leaves((args, kwargs))) if s is not None}
        result = func(*args, **(kwargs or {}))
        for storage in map(_storage, tree_leaves(result)):
            if storage is not None and id(storage) not in given | self._alive:
                self._take(storage)
        return result

    def _take(self, storage: Any) -> None:
        size, key = storage.nbytes(), id(storage)
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _storage(leaf: Any) -> Any:
    return leaf.untyped_storage() if isinstance(leaf, torch.Tensor) else None
