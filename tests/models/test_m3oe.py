"""M3OE against a written-out sum over experts, stock PEFT, and its folded form."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from fedkim_core.config import compose
from fedkim_core.errors import UserError
from fedkim_core.models import m3oe
from fedkim_core.models.foundation import load_foundation
from fedkim_core.models.m3oe import Experts, Gate, fold, mutual_information


def make(experts: int, rank: int, **extra: object) -> Experts:
    config = compose(["foundation=tiny", f"injector.experts={experts}", f"injector.rank={rank}"])
    model = load_foundation(config.foundation).model.double()
    made = Experts(model, config.injector.model_copy(update={"alpha": 32.0, **extra}))
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        # B starts at zero; an adapter that does nothing would prove nothing.
        parameter.data = torch.randn(parameter.shape, generator=generator).double() * 0.1
    return made


def alphas(rows: int, experts: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(torch.randn(rows, experts, generator=generator).double(), -1)


def written_out(layer: nn.Module, x: torch.Tensor, alpha: torch.Tensor, rank: int) -> torch.Tensor:
    """c = W h + s * sum_p alpha_p B_p A_p h, with the loop over experts of the paper."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    out = layer.base_layer(x)
    for p in range(alpha.shape[1]):
        rows = slice(p * rank, (p + 1) * rank)
        for i in range(len(x)):
            out[i] = out[i] + (32.0 / rank) * alpha[i, p] * (x[i] @ a[rows].T @ b[:, rows].T)
    return out


@settings(max_examples=20, deadline=None)
@given(
    experts=st.integers(1, 6),
    rank=st.integers(1, 4),
    rows=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_equals_written_out_sum_over_experts(experts: int, rank: int, rows: int, seed: int) -> None:
    made = make(experts, rank)
    alpha = alphas(rows, experts, seed)
    x = torch.randn(rows, 5, 32, generator=torch.Generator().manual_seed(seed)).double()
    for layer in made._layers[:7]:
        inner = x if layer.in_features == 32 else x.repeat(1, 1, 2)
        with torch.no_grad(), made.gated(alpha):
            got = layer(inner)
        want = written_out(layer, inner, alpha, rank)
        torch.testing.assert_close(got, want.detach(), atol=1e-12, rtol=1e-12)


def test_lora_scaling_is_applied() -> None:
    """The released code never applies alpha / r."""
    one, two = make(2, 2, alpha=16.0), make(2, 2, alpha=32.0)
    x = torch.randn(1, 3, 32).double()
    with torch.no_grad(), one.gated(alphas(1, 2)), two.gated(alphas(1, 2)):
        a, b = one._layers[0], two._layers[0]
        base = a.base_layer(x)
        torch.testing.assert_close(2 * (a(x) - base), b(x) - base)


def test_one_expert_is_stock_lora() -> None:
    made = make(1, 4)
    config = compose(["foundation=tiny"])
    stock = get_peft_model(
        load_foundation(config.foundation).model.double(),
        LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    stock.load_state_dict(made.model.state_dict())
    ids = torch.randint(0, 250, (2, 7))
    with torch.no_grad(), made.gated(torch.ones(2, 1).double()):
        torch.testing.assert_close(made.model(ids).logits, stock(ids).logits)


def test_fold_is_a_plain_adapter(tmp_path) -> None:
    """Folded, the adapter loads with stock PEFT and answers as the gated model does."""
    made = make(3, 2)
    alpha = alphas(1, 3)
    ids = torch.randint(0, 250, (1, 9))
    with torch.no_grad(), made.gated(alpha):
        want = made.model(ids).logits
    made.model.save_pretrained(str(tmp_path))
    save_file(fold(made.state(), alpha[0], 2), tmp_path / "adapter_model.safetensors")
    base = load_foundation(compose(["foundation=tiny"]).foundation).model.double()
    plain = PeftModel.from_pretrained(base, str(tmp_path), autocast_adapter_dtype=False)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, want, atol=1e-10, rtol=1e-10)
        merged = plain.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, want, atol=1e-10, rtol=1e-10)


