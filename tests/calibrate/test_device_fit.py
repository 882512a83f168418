"""Fitting a device: a machine whose constants are known is found again, beyond its data too."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import magicplan as mp
from magicplan.calibrate.device_fit import (
    DeviceFit,
    drafting_seconds,
    fit_all_reduce,
    fit_device,
    kv_passes,
    target_seconds,
)
from magicplan.errors import UsageError
from magicplan.roofline.timing import Machine, all_reduce_time
from magicplan.validate.device_files import accelerator_data, accelerator_of, write_tomls
from tests.validate import runs

FAR = np.array([[1.0, 32768.0], [4.0, 16384.0], [8.0, 4096.0], [16.0, 4096.0]]).T
"""Up to 4 times longer and 8 times wider than the calibration."""


def fit(records: list[dict[str, Any]]) -> DeviceFit:
    measured = [(runs.SUBJECT, records)]
    return fit_device("fit", "test", measured, runs.accelerator(), runs.LAUNCH)


@pytest.mark.parametrize(("noise", "within"), [(0.0, 0.03), (0.02, 0.10)])
def test_predicts_longer_and_wider_workloads(noise: float, within: float) -> None:
    fitted = fit(runs.records(noise))
    truth = Machine(accelerator=runs.accelerator(), calibration=runs.TRUTH)
    found = Machine(accelerator=runs.accelerator(), calibration=fitted.build())
    batch, ctx = FAR
    for tokens in (1.0, 5.0, 9.0):
        query = np.full_like(batch, tokens)
        expected = target_seconds(runs.SUBJECT, truth, batch, ctx, query)
        got = target_seconds(runs.SUBJECT, found, batch, ctx, query)
        assert np.abs(got / expected - 1).max() < within
    ratio = drafting_seconds(runs.SUBJECT, found, batch, ctx) / drafting_seconds(
        runs.SUBJECT, truth, batch, ctx
    )
    assert np.abs(ratio - 1).max() < 2 * within
    assert found.calibration.host.round_seconds == pytest.approx(1e-3, rel=0.5 if noise else 0.01)


def test_one_wild_record_does_not_bend_the_fit() -> None:
    records = runs.records()
    wild = next(r for r in records if r["kind"] == "target" and r["query_tokens"] == 9)
    wild["seconds"] *= 3
    fitted = fit(records)
    truth = Machine(accelerator=runs.accelerator(), calibration=runs.TRUTH)
    found = Machine(accelerator=runs.accelerator(), calibration=fitted.build())
    batch, ctx = FAR
    one = np.ones_like(batch)
    ratio = target_seconds(runs.SUBJECT, found, batch, ctx, one) / target_seconds(
        runs.SUBJECT, truth, batch, ctx, one
    )
    assert np.abs(ratio - 1).max() < 0.1


def test_no_fit_beats_the_device() -> None:
    """Records faster than the measured peaks end at efficiency 1, never above."""
    records = [r | {"seconds": r["seconds"] / 50} for r in runs.records()]
    fitted = fit(records)
    assert fitted.build().linear["bf16"].memory_efficiency <= 1
    assert fitted.errors.bias > 50


def test_kv_passes_are_slopes_over_context() -> None:
    rows = [
        (b, s, t, 1e-3 + 1e-8 * b * s * (1 + 0.1 * (t - 1)))
        for b in (1, 2) for s in (512, 8192) for t in (1, 5, 16)
    ]  # fmt: skip
    from magicplan.calibrate.device_fit import _Columns

    found = kv_passes(_Columns(*np.asarray(rows, dtype=np.float64).T))
    assert found == pytest.approx({1: 1.0, 5: 1.4, 16: 2.5})


def test_too_few_records_are_refused() -> None:
    short = [r for r in runs.records() if r["ctx_tokens"] == 512]
    with pytest.raises(UsageError, match="1 contexts"):
        fit(short)


def test_a_measured_cpu_is_an_accelerator_with_any_ridge() -> None:
    slow = runs.CEILINGS | {"matrix_flops_per_s": {"bf16": 20e9, "fp32": 80e9}}
    found = accelerator_of(runs.DEVICE, slow)
    assert found.memory_bytes_per_s == 40e9
    assert (found.units, found.unit_kind, found.l2_bytes) == (1, "thread", 32e6)
    assert found.dense_flops_per_s["fp32"] == 80e9


def test_a_known_gpu_keeps_its_datasheet() -> None:
    device = runs.DEVICE | {"device": "cuda", "name": "NVIDIA H200"}
    assert accelerator_of(device, runs.CEILINGS).name == "h200-sxm"
    other = runs.DEVICE | {"device": "cuda", "name": "Nobody's GPU", "units": 10}
    assert accelerator_data(other, runs.CEILINGS)["name"] == "measured-nobody-s-gpu"


def test_the_tomls_serve_predict(tmp_path: Path) -> None:
    run = runs.run()
    paths = write_tomls(tmp_path, run)
    calibration = next(p for p in paths if p.name == "fitted.toml")
    assert tomllib.loads(calibration.read_text())["attention"]["bf16"]["sharpness"] >= 1.0
    device = accelerator_data(runs.DEVICE, runs.CEILINGS)
    named = runs.device_fit(f"{device['name']}_magicplan-torch")
    run.prediction = {"content": {"calibration": named.calibration}}
    paths = write_tomls(tmp_path, run)
    gpu = next(p for p in paths if "_magicplan" not in p.name)
    stack = next(p for p in paths if "_magicplan" in p.name)
    told = mp.predict(gpu=str(gpu), stack=str(stack), model="llama-3.2-1b", ctx=2048)
    assert told.baseline.step_seconds > 2.5e9 / 40e9


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_sums_over_ranks_are_a_start_and_a_rate(ranks: int) -> None:
    size = 4.0 ** np.arange(5, 13)
    seconds = 4e-5 + 2 * (ranks - 1) / ranks * size / 0.6e10
    messages = np.stack([size, seconds], axis=1).tolist()
    machine = accelerator_of(runs.DEVICE, runs.CEILINGS | {"all_reduce": messages, "ranks": ranks})
    assert machine.link_domain == ranks
    fit = fit_all_reduce(messages, ranks, machine)
    assert machine.link_bytes_per_s is not None
    found = all_reduce_time(fit, float(ranks), size / machine.link_bytes_per_s)
    assert found == pytest.approx(seconds, rel=0.02)
    assert fit_all_reduce([], 1, machine).two_shot_seconds == 0
