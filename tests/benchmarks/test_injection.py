"""The table of docs/performance.md: its peers compute what they claim, its counts are exact."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.injection import BEGIN, END, main
from benchmarks.peak import Peak
from benchmarks.peers import Peer, one_layer, peers
from benchmarks.scaling import exponent
from benchmarks.turns import kept


def test_three_ways_to_mix_experts_are_one_function() -> None:
    among = peers(width=64, layers=1, experts=3, rank=2, batch=2)
    inputs = torch.randn(2, 5, 64)
    blocks = among["m3oe"].model.base_model.model.model.layers[0]
    with torch.no_grad():
        for way in ("einsum", "loop"):
            written = among[way].model.model.layers[0]
            for path in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
                ours, theirs = blocks.get_submodule(path), written.get_submodule(path)
                generator = torch.Generator().manual_seed(len(path))
                b = torch.randn(theirs.b.shape, generator=generator) * 0.02
                a = torch.randn(theirs.a.shape, generator=generator) * 0.02
                theirs.a.copy_(a)
                theirs.b.copy_(b)
                ours.lora_A["default"].weight.copy_(a.flatten(0, 1))
                ours.lora_B["default"].weight.copy_(b.permute(1, 0, 2).flatten(1))
        out = {}
        for name in ("base", "m3oe", "einsum", "loop"):
            with among[name].context():
                out[name] = among[name].model(inputs_embeds=inputs).logits
    assert (out["m3oe"] - out["base"]).abs().max() > 1e-3
    torch.testing.assert_close(out["m3oe"], out["einsum"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out["m3oe"], out["loop"], atol=1e-5, rtol=1e-4)


def test_an_exponent_is_a_slope_of_logarithms() -> None:
    assert exponent({n: 3.0 * n**1.5 for n in (2, 5, 40)}) == pytest.approx(1.5)


def test_what_a_forward_pass_keeps() -> None:
    weights = torch.nn.Linear(64, 64, bias=False)
    layer = torch.nn.Sequential(weights, torch.nn.Sigmoid())

    class Answer(torch.nn.Module):
        def forward(self, inputs_embeds: torch.Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=layer(inputs_embeds))

    # The sigmoid keeps what it gave, 10 x 64 numbers; what it read is gone.
    assert kept(Peer(Answer()), torch.randn(10, 64)) == pytest.approx(10 * 64 * 4 / 1e6)


def test_a_mixture_keeps_a_fiftieth_of_the_written_sum() -> None:
    """Beyond the frozen layer: written out, every expert gives something as wide as the layer."""
    among, inputs = one_layer(1024, experts=12, rank=8, batch=2), torch.randn(2, 512, 1024)
    held = {name: kept(peer, inputs) for name, peer in among.items()}
    assert held["einsum"] - held["base"] > 50 * (held["m3oe"] - held["base"]) > 0


def test_frozen_weights_are_held_once() -> None:
    among = peers(width=64, layers=1, experts=2, rank=2, batch=1)
    own = {p.data_ptr() for p in among["base"].model.parameters()}
    for name, peer in among.items():
        frozen = {p.data_ptr() for p in peer.model.parameters() if not p.requires_grad}
        assert frozen == own, name


def test_peak_counts_what_lives_at_once() -> None:
    x = torch.ones(1000)
    with Peak() as peak:
        a = x + 1  # 4 kB
        b = a * 2  # 8 kB
        a.add_(1)
        view = b[:10]
        del a
        c = view.sum()  # 4 kB, and four bytes
    assert peak.most == 8000
    assert peak.now == 4004
    assert c.isfinite()


def test_the_whole_table_can_be_made(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\noutdated\n{END}\nafter\n")
    main(["--quick", "--write", str(page)], say=lambda text: None)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "outdated" not in text
    for peer in ("base", "lora_r", "lora_wide", "m3oe", "einsum", "loop", "xlora", "merged"):
        assert f"| {peer} |" in text
    for what in ("training step, by experts", "a site's epoch, by examples", "2"):
        assert f"\n| {what} | " in text
    page.write_text("no place")
    with pytest.raises(SystemExit, match="no place for the table"):
        main(["--quick", "--write", str(page)], say=lambda text: None)
