"""Modality drop-out: hospitals that lack a machine or a department."""

import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import polars as pl

from fedkim_core.data.contract import KIND_OF


def drop_modalities(rows: pl.DataFrame, *, rate: float, seed: int) -> pl.DataFrame:
    """Take modalities away from whole sites, as hospitals lack machines.

    Each site (column ``place``) loses each of its modalities with probability ``rate``; it keeps
    at least one, and every modality stays somewhere. A row that has nothing left is dropped.
    """
    held = [name for name in KIND_OF if name in rows.columns]
    has = rows.group_by("place").agg(pl.col(held).is_not_null().any()).sort("place")
    there = {row["place"]: [m for m in held if row[m]] for row in has.iter_rows(named=True)}
    kept = {place: set(modalities) for place, modalities in there.items()}
    for place, modality in _turns(there, seed):
        chance = np.random.default_rng((seed, zlib.crc32(f"drop {place} {modality}".encode())))
        elsewhere = any(modality in kept[other] for other in kept if other != place)
        if chance.random() < rate and len(kept[place]) > 1 and elsewhere:
            kept[place].remove(modality)
    for place, modalities in kept.items():
        gone = [name for name in there[place] if name not in modalities]
        rows = rows.with_columns(
            pl.when(pl.col("place") != place).then(pl.col(name)).alias(name) for name in gone
        )
    return rows.filter(pl.any_horizontal(pl.col(held).is_not_null()))


def _turns(there: Mapping[str, Sequence[str]], seed: int) -> Iterator[tuple[str, str]]:
    """In an order drawn from the seed: who comes first loses more easily."""
    pairs = [(place, modality) for place, own in there.items() for modality in own]
    order = np.random.default_rng((seed, zlib.crc32(b"drop order"))).permutation(len(pairs))
    yield from (pairs[i] for i in order)
