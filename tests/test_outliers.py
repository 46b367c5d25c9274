"""The bound on the size of an update."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.outliers import outliers

sizes = st.floats(0, 1e4)
norms = st.lists(st.floats(0.01, 100), min_size=3, max_size=12)


def of(values: list[float]) -> dict[str, dict[str, float]]:
    return {f"site-{i:02}": {"encoder.image": value} for i, value in enumerate(values)}


@settings(max_examples=100)
@given(norms, st.floats(0.5, 10), sizes, st.randoms())
def test_exactly_those_beyond_the_rule_as_written(values, k, size, random) -> None:
    ordered = sorted(values)
    n = len(values)

    def middle(sorted_values: list[float]) -> float:
        return (sorted_values[(n - 1) // 2] + sorted_values[n // 2]) / 2

    median = middle(ordered)
    mad = middle(sorted(abs(v - median) for v in values))
    bound = max(median + k * max(1.4826 * mad, median), 0.02 * size)
    table = of(values)
    want = {site for site, own in table.items() if own["encoder.image"] > bound}
    shuffled = list(table.items())
    random.shuffle(shuffled)
    got = outliers(dict(shuffled), k, {"encoder.image": size})
    assert set(got) == want
    assert got == outliers(table, k, {"encoder.image": size})
    assert not any(
        value <= (1 + k) * median for site, value in zip(table, values, strict=True) if site in got
    )


def test_a_minority_cannot_hide_behind_each_other() -> None:
    assert set(outliers(of([1.0, 1.1, 0.9, 1e6, 1e6]), 5.0, {})) == {"site-03", "site-04"}


def test_two_sites_cannot_tell_which_is_odd() -> None:
    assert outliers(of([1.0, 1e9]), 5.0, {}) == {}


def test_a_hospital_that_trained_five_times_as_much_stays() -> None:
    assert outliers(of([1.0, 1.0, 1.0, 1.0, 5.0]), 5.0, {}) == {}


def test_the_reason_names_module_and_norms_only() -> None:
    table = {f"s{i}": {"head.a": 1.0, "encoder.image": 1.0} for i in range(4)}
    table["odd"] = {"head.a": 10.0, "encoder.image": 70.0}
    (reason,) = outliers(table, 5.0, {}).values()
    assert reason == "encoder.image changed by 70, the bound of this round is 6"


def test_a_module_that_did_not_move_anywhere_else() -> None:
    assert set(outliers(of([0.0, 0.0, 0.0, 1e-3]), 5.0, {})) == {"site-03"}


def test_one_that_still_learns_stays_when_the_others_have_stopped() -> None:
    """As on real electrocardiograms: one of three sites changed by 0.43, the bound was 0.148."""
    table = of([0.0247, 0.0247, 0.43])  # the median that gives this bound
    assert set(outliers(table, 5.0, {})) == {"site-02"}
    assert outliers(table, 5.0, {"encoder.image": 37.0}) == {}
