"""One seed, passed down by name."""

import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkim_core.paths import APP
from fedkim_core.seeds import derive, generator, seeded

names = st.lists(st.one_of(st.integers(0, 99), st.text("abc", min_size=1, max_size=4)), max_size=3)


@settings(max_examples=200)
@given(st.integers(0, 2**31 - 1), names, st.integers(0, 2**31 - 1), names)
def test_each_purpose_has_its_own_seed(seed, purpose, other_seed, other) -> None:
    one, two = derive(seed, *purpose), derive(other_seed, *other)
    assert 0 <= one < 2**63
    as_text = [str(part) for part in (seed, *purpose)] == [str(p) for p in (other_seed, *other)]
    assert (one == two) == as_text


def test_the_same_in_another_process_and_for_ever() -> None:
    """Never ``hash()``, which differs from process to process."""
    assert derive(0, "order", "harbour-general", 1) == int(
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from fedkim_core.seeds import derive;"
                "print(derive(0, 'order', 'harbour-general', 1))",
            ],
            cwd=APP,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert derive(0) == 0x5FECEB66FFC86F38 >> 1  # SHA-256 of "0"


def test_generators_are_independent_of_each_other() -> None:
    one, two = generator(3, "a"), generator(3, "a")
    torch.rand(5, generator=generator(3, "b"))
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=two))


def test_seeded_block_leaves_no_trace() -> None:
    before = torch.get_rng_state()
    with seeded(1, "x"):
        first = torch.rand(3)
    with seeded(1, "x"):
        assert torch.equal(torch.rand(3), first)
    with seeded(1, "y"):
        assert not torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)
