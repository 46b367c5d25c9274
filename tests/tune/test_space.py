"""Hydra's override grammar as a search space; what cannot be searched is named."""

import pytest

from fedkim_core.errors import UserError
from fedkim_core.tune.space import Dimension, parse


def test_choices_ranges_and_intervals() -> None:
    space = parse(
        [
            "rounds=1",
            "tasks=[lung_opacity,covid19]",
            "strategy=fedavg,fedprox",
            "injector.experts=range(2,8,3)",
            "strategy.proximal_mu=tag(log,interval(1e-4,1))",
            "injector.rank=int(interval(1,8))",
            "data.by='dirichlet:1','a, b'",
        ]
    )
    assert space.fixed == ("rounds=1", "tasks=[lung_opacity,covid19]")
    strategy, experts, mu, rank, by = space.dimensions
    assert strategy == Dimension("strategy", ("fedavg", "fedprox"))
    assert experts.choices == ("2", "5")
    assert mu == Dimension("strategy.proximal_mu", low=1e-4, high=1.0, log=True)
    assert rank == Dimension("injector.rank", low=1, high=8, whole=True)
    assert len(by.choices) == 2
    assert not space.is_grid


def test_a_grid_is_every_combination() -> None:
    space = parse(["a.b=1,2", "c=x,y,z", "d=0"])
    assert space.is_grid
    grid = space.grid()
    assert len(grid) == 6
    assert space.words(grid[-1]) == ["d=0", "a.b=2", "c=z"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rounds=3"], "nothing varies"),
        (["a=interval(3,1)"], "from a smaller to a greater"),
        (["a=tag(log,interval(0,1))"], "starts above 0"),
        (["a=tag(lg,interval(1,2))"], "unknown tag lg"),
        (["a=glob(*)"], "only choices"),
        (["a=1,2", "a=3,4"], "a: is searched twice"),
        (["a=(1"], "cannot read override"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(words)
    assert "\n" not in str(caught.value)