@settings(max_examples=10, deadline=None)
@given(experts=st.integers(1, 5), rank=st.integers(1, 3), seed=st.integers(0, 99))
def test_merged_answers_as_gated_and_leaves_no_trace(experts: int, rank: int, seed: int) -> None:
    made, alpha = make(experts, rank), alphas(1, experts, seed)
    ids = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(seed))
    before = copy.deepcopy(made.model.state_dict())
    with torch.no_grad(), made.gated(alpha.expand(2, -1)):
        want = made.model(ids).logits
    with torch.no_grad(), made.merged(alpha[0]):
        with made.gated(alpha.expand(2, -1)):
            got = made.model(ids).logits
        alone = made.model(ids).logits
    torch.testing.assert_close(got, want, atol=1e-10, rtol=1e-10)
    assert torch.equal(alone, got)  # no gate is needed: the experts are in the weights
    with pytest.raises(ZeroDivisionError), made.merged(alpha[0]):
        _ = 1 / 0
    after = made.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_no_room_for_a_merge_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    made, done = make(2, 2), []
    before = copy.deepcopy(made.model.state_dict())

    def full(layer: nn.Module, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if len(done) == 3:
            raise MemoryError
        done.append(layer)
        return weight + 1

    monkeypatch.setattr(m3oe, "_with_adapter", full)
    with pytest.raises(MemoryError), made.merged(torch.ones(2).double() / 2):
        pass
    after = made.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_merged_until_told_otherwise() -> None:
    """Not only within a block, and whichever thread asks or ends it."""
    made, alpha = make(2, 2), alphas(1, 2)
    before = copy.deepcopy(made.model.state_dict())
    ids = torch.randint(0, 250, (1, 9))
    with torch.no_grad(), made.gated(alpha):
        want = made.model(ids).logits
    with ThreadPoolExecutor(1) as other:
        other.submit(made.merge, alpha[0]).result()
    with torch.no_grad(), made.gated(alpha):
        torch.testing.assert_close(made.model(ids).logits, want, atol=1e-10, rtol=1e-10)
    with pytest.raises(RuntimeError, match="hold merged experts"):
        made.merge(alpha[0])
    made.unmerge()
    made.unmerge()  # which does nothing
    after = made.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with torch.no_grad(), made.gated(alpha):
        assert torch.equal(made.model(ids).logits, want)


def test_merged_weights_refuse_another_question() -> None:
    made = make(2, 2)
    with made.merged(torch.tensor([0.25, 0.75]).double()):
        with pytest.raises(RuntimeError, match="other experts"), made.gated(alphas(1, 2)):
            pass
        with pytest.raises(RuntimeError, match="merged"), made.disabled():
            pass
    with made.gated(alphas(1, 2)):
        pass


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_sixteen_bits_a_merge_is_off_as_everything_is(dtype: torch.dtype) -> None:
    """Weights round what is added to them; the model's arithmetic rounds about as much."""
    config = compose(["foundation=tiny", "injector.experts=3"])
    ids, alpha = torch.randint(0, 250, (4, 30)), torch.tensor([0.5, 0.3, 0.2])

    def answers(dtype: torch.dtype, *, merge: bool) -> torch.Tensor:
        made = Experts(load_foundation(config.foundation).model.to(dtype), config.injector)
        generator = torch.Generator().manual_seed(0)
        for parameter in made.parameters():
            parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)
        context = made.merged(alpha) if merge else made.gated(alpha.expand(4, -1))
        with torch.no_grad(), context, torch.autocast("cpu", dtype, dtype != torch.float32):
            return made.model(ids).logits.float()

    exact = answers(torch.float32, merge=False)
    live, merged = ((answers(dtype, merge=m) - exact).norm() for m in (False, True))
    assert 0 < merged < 2 * live


def test_weights_that_lie_the_other_way_round_are_merged() -> None:
    """GPT-2 keeps [in, out]."""
    torch.manual_seed(0)
    shape = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=60, n_positions=16)
    config = compose(["injector.experts=2", "injector.rank=2", "injector.targets=[c_attn,c_fc]"])
    made = Experts(GPT2LMHeadModel(shape).double().eval(), config.injector)
    for parameter in made.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape).double()
    ids, alpha = torch.randint(0, 60, (1, 7)), alphas(1, 2)
    with torch.no_grad(), made.gated(alpha):
        want = made.model(ids).logits
    with torch.no_grad(), made.merged(alpha[0]):
        torch.testing.assert_close(made.model(ids).logits, want, atol=1e-10, rtol=1e-10)


def test_b_starts_at_zero_and_base_stays_frozen() -> None:
    config = compose(["foundation=tiny", "injector.experts=3"])
    foundation = load_foundation(config.foundation)
    before = copy.deepcopy(foundation.model.state_dict())
    ids = torch.randint(0, 250, (2, 5))
    want = foundation.model(ids).logits
    made = Experts(foundation.model, config.injector)
    with made.gated(torch.full((2, 3), 1 / 3)):
        got = made.model(ids).logits
    torch.testing.assert_close(got, want)
    got.sum().backward()
    trainable = {id(p) for p in made.parameters()}
    for name, parameter in made.model.named_parameters():
        assert (id(parameter) in trainable) == parameter.requires_grad == ("lora_" in name)
    own = made.model.base_model.model.state_dict()
    for name, value in before.items():
        plain = own[name] if name in own else own[name.replace(".weight", ".base_layer.weight")]
        torch.testing.assert_close(plain, value)


def test_rows_are_gated_apart() -> None:
    made = make(2, 2)
    x = torch.randn(1, 4, 32).double().repeat(2, 1, 1)
    layer = made._layers[0]
    only = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()
    with torch.no_grad(), made.gated(only):
        both = layer(x)
    for i in range(2):
        with torch.no_grad(), made.gated(only[i : i + 1]):
            torch.testing.assert_close(layer(x[i : i + 1])[0], both[i])
    assert not torch.allclose(both[0], both[1])


