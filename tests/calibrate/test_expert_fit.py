"""Grouped products and prompts' attention: constants are found again in tables made by them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from magicplan import hardware_specs
from magicplan.calibrate.expert_fit import (
    expert_op,
    experts_seconds_of,
    fit_experts,
    fit_prefill,
    prefill_seconds_of,
    prompt_op,
)
from magicplan.calibrate.expert_tables import read_experts, thinned
from magicplan.calibrate.kernel_tables import Columns
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.calibration import ExpertFit, LinearFit, PrefillFit
from magicplan.hardware_specs.transfer import ideal
from magicplan.roofline.timing import Machine

H100 = hardware_specs.load("h100-sxm")
KNOWN = ExpertFit(
    launch_seconds=40e-6, expert_seconds=0.2e-6, memory_efficiency=0.9, compute_efficiency=0.5,
    sharpness=1.0, activation_passes=2.0, idle_share=1.0,
)  # fmt: skip


def experts(form: ExpertFit, noise: float = 0.0) -> Columns:
    """Two shapes over tokens and degrees of both kinds, as long as the form says."""
    shapes = itertools.product(
        ((4096, 14336, 8, 2), (7168, 2048, 256, 8), (4096, 1536, 128, 8)),
        (1, 2, 8, 32, 128, 512, 2048, 8192), ((1, 1), (4, 1), (1, 4), (1, 8)),
    )  # fmt: skip
    rows = []
    for (hidden, ffn, count, top), tokens, (tp, ep) in shapes:
        active = min(tokens * top, count) / ep
        pairs = tokens * top / ep
        rows.append((tokens, hidden, ffn, top, count, tp, ep, active, pairs, 6 * hidden * ffn / tp))
    names = ("tokens", "hidden", "expert_ffn", "top_k", "experts", "tp", "ep", "active_experts",
             "rank_pairs", "expert_weight_bytes")  # fmt: skip
    table = dict(zip(names, np.asarray(rows, dtype=np.float64).T, strict=True))
    machine = Machine(accelerator=H100, calibration=replace(ideal(), experts={"bf16": form}))
    seconds = experts_seconds_of(table | {"seconds": np.ones(len(rows))}, machine, "bf16")
    scatter = np.exp(noise * np.random.default_rng(3).standard_normal(len(rows)))
    return table | {"seconds": seconds * scatter}


def test_constants_of_experts_are_found_again() -> None:
    found = fit_experts(experts(KNOWN), H100, "bf16", LinearFit(compute_efficiency=0.8))
    for name in ("launch_seconds", "expert_seconds", "memory_efficiency", "activation_passes"):
        assert getattr(found.form, name) == pytest.approx(getattr(KNOWN, name), rel=0.02), name
    assert (found.form.idle_share, found.form.sharpness) == (1.0, 1.0)
    assert found.held_out.mape < 0.5 < found.naive.mape


def test_experts_never_multiply_better_than_single_products() -> None:
    found = fit_experts(experts(KNOWN), H100, "bf16", LinearFit(compute_efficiency=0.3))
    assert found.form.compute_efficiency == 0.3


def test_a_table_that_follows_another_form_is_refused() -> None:
    with pytest.raises(UsageError, match=r"another form|naive roofline|beat the datasheet"):
        fit_experts(experts(KNOWN, noise=1.5), H100, "bf16", LinearFit())


def test_all_pairs_are_passed_over_where_the_kernel_says_so() -> None:
    rows = experts(KNOWN)
    apart = rows["ep"] > 1
    idle = expert_op(rows, "bf16").idle_bytes
    assert (idle[apart] > 0).all()
    assert not idle[~apart].any()


def prompts(form: PrefillFit) -> Columns:
    cells = list(itertools.product((1, 4), (256, 1024, 4096, 16384), ((32, 8), (8, 1), (64, 8))))
    tokens = np.asarray([t for _, t, _ in cells], dtype=np.float64)
    batch = np.asarray([b for b, _, _ in cells], dtype=np.float64)
    table = {
        "batch": np.repeat(batch, 2), "new_tokens": np.repeat(tokens, 2),
        "q_heads": np.repeat([float(h) for _, _, (h, _) in cells], 2),
        "kv_heads": np.repeat([float(k) for _, _, (_, k) in cells], 2),
        "head_dim": np.full(2 * len(cells), 128.0), "window": np.zeros(2 * len(cells)),
        "pairs_per_head": np.repeat(batch * tokens * (tokens + 1) / 2, 2),
    }  # fmt: skip
    machine = Machine(accelerator=H100, calibration=replace(ideal(), prefill={"bf16": form}))
    table["seconds"] = np.ones(2 * len(cells))
    return table | {"seconds": prefill_seconds_of(table, machine, "bf16")}


def test_constants_of_prompts_are_found_again() -> None:
    known = PrefillFit(
        launch_seconds=10e-6, memory_efficiency=0.6, compute_efficiency=0.8, sharpness=1.0,
        score_flops=128.0,
    )  # fmt: skip
    found = fit_prefill(prompts(known), H100, "bf16")
    assert found.form.launch_seconds == pytest.approx(10e-6, rel=0.02)
    assert found.form.compute_efficiency == pytest.approx(0.8, rel=0.02)
    assert found.held_out.mape < 0.5


def test_a_prompt_counts_every_causal_pair() -> None:
    rows = prompts(PrefillFit())
    op = prompt_op(rows, "bf16")
    assert op.flops == pytest.approx(4 * rows["q_heads"] * 128 * rows["pairs_per_head"])


def test_thinning_keeps_small_groups_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicplan.calibrate.expert_tables.MOST_ROWS", 10)
    groups = np.repeat(np.asarray(["a", "b"], dtype=object), [35, 7])
    kept = thinned({"gpu": groups, "seconds": np.arange(42.0)}, ("gpu",))
    assert [(kept["gpu"] == name).sum() for name in "ab"] == [10, 7]
    assert kept["seconds"][0] == 0


def table_file(folder: Path, **changes: object) -> Path:
    row = {
        "gpu": "h100_sxm", "framework": "vllm", "version": "0.19.0", "quant": "bfloat16",
        "kernel_source": "fused", "distribution": "balanced", "gated": True, "l2_risk": False,
        "suspect": "", "tokens": 4, "hidden": 4096, "expert_ffn": 1536, "top_k": 8, "experts": 128,
        "tp": 1, "ep": 1, "active_experts": 32.0, "rank_pairs": 32.0,
        "expert_weight_bytes": 37748736, "latency_us": 500.0,
    } | changes  # fmt: skip
    path = folder / "moe.parquet"
    parquet.write_table(pa.table({k: [v] for k, v in row.items() if v is not None}), path)
    return path


def test_rows_that_no_fit_may_see_are_left_out(tmp_path: Path) -> None:
    assert len(read_experts(table_file(tmp_path))["seconds"]) == 1
    for change in (
        {"l2_risk": True}, {"suspect": "over_peak"}, {"gated": False}, {"tokens": 65536},
        {"tp": 16}, {"quant": "w4afp8"}, {"framework": "other"},
    ):  # fmt: skip
        assert not len(read_experts(table_file(tmp_path, **change))["seconds"]), change


def test_a_bad_table_of_experts_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no column tokens"):
        read_experts(table_file(tmp_path, tokens=None))
    with pytest.raises(SpecError, match="latency_us holds what is not a positive number"):
        read_experts(table_file(tmp_path, latency_us=-1.0))
