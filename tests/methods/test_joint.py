"""Two methods trained together: one budget, one loop, a learning rate for either."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.fitting import base_of, context_of, fit, planted_view, rates

from tunewise.adaptation.parts import KVPrefixPart, LowRankPart, VirtualTokensPart
from tunewise.adaptation.plan import Candidate
from tunewise.errors import ConfigError, TunewiseError, UnknownNameError
from tunewise.methods._contract import parse_settings
from tunewise.methods._registry import find_method
from tunewise.methods.lora import METHOD as LORA
from tunewise.methods.soft_prompt import METHOD as SOFT_PROMPT
from tunewise.model.prefix import token_embeddings
from tunewise.task.prompt import PromptText
from tunewise.task.render import Renderer

VIEW = planted_view()


def candidates(name: str, **settings: Any) -> tuple[Candidate, ...]:
    method: Any = find_method(name)
    return tuple(method.candidates(method.Settings(**settings)))


def test_the_first_step_of_either_is_its_own_learning_rate() -> None:
    """AdamW's first step is the learning rate in every number, whatever the gradient's size."""
    base = base_of()
    given = {"soft_prompt_learning_rate": 1e-2, "lora_learning_rate": 3e-4}
    started = fit(base, "soft_prompt+lora", VIEW, steps=1, **rates("soft_prompt+lora", 1e-20))
    # Where one step is no better than none, the start is what is stored; both are looked at here.
    moved: dict[str, float] = {}
    real = torch.optim.AdamW.step

    def watched(self: Any, *args: Any) -> Any:
        before = [
            [leaf.detach().clone() for leaf in group["params"]] for group in self.param_groups
        ]
        done = real(self, *args)
        for group, leaves in zip(self.param_groups, before, strict=True):
            steps = torch.cat(
                [
                    (now.detach() - old).abs().flatten()
                    for now, old in zip(group["params"], leaves, strict=True)
                ]
            )
            moved[f"{group['peak']}"] = float(steps[steps > 0].median())
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        settings = {"steps": 1, "warmup_steps": 0, "decay": False}
        fit(base, "soft_prompt+lora", VIEW, **settings, **given)
    assert moved == {"0.01": pytest.approx(1e-2, rel=1e-2), "0.0003": pytest.approx(3e-4, rel=1e-2)}
    assert started.kinds == ("prompt_text", "virtual_tokens", "low_rank")


def test_candidates_change_one_thing_at_a_time() -> None:
    soft, other_soft = SOFT_PROMPT.learning_rates
    low, other_low = LORA.learning_rates
    assert candidates("soft_prompt+lora") == (
        Candidate(soft, (("inside/", low),)),
        Candidate(other_soft, (("inside/", low),)),
        Candidate(soft, (("inside/", other_low),)),
    )
    given = {"soft_prompt_learning_rate": 0.5, "lora_learning_rate": 2.0}
    assert candidates("soft_prompt+lora", **given) == (Candidate(0.5, (("inside/", 2.0),)),)
    starts = candidates("soft_prompt+lora", soft_prompt_restarts=2, lora_learning_rate=2.0)
    assert [each.start for each in starts] == [0, 1, 0]


def test_the_record_tells_both_rates() -> None:
    notes = fit(base_of(), "soft_prompt+lora", VIEW, steps=2, batch_size=8).provenance.notes
    assert notes["learning_rate"] == SOFT_PROMPT.learning_rates[0]
    assert notes["own_rates"] == {"inside": LORA.learning_rates[0]}
    plain = fit(base_of(), "lora", VIEW, steps=2, batch_size=8).provenance.notes
    assert "own_rates" not in plain


def test_three_race_where_the_budget_pays_for_three() -> None:
    raced = []
    for epochs in (16.0, 32.0):
        notes = fit(
            base_of(), "soft_prompt+lora", VIEW, batch_size=8, epochs=epochs
        ).provenance.notes
        raced.append([each for each in notes["validation"] if "trial" in each])
    assert [len(trials) for trials in raced] == [2, 3]
    assert [each["own_rates"]["inside"] for each in raced[1]] == [1e-3, 1e-3, 3e-4]


def test_the_order_of_the_names_makes_no_other_method() -> None:
    assert find_method("lora + soft_prompt").name == "soft_prompt+lora"
    assert find_method("full+prefix").name == "prefix+full"
    assert set(find_method("prefix+full").produces) == {"kv_prefix", "weights", "prompt_text"}


def test_settings_of_the_training_stand_once() -> None:
    method = find_method("soft_prompt+lora")
    fields = set(method.Settings.model_fields)
    assert {"steps", "batch_size", "soft_prompt_learning_rate", "lora_rank"} <= fields
    assert not {"learning_rate", "lora_steps", "soft_prompt_batch_size"} & fields
    with pytest.raises(ConfigError, match="--lora-rank 0"):
        parse_settings(method, {"lora_rank": 0})
    with pytest.raises(UnknownNameError, match="lora_rank"):
        parse_settings(method, {"lora_rnk": 4})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("soft_prompt+prefix", "cannot be trained together"),
        ("lora+full", "cannot be trained together"),
        ("lora+lora", "cannot be trained together"),
        ("soft_prompt+zero_shot", "cannot be trained together"),
        ("majority+lora", "cannot be trained together"),
        ("soft_prompt+lora+full", "cannot be trained together"),
        ("soft_prompt+lroa", "lora"),
        ("soft_prompt+", "method"),
        ("+", "method"),
    ],
)
def test_pairs_that_cannot_be(name: str, words: str) -> None:
    with pytest.raises(TunewiseError, match=words):
        find_method(name)


@pytest.mark.parametrize("name", ["prompt_search>soft_prompt+lora", "soft_prompt+lora>few_shot"])
def test_a_pair_is_a_link_of_a_chain(name: str) -> None:
    base = base_of()
    method = find_method(name)
    context = context_of(base, VIEW, limit=60_000)
    got = method.fit(context, method.Settings(soft_prompt_and_lora_steps=2))
    assert got.part(VirtualTokensPart) is not None
    assert got.part(LowRankPart) is not None
    assert context.ledger.spent <= 60_000


def test_a_pair_goes_on_from_what_either_found() -> None:
    base = base_of()
    start = fit(base, "prefix+lora", VIEW, steps=2, batch_size=8, prefix_positions=4, lora_rank=2)
    got = fit(base, "prefix+lora", VIEW, steps=1, start=start, **rates("prefix+lora", 1e-20))
    one, other = start.part(KVPrefixPart), got.part(KVPrefixPart)
    assert one is not None
    assert other is not None
    assert one.keys[0].shape == other.keys[0].shape == (2, 4, 8)
    assert got.kinds.count("low_rank") == got.kinds.count("kv_prefix") == 1


def test_a_soft_prompt_brought_to_fewer_positions() -> None:
    """The first embedding as it stands, the others in runs of neighbours."""
    base = base_of()
    got = fit(
        base,
        "soft_prompt",
        VIEW,
        steps=1,
        virtual_tokens=4,
        placed="instead",
        **rates("soft_prompt", 1e-20),
    )
    part = got.part(VirtualTokensPart)
    assert part is not None
    assert part.replaces_shared_text
    shared = Renderer(base.tokenizer, VIEW.spec, PromptText(VIEW.spec.instruction)).shared_tokens
    text = token_embeddings(base, shared)[0]
    runs = [text[:1]]
    begin, left = 1, len(shared) - 1
    for rest in (3, 2, 1):
        size = -(-left // rest)
        runs.append(text[begin : begin + size])
        begin, left = begin + size, left - size
    assert begin == len(shared)
    wanted = torch.stack([run.sum(dim=0) / len(run) for run in runs])
    torch.testing.assert_close(part.embeddings, wanted)


def test_frozen_positions_stay_and_the_others_move() -> None:
    base = base_of()
    loose = {"steps": 4, "batch_size": 8, "judgements": 4, "residual_width": 3}
    start = fit(base, "soft_prompt", VIEW, steps=1, learning_rate=1e-20)
    got = fit(base, "soft_prompt", VIEW, frozen_positions=2, learning_rate=1e-2, **loose)
    assert got.provenance.notes["best_step"] > 0
    begun, part = start.part(VirtualTokensPart), got.part(VirtualTokensPart)
    assert begun is not None
    assert part is not None
    assert part.embeddings[:2].equal(begun.embeddings[:2])
    assert (part.embeddings[2:] != begun.embeddings[2:]).any(dim=1).all()


def test_restarts_race_and_differ() -> None:
    base = base_of()
    settings = {"batch_size": 8, "epochs": 64.0, "restarts": 3, "learning_rate": 1e-2}
    notes = fit(base, "soft_prompt", VIEW, **settings).provenance.notes
    trials = [each for each in notes["validation"] if "trial" in each]
    assert [each.get("start", 0) for each in trials] == [0, 1, 2]
    assert len({each["loss"] for each in trials}) == 3
    # Step 0 is the given start, whoever wins.
    assert notes["validation"][0]["step"] == 0
    assert "start" not in notes["validation"][0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"restarts": 2, "steps": 5}, "no race of starts"),
        ({"restarts": 9, "epochs": 1.0}, "does not pay for a race of 9 starts"),
        ({"frozen_positions": 500}, "no virtual token would be trained"),
        ({"virtual_tokens": 500, "placed": "instead"}, "more virtual tokens than the text has"),
        ({"start_from": "vocabulary", "placed": "instead"}, "no text that virtual tokens"),
    ],
)
def test_soft_prompts_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(TunewiseError, match=words):
        fit(base_of(), "soft_prompt", VIEW, **settings)


@pytest.mark.parametrize("settings", [{"last_layers": 1}, {"dora": True}])
def test_embeddings_stand_below_all_layers(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="stand below all layers"):
        fit(base_of(), "lora", VIEW, steps=1, layers="embeddings", **settings)
