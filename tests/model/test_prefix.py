"""The shared prefix against its slow twin: every row alone, the whole prompt before it, no cache.

Logits and gradients, for each kind of thing that is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.laws.fitting import ALL_ARCHITECTURES, WINDOW, base_of, plain_answer_loss, plain_logits
from torch import Tensor

from tunewise.adaptation.attach import prefix_inputs
from tunewise.adaptation.inside import LowRank, Weights, low_rank_layers, writable_weights
from tunewise.adaptation.together import BEFORE, INSIDE, Together
from tunewise.adaptation.trainables import FrozenPrefix, KVPrefix, VirtualTokens
from tunewise.model.answers import Example, answer_loss
from tunewise.model.base import Base
from tunewise.model.forward import pad_rows, row_inputs, selected_logits
from tunewise.model.layers import embedding_name
from tunewise.model.ledger import Ledger
from tunewise.model.log import FitLog
from tunewise.model.loop import GradientLoop, LoopSettings
from tunewise.model.prefix import EMPTY_PREFIX, SharedPrefix, compute_prefix, token_embeddings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer
from tunewise.task.types import Kind, TaskSpec

SPEC = TaskSpec("t", Kind.CLASSIFICATION, "Say a colour.", ("blue", "red"), "accuracy")
INPUTS = ("short", "a much longer row of text", "mid length", "x")
ANSWERS = ("red", "blue", "red", "blue")
# Before the rows, in the model, and one of either together.
KINDS = (
    *("virtual", "virtual_in_place", "kv", "kv_before_text", "low_rank", "embeddings", "weights"),
    *("virtual+low_rank", "virtual_in_place+embeddings", "virtual+weights"),
    *("kv+embeddings", "kv_before_text+low_rank", "kv_before_text+weights"),
)


def renderer_of(base: Base, instruction: str = SPEC.instruction) -> Renderer:
    return Renderer(base.tokenizer, SPEC, PromptText(instruction))


def examples_of(renderer: Renderer) -> list[Example]:
    return [
        Example(renderer.row_tokens(text), renderer.answer_tokens(answer))
        for text, answer in zip(INPUTS, ANSWERS, strict=True)
    ]


def virtual_start(base: Base, count: int = 3) -> Tensor:
    size = float(base.model.get_input_embeddings().weight.detach().std())
    return torch.randn(count, base.width, generator=torch.Generator().manual_seed(7)) * size


@contextmanager
def trainable_of(kind: str, base: Base, renderer: Renderer) -> Iterator[Any]:
    """Each kind of trainable, away from its start so that no gradient is zero by symmetry."""
    frozen = FrozenPrefix(base, renderer, ())
    if "+" in kind:
        before, inside = kind.split("+")
        with (
            trainable_of(inside, base, renderer) as inner,
            trainable_of(before, base, renderer) as outer,
        ):
            yield Together(outer, inner)
    elif kind == "virtual":
        yield VirtualTokens(frozen, virtual_start(base), hidden=0, seed=0)
    elif kind == "virtual_in_place":
        yield VirtualTokens(
            frozen, virtual_start(base), hidden=0, seed=0, replaces_shared_text=True
        )
    elif kind == "kv":
        with torch.no_grad():
            initial = compute_prefix(base, token_embeddings(base, renderer.shared_tokens))
        yield KVPrefix(frozen, initial, replaces_shared_text=True)
    elif kind == "kv_before_text":
        with torch.no_grad():
            initial = compute_prefix(base, token_embeddings(base, (5, 6, 7)))
        yield KVPrefix(frozen, initial, replaces_shared_text=False)
    elif kind in ("low_rank", "embeddings"):
        layers = "all-linear" if kind == "low_rank" else [embedding_name(base)]
        config = {"r": 2, "lora_alpha": 4, "target_modules": layers}
        with low_rank_layers(base, config, None, seed=0) as attached:
            trainable = LowRank(frozen, attached)
            generator = torch.Generator().manual_seed(3)
            for leaf in trainable.parameters.values():
                leaf.data = torch.randn(leaf.shape, generator=generator) * 0.1
            trainable.publish()
            yield trainable
    else:
        names = [name for name, _ in base.model.named_parameters()]
        with writable_weights(base, names):
            yield Weights(frozen, names)


def twin_loss(kind: str, base: Base, renderer: Renderer, trainable: Any) -> Tensor:
    """Mean over answer tokens, one row at a time."""
    shared = renderer.shared_tokens
    total: Any = 0
    count = 0
    kind, _, together = kind.partition("+")
    own = {
        name.removeprefix(BEFORE): leaf
        for name, leaf in trainable.parameters.items()
        if not together or name.startswith(BEFORE)
    }
    for each in examples_of(renderer):
        count += len(each.answer)
        if kind.startswith("virtual"):
            before = own["embeddings"]
            text = each.row if kind == "virtual_in_place" else shared + each.row
            total = total + plain_answer_loss(base, text, each.answer, before=before)
        elif kind.startswith("kv"):
            text = each.row if kind == "kv" else shared + each.row
            total = total + after_keys_and_values(base, own, text, each.answer)
        else:
            total = total + plain_answer_loss(base, shared + each.row, each.answer)
    return total / count


def after_keys_and_values(
    base: Base, trained: dict[str, Tensor], text: tuple[int, ...], answer: tuple[int, ...]
) -> Tensor:
    """One row behind its own copy of the keys and values, put into a cache by its public door."""
    from transformers.cache_utils import DynamicCache

    cache = DynamicCache()
    leaves = list(trained.values())
    half = len(leaves) // 2
    for layer in range(half):
        cache.update(leaves[layer][None].clone(), leaves[half + layer][None].clone(), layer)
    logits = base.model(input_ids=torch.tensor([text + answer]), past_key_values=cache).logits[0]
    begin = len(text) - 1
    return torch.nn.functional.cross_entropy(
        logits[begin : begin + len(answer)], torch.tensor(answer), reduction="sum"
    )


def loop_gradients(
    base: Base, renderer: Renderer, trainable: Any, most_positions: int
) -> tuple[float, dict[str, Tensor]]:
    """One step at learning rate zero leaves the gradients on the leaves."""
    log, ledger = FitLog(), Ledger(1, 1)
    settings = LoopSettings(
        batch_size=4, learning_rate=0.0, clip_norm=1e9, most_positions=most_positions
    )
    loop = GradientLoop(
        base, trainable, examples_of(renderer), settings, seed=0, ledger=ledger, log=log
    )
    loop.run(1)
    gradients = {}
    for name, leaf in trainable.parameters.items():
        gradients[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
        leaf.grad = None
    return log.losses[0], gradients


@pytest.mark.parametrize(("chat", "most_positions"), [(True, 4096), (True, 40), (False, 1)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_loss_and_gradients_equal_the_slow_twin(
    architecture: str, kind: str, chat: bool, most_positions: int
) -> None:
    base = base_of(architecture, chat=chat)
    renderer = renderer_of(base)
    assert len(renderer.shared_tokens) > WINDOW
    with trainable_of(kind, base, renderer) as trainable:
        loss, gradients = loop_gradients(base, renderer, trainable, most_positions)
        slow = twin_loss(kind, base, renderer, trainable)
        # Inside the model gradients arise on the model's own parameters.
        leaves = trainable.parameters | {
            begin + name: leaf
            for name, leaf in base.model.named_parameters()
            for begin in ("", INSIDE)
            if begin + name in trainable.parameters
        }
        wanted = torch.autograd.grad(slow, [leaves[name] for name in gradients], allow_unused=True)
    assert loss == pytest.approx(float(slow.detach()), abs=1e-5, rel=1e-5)
    assert sum(float(gradient.abs().sum()) for gradient in gradients.values()) > 0
    for (name, got), expected in zip(gradients.items(), wanted, strict=True):
        expected = torch.zeros_like(got) if expected is None else expected
        scale = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(got, expected, atol=2e-5 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("kind", ["virtual", "kv", "low_rank"])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_gradients_by_finite_differences(
    architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 throughout: `.float()` is made to do nothing while this test lasts."""
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    base = base_of(architecture, dtype=torch.float64)
    base.model.double()
    renderer = renderer_of(base)
    examples = examples_of(renderer)
    with trainable_of(kind, base, renderer) as trainable:
        if kind == "low_rank":
            # Gradients arise on the layers' own parameters, which are no longer the masters.
            base.model.double()
            named = dict(base.model.named_parameters())
            trainable.parameters = {name: named[name] for name in trainable.parameters}
        else:
            trainable.parameters = {
                name: leaf.detach().double().requires_grad_(True)
                for name, leaf in trainable.parameters.items()
            }

        def loss() -> Tensor:
            return answer_loss(base, trainable.prefix_inputs().lower(base), examples)

        leaves = list(trainable.parameters.values())
        gradients = torch.autograd.grad(loss(), leaves)
        generator = torch.Generator().manual_seed(0)
        step = 1e-3
        for leaf, gradient in zip(leaves[:4], gradients[:4], strict=True):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            with torch.no_grad():
                leaf.add_(step * direction)
                above = loss()
                leaf.sub_(2 * step * direction)
                below = loss()
                leaf.add_(step * direction)
            numeric = float(above - below) / (2 * step)
            assert numeric == pytest.approx(float((gradient * direction).sum()), rel=2e-3, abs=1e-4)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_logits_are_the_same_with_left_right_and_no_padding(
    architecture: str, chat: bool, left: bool
) -> None:
    """peft#1093: with padding on the left, pads stood between prompt and text and changed it."""
    base = base_of(architecture, chat=chat)
    renderer = renderer_of(base)
    rows = [renderer.row_tokens(text) for text in INPUTS]
    assert len({len(row) for row in rows}) > 1
    with torch.no_grad():
        prefix = prefix_inputs(base, renderer, virtual=virtual_start(base)).lower(base)
        padded = pad_rows(rows, base.device, left=left)
        place = padded.mask.nonzero(as_tuple=True)
        got = selected_logits(base, prefix, row_inputs(base, prefix.length, padded), place)
        slow = [
            plain_logits(base, renderer.shared_tokens + row, before=virtual_start(base))[
                -len(row) :
            ]
            for row in rows
        ]
    torch.testing.assert_close(got, torch.cat(slow), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_an_empty_prefix(architecture: str, left: bool) -> None:
    base = base_of(architecture, chat=False)
    rows = [tuple(range(5, 5 + length)) for length in (3, 17, 1, 9)]
    padded = pad_rows(rows, base.device, left=left)
    with torch.no_grad():
        place = padded.mask.nonzero(as_tuple=True)
        got = selected_logits(base, EMPTY_PREFIX, row_inputs(base, 0, padded), place)
        slow = torch.cat([plain_logits(base, row) for row in rows])
    torch.testing.assert_close(got, slow, atol=1e-4, rtol=1e-4)
    assert EMPTY_PREFIX.length == 0
    assert EMPTY_PREFIX.with_tensors(()) == EMPTY_PREFIX


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_prefix_in_two_pieces_is_the_prefix_in_one(architecture: str) -> None:
    base = base_of(architecture)
    tokens = tuple(range(40, 60))
    with torch.no_grad():
        whole = compute_prefix(base, token_embeddings(base, tokens))
        first = compute_prefix(base, token_embeddings(base, tokens[:12]))
        both = compute_prefix(base, token_embeddings(base, tokens[12:]), after=first)
    assert both.length == whole.length == 20
    assert first.length == 12
    for one, other in zip(whole.tensors(), both.tensors(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_prefix_serves_many_batches_unchanged() -> None:
    base = base_of()
    with torch.no_grad():
        prefix = compute_prefix(base, token_embeddings(base, (1, 2, 3)))
        before = [tensor.clone() for tensor in prefix.tensors()]
        padded = pad_rows([(4, 5), (6,)], base.device, left=False)
        for _ in range(2):
            index = (torch.tensor([0]), torch.tensor([1]))
            selected_logits(base, prefix, row_inputs(base, prefix.length, padded), index)
    assert prefix.length == 3
    assert all(a.equal(b) for a, b in zip(before, prefix.tensors(), strict=True))


@pytest.mark.parametrize("head", ["gemma2", "granite", "cohere"])
def test_a_head_that_does_more_than_one_product(head: str) -> None:
    """Soft capping (Gemma 2) and scaled logits (Granite, Cohere) come out as the model's own."""
    from tunewise.model.forward import has_plain_head

    base = special_head(head)
    assert not has_plain_head(base)
    rows = [(1, 2, 3, 4), (5, 6)]
    padded = pad_rows(rows, base.device, left=False)
    with torch.no_grad():
        prefix = compute_prefix(base, token_embeddings(base, (9, 8, 7)))
        place = padded.mask.nonzero(as_tuple=True)
        got = selected_logits(base, prefix, row_inputs(base, prefix.length, padded), place)
        slow = torch.cat([plain_logits(base, (9, 8, 7, *row))[3:] for row in rows])
    torch.testing.assert_close(got, slow, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ALL_ARCHITECTURES)
def test_a_plain_head_is_known_as_one(architecture: str) -> None:
    from tunewise.model.forward import has_plain_head

    assert has_plain_head(base_of(architecture))


def special_head(name: str) -> Base:
    import transformers as hf
    from tests.conftest import build_tokenizer

    common = {
        "vocab_size": 261,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": 257,
    }
    makers: dict[str, Callable[[], Any]] = {
        "gemma2": lambda: hf.Gemma2Config(
            **common, head_dim=8, sliding_window=64, final_logit_softcapping=0.5
        ),
        "granite": lambda: hf.GraniteConfig(**common, logits_scaling=3.0),
        "cohere": lambda: hf.CohereConfig(**common, logit_scale=0.25),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(makers[name]())
    return Base.from_model(model, build_tokenizer())


def test_prefix_round_trip_of_tensors() -> None:
    keys, values = (torch.ones(1, 2, 3, 4),), (torch.zeros(1, 2, 3, 4),)
    prefix = SharedPrefix(keys, values)
    again = prefix.with_tensors(prefix.tensors())
    assert again.keys[0] is keys[0]
    assert again.values[0] is values[0]
