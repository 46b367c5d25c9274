"""What is searched: Hydra's override grammar as dimensions of a search.

``strategy=fedavg,fedprox`` and ``range(2,10,2)`` are choices, ``interval(1e-4,1)`` is a range of
numbers, ``tag(log,...)`` makes its scale logarithmic and ``int(interval(1,8))`` its values whole.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from hydra.errors import HydraException

from fedkim_core.errors import UserError

Value = str | int | float


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched: ``choices``, or the numbers from ``low`` to ``high``."""

    key: str
    choices: tuple[str, ...] = ()
    """As they stand behind ``key=``."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Value, ...]:
        """Its choices, or both ends of its interval."""
        ends = (self.low, self.high)
        return self.choices or (tuple(map(int, ends)) if self.whole else ends)

    def word(self, value: Value) -> str:
        """The override that sets this value."""
        return f"{self.key}={value}"


@dataclass(frozen=True)
class Space:
    fixed: tuple[str, ...]
    """Overrides that do not vary."""
    dimensions: tuple[Dimension, ...]

    @property
    def is_grid(self) -> bool:
        return all(d.choices for d in self.dimensions)

    def first(self) -> dict[str, Value]:
        """The first value of each."""
        return {d.key: d.ends[0] for d in self.dimensions}

    def grid(self) -> list[dict[str, str]]:
        """Every combination of the choices."""
        keys = [d.key for d in self.dimensions]
        return [
            dict(zip(keys, values, strict=True))
            for values in itertools.product(*(d.choices for d in self.dimensions))
        ]

    def words(self, values: Mapping[str, Value]) -> list[str]:
        """All overrides of the run with these values."""
        return [*self.fixed, *(d.word(values[d.key]) for d in self.dimensions)]


def parse(overrides: Sequence[str]) -> Space:
    """Divide overrides into what is fixed and what is searched.

    Raises:
        UserError: an override cannot be read, nothing varies, or an interval is not one.
    """
    fixed, dimensions = [], []
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(f"cannot read override: {str(error).splitlines()[0]}") from error
    for word, override in zip(overrides, parsed, strict=True):
        if not override.is_sweep_override():
            fixed.append(word)
            continue
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep):
            dimensions.append(_interval(word, key, value))
        elif isinstance(value, ChoiceSweep | RangeSweep):
            choices = tuple(dict.fromkeys(override.sweep_string_iterator()))
            dimensions.append(Dimension(key, choices))
        else:
            raise UserError(f"{word}: only choices, range() and interval() can be searched")
    if not dimensions:
        raise UserError(
            "tune: nothing varies; give choices (strategy=fedavg,fedprox) or an interval "
            "('strategy.proximal_mu=tag(log,interval(1e-4,1))')"
        )
    keys = [d.key for d in dimensions]
    if twice := next((k for k in keys if keys.count(k) > 1), None):
        raise UserError(f"{twice}: is searched twice")
    return Space(tuple(fixed), tuple(dimensions))


def _interval(word: str, key: str, value: IntervalSweep) -> Dimension:
    if unknown := value.tags - {"log"}:
        raise UserError(f"{word}: unknown tag {sorted(unknown)[0]}; only log is known")
    low, high = value.start, value.end
    if low is None or high is None or not low < high:
        raise UserError(f"{word}: an interval goes from a smaller to a greater number")
    log = "log" in value.tags
    if log and low <= 0:
        raise UserError(f"{word}: a logarithmic interval starts above 0")
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, low=float(low), high=float(high), log=log, whole=whole)
