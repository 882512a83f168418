"""Acceptance rates: dialled through the real accept path, simulated by law, observed on text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from magicplan.errors import SpecError, UsageError
from magicplan.roofline.trees import Tree
from magicplan.validate.decoder.acceptance import dial, library_text, observe, prompts
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.transformer import Transformer
from tests.validate.decoder import tiny

TREE = (-1, 0, 0, 0, 1, 1, 2, 4)


def decoder(model: Transformer, plan: DraftPlan, **options: object) -> Decoder:
    settings: dict[str, object] = {"batch": 8, "tokens": 200}
    return build_decoder(model, tiny.backend(), plan=plan, **(settings | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", [0.5, 0.85])
def test_a_random_model_is_dialled_to_a_rate(wanted: float) -> None:
    model = tiny.model(attention_scale=1.0)
    chain = decoder(model, DraftPlan.chain(3, budget=16))
    found = dial(model, chain, wanted, ctx_tokens=60)
    assert found.label == f"dialled:{wanted}"
    assert found.acceptance == pytest.approx(wanted, abs=0.1 + 3 * found.standard_error)
    assert found.distinct_tokens > 5
    # the model made anew with that scale is the dialled one
    anew = tiny.model(attention_scale=found.attention_scale or 0.0)
    for dialled, layer in zip(model.weights.layers, anew.weights.layers, strict=True):
        assert torch.equal(dialled.output, layer.output)
    again = observe(decoder(anew, DraftPlan.chain(3, budget=16)), 60, 16, 1, "again")
    assert again.acceptance == found.acceptance


def test_what_cannot_be_dialled_is_refused() -> None:
    model = tiny.model()
    chain = decoder(model, DraftPlan.chain(2, budget=16))
    with pytest.raises(UsageError, match="less than 1"):
        dial(model, chain, 1.0, ctx_tokens=100)
    with pytest.raises(UsageError, match="on a chain"):
        dial(model, decoder(model, DraftPlan(parents=TREE, budget=16)), 0.5, ctx_tokens=100)
    with pytest.raises(UsageError, match="out of reach"):
        # a draft that sees the whole context agrees always
        dial(model, decoder(model, DraftPlan.chain(2, budget=200)), 0.3, ctx_tokens=100)
    model.origin = "checkpoint"
    with pytest.raises(UsageError, match="is what it is"):
        dial(model, chain, 0.5, ctx_tokens=100)


@pytest.mark.parametrize(
    ("plan", "rates"),
    [
        (DraftPlan.chain(4, budget=16), [0.8]),
        (DraftPlan.chain(3, budget=16), [1.0]),
        (DraftPlan.chain(3, budget=16), [0.0]),
        (DraftPlan(parents=TREE, budget=16), [0.5, 0.2, 0.1]),
    ],
)
def test_a_simulated_law_is_followed(plan: DraftPlan, rates: list[float]) -> None:
    model = tiny.model(layers=1, kv_heads=1)
    simulated = decoder(model, plan, simulated=rates, batch=64, tokens=40)
    law = simulated.law
    assert law is not None
    assert law.label == "simulated:" + ",".join(f"{rate:g}" for rate in rates)
    expected = Tree(parents=plan.parents).expected_tokens(np.array(rates))
    assert law.tokens_per_round == pytest.approx(expected)
    simulated.fill_random(20)
    with simulated.holding():
        simulated.run(rounds=16)
    by_count = simulated.counters.by_count.sum(0).double()
    count = torch.arange(len(by_count), dtype=torch.float64)
    mean = float((by_count * count).sum() / by_count.sum())
    spread = float(((by_count * (count - mean) ** 2).sum() / by_count.sum()) ** 0.5)
    error = spread / float(by_count.sum()) ** 0.5
    assert simulated.counters.tokens_per_round == pytest.approx(expected, abs=4 * error + 1e-9)


def test_a_simulated_run_is_the_same_again_and_keeps_its_cache_in_step() -> None:
    model = tiny.model()
    runs = []
    for _ in range(2):
        simulated = decoder(model, DraftPlan(parents=TREE, budget=16), simulated=[0.5, 0.3])
        runs.append(simulated.generate(tiny.prompts(*range(40, 48)), 20))
    assert runs[0] == runs[1]
    assert all(len(row) == 20 for row in runs[0])


@pytest.mark.parametrize("rates", [[], [1.1], [0.6, 0.6], [-0.1]])
def test_rates_that_are_no_law_are_refused(rates: list[float]) -> None:
    with pytest.raises(UsageError, match="probabilities"):
        decoder(tiny.model(), DraftPlan.chain(2), simulated=rates)


def test_a_law_without_a_draft_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a draft"):
        build_decoder(tiny.model(), tiny.backend(), batch=1, tokens=50, simulated=[0.5])


def tokenizer(folder: Path) -> Path:
    """A tokenizer of words, as Hugging Face saves it."""
    tokenizers = pytest.importorskip("tokenizers", reason="writes a tokenizer")
    words = {"[UNK]": 0} | {word: i for i, word in enumerate(["import", "os", "def", "return"], 1)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_prompts_come_from_the_user_s_file_or_the_standard_library(tmp_path: Path) -> None:
    folder = tokenizer(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("import os def return return os", encoding="utf-8")
    assert prompts(folder, 2, 3, text) == [[1, 2, 3], [4, 4, 2]]
    rows = prompts(folder, 3, 100)
    assert [len(row) for row in rows] == [100] * 3
    assert len({token for row in rows for token in row}) > 1
    assert "def " in library_text(5000)


def test_text_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"no tokenizer\.json"):
        prompts(tmp_path, 1, 10)
    folder, text = tokenizer(tmp_path), tmp_path / "text.txt"
    with pytest.raises(SpecError, match="cannot be read"):
        prompts(folder, 1, 10, text)
    text.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SpecError, match="UTF-8"):
        prompts(folder, 1, 10, text)
    text.write_text("import os", encoding="utf-8")
    with pytest.raises(UsageError, match="2 tokens, 1 prompts of 10 need 10"):
        prompts(folder, 1, 10, text)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(SpecError, match="is no tokenizer"):
        prompts(folder, 1, 10)
