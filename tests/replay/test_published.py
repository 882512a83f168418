"""Published results that the formulas must reproduce."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from magicplan.roofline.acceptance import Iid, tokens_per_round

# MagicDec, ICLR 2025 camera-ready (arXiv 2408.11049v5), Tables 1, 3(a), 3(c) and 4, own backend:
# GPUs, Omega, target step, all draft steps of a round, verification, time a token; milliseconds
MAGICDEC = [
    ('8xA100', 2.19, 8.27, 8.21, 9.55, 8.7),
    ('8xA100', 2.19, 9.41, 8.46, 10.66, 9.33),
    ('8xA100', 2.19, 10.83, 9.26, 13.05, 10.8),
    ('8xA100', 2.19, 14.02, 12.04, 18.87, 14.83),
    ('8xA100', 2.19, 11.89, 8.46, 13.21, 10.52),
    ('8xA100', 2.19, 14.39, 8.71, 16.19, 12.02),
    ('8xA100', 2.19, 19.28, 9.35, 21.83, 14.88),
    ('8xA100', 2.19, 28.77, 12.31, 33.82, 21.78),
    ('8xA100', 2.18, 16.53, 8.61, 18.4, 13.02),
    ('8xA100', 2.18, 21.45, 8.91, 23.67, 15.58),
    ('8xA100', 2.18, 31.49, 9.58, 34.32, 20.8),
    ('8xA100', 2.18, 49.89, 12.54, 53.78, 31.25),
    ('8xA100', 2.17, 26.28, 8.78, 27.79, 17.46),
    ('8xA100', 2.18, 35.83, 9.33, 38.29, 22.52),
    ('8xA100', 2.17, 55.08, 9.92, 58.14, 31.99),
    ('8xA100', 2.16, 35.7, 8.68, 37.57, 22.05),
    ('8xA100', 2.17, 44.94, 8.83, 47.35, 26.55),
    ('8xA100', 2.54, 8.83, 13.16, 10.32, 9.78),
    ('8xA100', 2.54, 10.07, 16.48, 13.55, 12.36),
    ('8xA100', 2.54, 13.42, 23.41, 19.77, 17.7),
    ('8xA100', 2.53, 23.23, 39.29, 35.05, 30.46),
    ('8xA100', 2.5, 9.9, 13.28, 11.34, 10.4),
    ('8xA100', 2.51, 14.16, 16.98, 16.06, 13.72),
    ('8xA100', 2.51, 18.53, 23.59, 24.84, 19.97),
    ('8xA100', 2.51, 35.35, 39.32, 46.44, 34.99),
    ('8xA100', 2.47, 11.93, 14.46, 14.0, 12.1),
    ('8xA100', 2.48, 17.17, 18.0, 21.15, 16.4),
    ('8xA100', 2.46, 28.0, 25.77, 34.82, 25.36),
    ('8xA100', 2.46, 17.13, 14.12, 19.04, 14.05),
    ('8xA100', 2.45, 26.99, 19.08, 30.86, 21.03),
    ('8xA100', 2.45, 47.24, 28.26, 54.98, 34.94),
    ('8xA100', 2.4, 26.96, 14.92, 28.88, 18.91),
    ('8xA100', 2.4, 46.09, 18.25, 50.19, 29.22),
    ('8xA100', 2.45, 37.7, 15.1, 39.84, 23.05),
    ('8xL40', 3.0, 36.62, 44.11, 45.12, 30.32),
    ('8xL40', 2.53, 35.13, 29.06, 42.02, 28.7),
    ('8xL40', 3.14, 62.92, 58.33, 74.85, 42.96),
    ('4xH100', 2.82, 17.32, 15.09, 18.3, 12.16),
    ('4xH100', 2.98, 14.85, 14.2, 15.64, 10.29),
    ('4xH100', 3.37, 26.17, 23.63, 27.9, 15.58),
    ('8xH100', 3.42, 6.41, 10.96, 6.91, 5.41),
    ('8xH100', 4.1, 9.23, 16.69, 10.39, 6.75),
    ('8xH100', 4.59, 14.85, 23.96, 17.45, 9.17),
]  # fmt: skip
SYSTEMS = sorted({row[0] for row in MAGICDEC})


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_round_is_drafts_and_verification_and_one_constant(system: str) -> None:
    """With one overhead a system, every row's time a token holds within 2 %."""
    rows = [row[1:] for row in MAGICDEC if row[0] == system]
    overhead = statistics.median(
        token * omega - draft - verify for omega, _, draft, verify, token in rows
    )
    assert 0.3 < overhead < 3
    for omega, _, draft, verify, token in rows:
        assert (draft + verify + overhead) / omega == pytest.approx(token, rel=0.02)


@pytest.mark.parametrize("system", SYSTEMS)
def test_without_the_overhead_every_row_is_too_fast(system: str) -> None:
    for omega, _, draft, verify, token in (row[1:] for row in MAGICDEC if row[0] == system):
        assert 0.93 < (draft + verify) / omega / token < 0.99


def test_triforce_from_its_stage_latencies() -> None:
    """TriForce (arXiv 2404.11912), Llama-2-7B-128K at 122K on one A100: .45 ms a draft step, 14 ms
    a retrieval step, 56 ms a target step; published 2.31x at gamma1 = 2, gamma2 = 6.

    The stages alone promise 3.5x: what is missing is in docs/residuals.md, and nothing is tuned
    to hide it.
    """
    middle = float(tokens_per_round(Iid(alpha=0.63, origin="68M draft").survival(2, 1.0))[-1])
    outer = float(tokens_per_round(Iid(alpha=0.9649, origin="Table 6").survival(6, 1.0))[-1])
    token = (2 * 0.45 + 14) / middle
    speedup = 56 * outer / (6 * token + 56)
    assert speedup == pytest.approx(3.51, abs=0.02)
    assert speedup > 2.31
    # published speedup implies this much time a round beyond the stages
    missing = 56 * outer / 2.31 - (6 * token + 56)
    assert missing == pytest.approx(52, abs=1.5)
    assert np.isfinite(missing)
