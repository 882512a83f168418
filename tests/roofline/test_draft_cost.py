"""What drafting costs: chains of passes, one pass for all positions, and what the host adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from magicplan.errors import UsageError
from magicplan.hardware_specs.calibration import HostFit
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.acceptance import Iid
from magicplan.roofline.deployment import Array, Deployment
from magicplan.roofline.draft_cost import chain_seconds, draft_step
from magicplan.roofline.drafts import DRAFTS, ENGINE_NAMES, Draft, DraftRequest
from magicplan.roofline.speculation import Scene, rounds
from magicplan.roofline.timing import Machine
from tests.shapes import FITTED, IDEAL, LLAMA, SLIDING

SMALL = replace(SLIDING, vocab=LLAMA.vocab)
ASK = DraftRequest(target=LLAMA, small=SMALL)
GAMMAS = np.arange(9.0)


def chains(draft: Draft, machine: Machine = FITTED, batch: float = 1.0) -> Array:
    return chain_seconds(draft, Deployment(), machine, batch, 2048.0, GAMMAS)


def scene(batch: float, machine: Machine) -> Scene:
    one = np.array([[batch]])
    return Scene(
        target=LLAMA, layout=Deployment(), machine=machine, batch=one, sequences=one,
        ctx=np.array([[2048.0]]),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["peagle", "pard", "dflash", "dspark"])
def test_one_pass_drafts_all_positions(name: str) -> None:
    """Weights are read once however many are drafted: eight cost less than twice one."""
    draft = DRAFTS[name].make(ASK)
    seconds = chains(draft)
    assert seconds[0] == 0
    assert (np.diff(seconds) > 0).all()
    assert seconds[8] < 2 * seconds[1]
    assert not draft.grows_trees
    assert draft.note


def test_sequential_heads_pay_a_pass_for_every_position() -> None:
    draft = DRAFTS["eagle3"].make(ASK)
    one = float(draft_step(draft, Deployment(), FITTED, 1.0, 2048.0).seconds)
    assert chains(draft).tolist() == pytest.approx((GAMMAS * one).tolist())


def test_dspark_is_dflash_and_small_steps() -> None:
    block, with_steps = (chains(DRAFTS[name].make(ASK), IDEAL) for name in ("dflash", "dspark"))
    markov = LLAMA.vocab * 256 * 2 / IDEAL.bytes_per_s
    more = with_steps - block
    assert (np.diff(more) > 0.99 * markov).all()


@pytest.mark.parametrize("name", ["suffix", "ngram-mod", "ngram"])
def test_look_up_costs_the_gpu_nothing(name: str) -> None:
    assert (chains(DRAFTS[name].make(ASK)) == 0).all()


def test_pard_needs_a_model() -> None:
    with pytest.raises(UsageError, match="smaller model"):
        DRAFTS["pard"].make(DraftRequest(target=LLAMA))


def test_names_of_engines_are_names_of_ours() -> None:
    assert set(ENGINE_NAMES.values()) <= set(DRAFTS)
    assert not set(ENGINE_NAMES) & set(DRAFTS)
    assert all(name == name.lower() for name in ENGINE_NAMES)


def test_a_round_pays_the_host_by_batch_and_by_mapped_steps() -> None:
    """1 ms a round, 0.5 ms times the root of the other 16 sequences, 0.2 ms a mapped step."""
    host = HostFit(round_seconds=1e-3, round_batch_seconds=5e-4, own_vocabulary_seconds=2e-4)
    machine = replace(IDEAL, calibration=replace(ideal(), host=host))
    always = Iid(alpha=1.0, origin="t")
    for name, steps in (("eagle", 0.0), ("eagle3", 3 * 2e-4)):
        draft = DRAFTS[name].make(ASK)
        paid, free = (rounds(scene(17.0, m), draft, always, 3) for m in (machine, IDEAL))
        more = paid.round_seconds - free.round_seconds
        assert more[0, 0, 0] == 0
        own = steps if draft.own_vocabulary else 0.0
        assert more[0, 0, 3] == pytest.approx(1e-3 + 4 * 5e-4 + own)
        alone = rounds(scene(1.0, machine), draft, always, 3).overhead_seconds
        assert alone[0, 0, 3] == pytest.approx(1e-3)


def test_no_length_beyond_the_measured_one_is_asked_about() -> None:
    known, stated = (Iid(alpha=1.0, origin="t", measured=n) for n in (2, 0))
    assert (known.longest(8), known.longest(1), stated.longest(8)) == (2, 1, 8)
