"""Bytes, error and time of every codec: ``python benchmarks/codecs.py [OVERRIDE ...]``.

A line per codec: bytes of an update of the whole extractor beside fp32's, as Flower serialises it;
the relative error (L2) of the *change* that arrives, when the change is encoded and, beside it,
when the weights themselves were; and milliseconds of one processor to encode and to decode all
modules, with those of a plain NumPy copy of the same values in the first line. The change is made
up: independent normal values, each parameter's a hundredth of its weights in size. Times are the
shortest of 7.
"""

import pkgutil
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from fedkim_core import codecs, exchange
from fedkim_core.codecs import Codec, Parts, choose
from fedkim_core.config import compose
from fedkim_core.models.extractor import KnowledgeExtractor
from fedkim_core.seeds import generator, seeded
from fedkim_core.settings import Chosen
from fedkim_core.vectors import flatten


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(7):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return 1000 * min(times)


def encode_all(codec: Codec, vectors: list[torch.Tensor]) -> list[Parts]:
    return [codec.encode(vector) for vector in vectors]


def decode_all(codec: Codec, parts: list[Parts], vectors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [codec.decode(p, len(v)) for p, v in zip(parts, vectors, strict=True)]


def through(codec: Codec, vector: torch.Tensor) -> torch.Tensor:
    return codec.decode(codec.encode(vector), len(vector))


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    config = compose(words)
    with seeded(config.seed, "extractor"):
        extractor = KnowledgeExtractor(config, config.cards())
    contract, sent = exchange.Contract.of(extractor), extractor.arrays()
    noise = generator(config.seed, "change")
    trained = {
        module: {
            name: value
            + 0.01 * float(value.square().mean().sqrt()) * torch.randn(value.shape, generator=noise)
            for name, value in group.items()
        }
        for module, group in sent.items()
    }
    ones = dict.fromkeys(trained, 1)
    update = exchange.KnowledgeUpdate("a", trained, ones, ones, {})
    weights = [flatten(group) for group in trained.values()]
    changes = [w - flatten(group) for w, group in zip(weights, sent.values(), strict=True)]
    length = float(torch.cat(changes).norm())

    def error(codec: Codec, vectors: list[torch.Tensor]) -> float:
        lost = torch.cat([through(codec, v) - v for v in vectors])
        return float(lost.norm()) / length

    copy = milliseconds(lambda: [v.numpy().copy() for v in changes])
    print(f"{sum(map(len, weights)):,} parameters; a NumPy copy takes {copy:.2f} ms")
    print("codec  bytes  of fp32  error: change  weights  encode ms  decode ms")
    whole = 0
    for name in sorted((m.name for m in pkgutil.iter_modules(codecs.__path__)), key=_fp32_first):
        codec = choose(Chosen(name=name))
        size = exchange.array_bytes(exchange.encode_update(update, contract, codec, sent))
        whole = whole or size
        parts = encode_all(codec, changes)
        encode = milliseconds(partial(encode_all, codec, changes))
        decode = milliseconds(partial(decode_all, codec, parts, changes))
        print(
            f"{name:5} {size:>9,}   {size / whole:.3f}       {error(codec, changes):.2e} "
            f"{error(codec, weights):.2e}     {encode:6.2f}     {decode:6.2f}"
        )


def _fp32_first(name: str) -> tuple[bool, str]:
    return name != "fp32", name


if __name__ == "__main__":
    main(sys.argv[1:])
