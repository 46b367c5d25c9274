"""One data set into sites, a public set, a validation set and a test set, by patient.

Two steps: every patient gets a split (70 % sites, 10 % public, 10 % validation, 10 % test, as in
the released FedKIM code, but by patient and never by row); the patients of the sites are then
dealt out to them. Both steps work stratum by stratum (a stratum is a combination of labels), so
that a small data set has both answers everywhere as far as it can.
"""

import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkim_core.errors import UserError

FRACTIONS: Mapping[str, float] = {"sites": 0.7, "public": 0.1, "validation": 0.1, "test": 0.1}


def site_names(sites: int) -> tuple[str, ...]:
    """``site-1``, ``site-2``, ..."""
    return tuple(f"site-{i + 1}" for i in range(sites))


def partition_patients(
    strata: Mapping[str, Hashable],
    *,
    sites: int,
    seed: int,
    by: str = "iid",
    column: Mapping[str, str] | None = None,
    fixed: Mapping[str, str] | None = None,
    fractions: Mapping[str, float] = FRACTIONS,
) -> dict[str, str]:
    """Give every patient one place.

    Args:
        strata: by patient, what should be spread evenly, such as a tuple of labels.
        sites: how many sites.
        seed: same patients, same seed, same result, in whatever order the patients come.
        by: ``iid``: sites alike. ``dirichlet:ALPHA``: shares of each stratum are drawn from
            Dirichlet(ALPHA) (Hsu et al. 2019, arXiv:1909.06335), so prevalence differs between
            sites; the smaller, the more. ``natural`` or ``column:NAME``: patients with the same
            value of ``column`` go to the same site; values are dealt out largest first to the
            site that is smallest so far.
        column: by patient, for example the hospital that recorded it.
        fixed: by patient a key of ``fractions``, where that is settled already.
        fractions: share of each split; ``sites`` is divided among the sites.

    Returns:
        By patient ``site-1`` .. ``site-N`` or another key of ``fractions``. Every site has at least
        one patient.

    Raises:
        UserError: too few patients or column values for so many sites, or a value out of range.
    """
    if sites < 1:
        raise UserError(f"sites={sites}: must be at least 1")
    method, alpha = parse_by(by)
    if method in ("natural", "column") and strata and not column:
        raise UserError(f"by={by}: the data name no hospital of their patients; use iid")
    fixed = fixed or {}
    free = {patient: stratum for patient, stratum in strata.items() if patient not in fixed}
    places = split_patients(free, fractions=fractions, seed=seed)
    places |= {patient: fixed[patient] for patient in strata if patient in fixed}
    owned = {patient: strata[patient] for patient, place in places.items() if place == "sites"}
    if len(owned) < sites:
        raise UserError(f"sites={sites}: only {len(owned)} patients to divide among them")
    names = site_names(sites)
    if method in ("natural", "column"):
        places |= _by_column(owned, names, column or {})
    else:
        rng = _rng(seed, method)
        members = _by_stratum(owned, rng)
        if method == "dirichlet":
            shares = [rng.dirichlet(np.full(sites, alpha)) for _ in members]
            dealt = _deal(members, names, shares, at_least_one=False)
            places |= _no_empty(dealt, names)
        else:
            shares = [np.full(sites, 1 / sites)] * len(members)
            places |= _deal(members, names, shares, at_least_one=True)
    return places


def parse_by(by: str) -> tuple[str, float]:
    """Method and, of ``dirichlet``, its concentration.

    Raises:
        UserError: no such method, or a concentration that is not above 0.
    """
    method, _, value = by.partition(":")
    if method == "dirichlet":
        try:
            alpha = float(value)
        except ValueError:
            alpha = float("nan")
        if not (np.isfinite(alpha) and alpha > 0):
            raise UserError(f"by={by}: write dirichlet:ALPHA with a number above 0")
        return method, alpha
    if by in ("iid", "natural") or (method == "column" and value):
        return method, 0.0
    raise UserError(f"by={by}: must be iid, dirichlet:ALPHA, column:NAME or natural")


