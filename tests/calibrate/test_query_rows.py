"""Whether a kernel packs query rows: told by rows of a table, used by verification."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan import hardware_specs
from magicplan.calibrate.groups import Group, complete, document, fit_groups
from magicplan.calibrate.kernel_fit import attention_seconds_of, fit_attention
from magicplan.calibrate.kernel_tables import Columns, KernelTables, where
from magicplan.calibrate.kernel_tables import read as read_tables
from magicplan.calibrate.query_rows import RowRatio, row_ratio
from magicplan.hardware_specs.calibration import AttentionFit, Calibration
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.timing import Machine, op_seconds
from magicplan.roofline.traffic import Pass, forward
from tests.calibrate.test_groups import KERNELS
from tests.shapes import LLAMA


def rows(share: float, noise: float = 0.01) -> Columns:
    """Cold decode attention of 1 to 32 query heads a KV head, made with a known share."""
    cells = [
        (batch, kv_heads, sharing, kv_len)
        for batch in (8.0, 32.0, 128.0) for kv_heads in (4.0, 8.0)
        for sharing in (1.0, 4.0, 8.0, 32.0) for kv_len in (8192.0, 32768.0, 65536.0)
    ]  # fmt: skip
    batch, kv_heads, sharing, kv_len = np.asarray(cells).T
    found: Columns = {
        "batch": batch, "kv_heads": kv_heads, "q_heads": kv_heads * sharing, "kv_len": kv_len,
        "head_dim": np.full(len(batch), 128.0), "window": np.zeros(len(batch)),
    }  # fmt: skip
    made = AttentionFit(
        launch_seconds=9e-6, wave_seconds=1e-6, memory_efficiency=0.9, compute_efficiency=0.7,
        sharpness=4.0, reread_share=share,
    )  # fmt: skip
    machine = Machine(accelerator=hardware_specs.load("h100"), calibration=with_attention(made))
    scatter = np.exp(noise * np.random.default_rng(3).standard_normal(len(batch)))
    return found | {"seconds": attention_seconds_of(found, machine, "bf16") * scatter}


def with_attention(fit: AttentionFit) -> Calibration:
    return replace(ideal(), name="made", attention={"bf16": fit})


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_read_again_is_found(share: float) -> None:
    table = rows(share)
    wide = row_ratio(table)
    assert wide is not None
    assert (wide.few, wide.many, wide.pairs) == (4, 32, 18)
    assert (wide.reread_share > 0.1) == (share > 0)
    form = fit_attention(table, hardware_specs.load("h100"), "bf16", 0.7).form
    assert form.reread_share == pytest.approx(share, abs=0.05)
    assert form.memory_efficiency == pytest.approx(0.9, rel=0.04)


def test_pairs_alone_count() -> None:
    table = rows(0.0)
    few = where(table, table["q_heads"] <= table["kv_heads"])
    assert row_ratio(few) is None
    two = where(table, (table["q_heads"] / table["kv_heads"] == 4) | (np.arange(72) % 24 == 23))
    assert row_ratio(two) is None  # three pairs


def test_a_ratio_beyond_what_rereading_explains_is_all_of_it() -> None:
    assert RowRatio(few=4, many=32, ratio=9.0, pairs=5).reread_share == 1.0
    assert RowRatio(few=4, many=32, ratio=1.0, pairs=5).reread_share == 0.0
    assert RowRatio(few=4, many=32, ratio=0.9, pairs=5).reread_share == 0.0


def attention_of(work: Pass, share: float) -> float:
    fit = AttentionFit(reread_share=share)
    machine = Machine(accelerator=hardware_specs.load("h100"), calibration=with_attention(fit))
    ops = [op for op in forward(LLAMA, Deployment(), work) if op.kind == "attention"]
    return sum(float(op.count) * float(op_seconds(op, machine)) for op in ops)


def test_a_kernel_that_packs_nothing_reads_once_a_head_and_token() -> None:
    """At a long context, where the cache is all that counts: 4 heads share a KV head here."""
    sharing = LLAMA.q_heads / LLAMA.kv_heads
    one, five = (Pass(batch=1.0, ctx=1e6, query_tokens=tokens) for tokens in (1.0, 5.0))
    once = attention_of(one, 0.0)
    assert attention_of(one, 1.0) == pytest.approx(sharing * once, rel=1e-3)
    assert attention_of(five, 1.0) == pytest.approx(5 * sharing * once, rel=1e-3)
    assert attention_of(five, 0.0) == pytest.approx(once, rel=1e-3)
    half = 1 + 0.5 * (5 * sharing - 1)
    assert attention_of(five, 0.5) == pytest.approx(half * once, rel=1e-3)


def test_asked_passes_take_the_place_of_calibrated_tokens_and_leave_heads() -> None:
    sharing = LLAMA.q_heads / LLAMA.kv_heads
    packed = Pass(batch=1.0, ctx=1e6, query_tokens=5.0, kv_passes=1.0)
    once = attention_of(replace(packed, query_tokens=1.0), 0.0)
    assert attention_of(packed, 1.0) == pytest.approx(sharing * once, rel=1e-3)
    assert attention_of(replace(packed, kv_passes=3.0), 0.0) == pytest.approx(3 * once, rel=1e-3)


@pytest.fixture(scope="module")
def group() -> Group:
    (found,) = fit_groups(read_tables(KERNELS))
    return found


def test_nobody_borrows_a_kernel_that_reads_again(group: Group) -> None:
    kind = "attention.bf16"
    slow = replace(group.fits[kind], form=replace(group.fits[kind].form, reread_share=0.9))
    fault = replace(group, version="1.3.0", fits={**group.fits, kind: slow})
    newer = replace(group, version="1.4.0", fits={k: v for k, v in group.fits.items() if k != kind})
    assert complete(newer, [group, fault, newer])[kind][1] == group.name
    assert complete(fault, [group, fault, newer])[kind][1] == fault.name
    assert kind not in complete(newer, [fault, newer])


def test_a_slow_fallback_is_a_kernel_and_other_suspects_are_not(tables: KernelTables) -> None:
    from magicplan.calibrate.kernel_tables import _normal

    columns: dict[str, Any] = {name: c.copy() for name, c in tables.attention.items()}
    columns["kv_dtype"] = np.full(len(columns["batch"]), "bfloat16", dtype=object)
    columns["suspect"] = np.full(len(columns["batch"]), "", dtype=object)
    columns["suspect"][:3] = ["slow_fallback", "kv_aliased", "broken"]
    assert len(_normal(columns)["batch"]) == len(columns["batch"]) - 2


@pytest.fixture(name="tables", scope="module")
def _tables() -> KernelTables:
    return read_tables(KERNELS)


def test_predict_uses_the_calibrated_passes_and_says_from_where(
    group: Group, tmp_path: Any
) -> None:
    import tomli_w

    data = document(group, [group], "t")
    data["evidence"][2] |= {
        "query_rows": 32.0, "query_rows_few": 4.0, "query_rows_ratio": 1.04, "query_rows_pairs": 9,
    }  # fmt: skip
    ask: dict[str, Any] = {"gpu": "h100", "batch": 16, "ctx": 32768, "acceptance": "0.8"}

    def answer(**more: Any) -> Any:
        path = tmp_path / "own.toml"
        path.write_text(tomli_w.dumps(data))
        return mp.predict(**ask, stack=str(path), **more)

    packed = answer()
    said = [line for line in packed.assumptions if line.startswith("verify KV passes")]
    assert said == [
        "verify KV passes 1: the kernel packs a sequence's query tokens and reads its KV once (32 "
        "query rows a KV head take 1.04 times as long as 4 in the tables of h100-sxm_vllm_1.2.3)"
    ]
    data["evidence"] = []
    (line,) = (line for line in answer().assumptions if line.startswith("verify KV passes"))
    assert line.endswith("reads its KV once, assumed")
    data["attention"]["bf16"]["reread_share"] = 1.0
    slow = answer()
    assert slow.gammas[4].verify_seconds > 3 * slow.baseline.step_seconds
    assert slow.best.gamma == 0
    (line,) = (line for line in slow.assumptions if line.startswith("verify KV passes"))
    assert "reads 1.00 of a KV head's cache over again" in line
    assert any("the verdict turns with a kernel that packs" in line for line in slow.assumptions)
    asked = answer(verify_kv_passes=1)
    assert asked.gammas[4].verify_seconds < 1.2 * asked.baseline.step_seconds
    assert asked.baseline.step_seconds == slow.baseline.step_seconds
    assert asked.ideal.step_seconds == packed.ideal.step_seconds


def test_eager_is_said_and_costs_time_where_ranks_meet(group: Group, tmp_path: Any) -> None:
    import tomli_w

    path = tmp_path / "own.toml"
    path.write_text(tomli_w.dumps(document(group, [group], "t")))
    ask: dict[str, Any] = {"gpu": "h100", "tp": 8, "gpus": 8, "stack": str(path)}
    graphs, eager = mp.predict(**ask), mp.predict(**ask, eager=True)
    sums = 2 * graphs.scene.target.layers
    least = graphs.scene.machine.calibration.collective.eager_seconds
    assert eager.baseline.collective_seconds == pytest.approx(sums * least)
    assert eager.baseline.collective_seconds > graphs.baseline.collective_seconds
    assert eager.baseline.linear_seconds == graphs.baseline.linear_seconds
    assert any("inside CUDA graphs, as every" in line for line in graphs.assumptions)
    assert any("launched by the host (--eager)" in line for line in eager.assumptions)
    ideal_eager = mp.predict(**(ask | {"stack": "ideal"}), eager=True)
    assert any("--eager changes nothing" in line for line in ideal_eager.assumptions)
    alone = mp.predict(gpu="h100", stack=str(path), eager=True)
    assert not any("collectives" in line for line in alone.assumptions)