def test_who_asks_from_another_thread_waits() -> None:
    made = make(2, 2)
    x, layer = torch.randn(1, 4, 32).double(), made._layers[0]
    gates = torch.eye(2).double()[:, None]

    def ask(gate: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), made.gated(gate):
            return torch.as_tensor(layer(x))

    alone = [ask(gate) for gate in gates]
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(ask, gates.repeat(50, 1, 1))):
            torch.testing.assert_close(found, alone[i % 2])


def test_outside_gated_is_refused() -> None:
    made = make(2, 2)
    with pytest.raises(RuntimeError, match="gated"):
        made.model(torch.zeros(1, 2, dtype=torch.long))


def test_disabled_is_the_foundation_model() -> None:
    made = make(2, 2)
    base = load_foundation(compose(["foundation=tiny"]).foundation).model.double()
    ids = torch.randint(0, 250, (1, 6))
    with torch.no_grad(), made.disabled():
        torch.testing.assert_close(made.model(ids).logits, base(ids).logits)


def test_unknown_target_is_one_line() -> None:
    config = compose(["foundation=tiny", "injector.targets=[nothing]"])
    with pytest.raises(UserError, match=r"injector\.targets") as caught:
        Experts(load_foundation(config.foundation).model, config.injector)
    assert "\n" not in str(caught.value)


def test_state_round_trip_and_missing_tensor() -> None:
    made, other = make(2, 2), make(2, 2)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state(made.state())
    for a, b in zip(made.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    broken = dict(made.state())
    broken.popitem()
    with pytest.raises(UserError, match="missing"):
        other.load_state(broken)


@settings(max_examples=25, deadline=None)
@given(pad=st.integers(1, 6), seed=st.integers(0, 99), normalise=st.booleans())
def test_gate_ignores_padding(pad: int, seed: int, normalise: bool) -> None:
    """The released gate lets padding into attention and pooling."""
    torch.manual_seed(seed)
    gate = Gate(16, 5, 8, normalise=normalise).double()
    task, modality = torch.randn(2, 4, 16).double(), torch.randn(2, 3, 16).double()
    masks = torch.ones(2, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    want = gate(task, masks[0], modality, masks[1])
    junk = 100 * torch.randn(2, pad, 16).double()
    mask = torch.zeros(2, pad, dtype=torch.bool)
    got = gate(
        torch.cat([task, junk], 1),
        torch.cat([masks[0], mask], 1),
        torch.cat([modality, junk], 1),
        torch.cat([masks[1], mask], 1),
    )
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got.sum(-1), torch.ones(2).double())


def test_gate_is_the_published_formula() -> None:
    torch.manual_seed(0)
    gate = Gate(16, 3, 8, normalise=False).double()
    task, modality = torch.randn(1, 4, 16).double(), torch.randn(1, 2, 16).double()
    query, key = modality[0] @ gate.query.weight.T, task[0] @ gate.key.weight.T
    beta = torch.softmax(query @ key.T / 8**0.5, -1) @ (task[0] @ gate.value.weight.T)
    want = torch.softmax(gate.mlp(beta.mean(0)), -1)
    ones = torch.ones(1, 4, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(gate(task, ones[0], modality, ones[1])[0], want)


def test_mutual_information_ends() -> None:
    uniform = torch.full((4, 8), 1 / 8)
    torch.testing.assert_close(mutual_information(uniform), torch.tensor(0.0))
    torch.testing.assert_close(mutual_information(torch.eye(4)), torch.tensor(4.0).log())


@given(
    logits=st.lists(st.integers(-40, 40), min_size=2, max_size=8, unique=True),
    data=st.data(),
)
def test_top_k_keeps_the_largest_and_sums_to_one(logits: list[int], data: st.DataObject) -> None:
    """Against the dense weights: those of the k largest, divided by their sum."""
    k = data.draw(st.integers(1, len(logits)))
    gate = Gate(4, len(logits), 4, normalise=False, top_k=k)
    nn.init.zeros_(gate.mlp[-1].weight)
    gate.mlp[-1].bias.data = torch.tensor(logits).float() / 10
    text, mask = torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
    alpha = gate(text, mask, text, mask)
    gate.top_k = 0
    dense = gate(text, mask, text, mask)[0].tolist()
    kept = sorted(range(len(logits)), key=lambda i: -logits[i])[:k]
    total = sum(dense[i] for i in kept)
    wanted = [dense[i] / total if i in kept else 0.0 for i in range(len(logits))]
    torch.testing.assert_close(alpha[0], torch.tensor(wanted))
    alpha[0, kept[0]].backward()
    reached = gate.mlp[-1].bias.grad != 0
    assert not reached[[i for i in range(len(logits)) if i not in kept]].any()