def split_patients(
    strata: Mapping[str, Hashable],
    *,
    fractions: Mapping[str, float],
    seed: int,
    name: str = "split",
) -> dict[str, str]:
    """Give every patient one key of ``fractions``, stratum by stratum.

    A stratum with at least as many patients as there are places reaches every place.
    ``name`` keeps draws for different purposes apart.

    Raises:
        UserError: the fractions are negative or do not add up to 1.
    """
    shares = np.array(list(fractions.values()), dtype=float)
    if not np.isfinite(shares).all() or (shares < 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise UserError(f"fractions={dict(fractions)}: must be 0 or more and add up to 1")
    members = _by_stratum(strata, _rng(seed, name))
    return _deal(members, tuple(fractions), [shares] * len(members), at_least_one=True)


def _rng(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng((seed, zlib.crc32(f"partition {name}".encode())))


def _by_stratum(strata: Mapping[str, Hashable], rng: np.random.Generator) -> list[list[str]]:
    """The patients of each stratum, shuffled; independent of the order of the mapping."""
    groups: dict[str, list[str]] = {}
    for patient in sorted(strata):
        groups.setdefault(repr(strata[patient]), []).append(patient)
    return [[group[i] for i in rng.permutation(len(group))] for _, group in sorted(groups.items())]


def _deal(
    members: Sequence[Sequence[str]],
    places: Sequence[str],
    shares: Iterable[NDArray[np.float64]],
    *,
    at_least_one: bool,
) -> dict[str, str]:
    """Deal each stratum to the places by its shares; what rounding leaves goes where it lacks."""
    dealt: dict[str, str] = {}
    lacking = np.zeros(len(places))
    for group, share in zip(members, shares, strict=True):
        counts = _counts(len(group), share, lacking, at_least_one)
        lacking += len(group) * share - counts
        owners = np.repeat(np.arange(len(places)), counts).tolist()
        dealt |= {patient: places[i] for patient, i in zip(group, owners, strict=True)}
    return dealt


def _counts(
    size: int, share: NDArray[np.float64], lacking: NDArray[np.float64], at_least_one: bool
) -> NDArray[np.int64]:
    """Whole numbers near ``size * share`` that add up to ``size``.

    ``lacking`` is what earlier strata still owe each place; rounding follows it, so that totals
    keep the shares even when every stratum is tiny.
    """
    ideal = size * share
    counts = np.floor(ideal + 1e-9).astype(np.int64)
    wanted = share > 0
    if at_least_one and size >= wanted.sum():
        counts[wanted] = np.maximum(counts[wanted], 1)
    while counts.sum() > size:
        counts[np.argmax(np.where(counts > 1, counts - ideal, -np.inf))] -= 1
    while counts.sum() < size:
        owed = np.where(wanted, ideal + lacking - counts, -np.inf)
        counts[np.argmax(owed)] += 1
    return counts


def _no_empty(dealt: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """Give a site that drew nobody one patient of the largest site."""
    sizes = Counter(dealt.values())
    for name in names:
        if not sizes[name]:
            largest = max(names, key=lambda other: sizes[other])
            dealt[min(p for p, owner in dealt.items() if owner == largest)] = name
            sizes.update({name: 1, largest: -1})
    return dealt


def _by_column(
    patients: Iterable[str], names: Sequence[str], column: Mapping[str, str]
) -> dict[str, str]:
    values: dict[str, list[str]] = {}
    for patient in sorted(patients):
        if patient not in column:
            raise UserError("by=column: a patient has no value of the column")
        values.setdefault(column[patient], []).append(patient)
    if len(values) < len(names):
        raise UserError(
            f"sites={len(names)}: the column has only {len(values)} different values to divide"
        )
    sizes = dict.fromkeys(names, 0)
    dealt: dict[str, str] = {}
    for _, group in sorted(values.items(), key=lambda item: (-len(item[1]), item[0])):
        smallest = min(names, key=lambda name: sizes[name])
        sizes[smallest] += len(group)
        dealt |= dict.fromkeys(group, smallest)
    return dealt
