"""Published load tests through the path that plans use: time per token, to the first one, rates.

`predicted` is the whole seam: whatever serves plans answers there.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from magicplan.prediction.request import Request
from magicplan.replay.harnesses import prefill_share, streamed_rounds
from magicplan.replay.published import Case, ServedRun
from magicplan.roofline.timing import Machine
from magicplan.serving.benchmark_run import Run, expect
from magicplan.serving.lengths import Lengths

INFERENCEMAX = re.compile(r"^\d{4}_\d\d_\d\d_|_cfg\d+$|_gap_analysis_")
"""Identifiers of InferenceMAX runs."""
WAVES = 10.0
"""Requests that their harness sends for each that it keeps in flight. The rows do not say: it is
what their time to first token and the share of prefill in their time per token agree on."""
SPREAD = np.random.default_rng(0).permutation(np.linspace(0.8, 1.2, 64))
"""Lengths over their mean of the requests that stand for a run. Rows state one length, but requests
that all ended in one step would bring their prompts in one too, wave after wave; InferenceMAX draws
lengths within 20 % (its `random_range_ratio`), and steps of other harnesses do not stay in line."""


def predicted(case: Case, run: ServedRun, machine: Machine | None = None) -> dict[str, float]:
    """Means of a load test by kind, as `ServedRun.measured`; by another machine than the case's
    own if one is given. Raises UsageError, DoesNotFit."""
    options = {k: v for k, v in case.ask.items() if k not in ("batch", "ctx")}
    stack = str(options["stack"])
    requests = run.requests or run.concurrency * waves(case.id, stack)
    limits: dict[str, Any] = {
        "batched_tokens": run.batched_tokens, "max_sequences": run.max_sequences,
    }  # fmt: skip
    figures = expect(
        Run(
            ask=Request(**options),
            lengths=Lengths(
                prompt=np.full(len(SPREAD), run.prompt_tokens),
                output=np.maximum(np.rint(run.output_tokens * SPREAD), 1.0),
            ),
            concurrency=run.concurrency,
            prompts=requests,
            **{name: value for name, value in limits.items() if value},
        ),
        machine,
    ).figures()
    tpot = figures["tpot_mean_seconds"]
    return {
        "tpot": tpot,
        "ttft": figures["ttft_mean_seconds"] + streamed_rounds(stack) * tpot,
        "itl": figures["itl_mean_seconds"],
        "rate": figures["requests_per_s"],
    }


def waves(name: str, stack: str) -> float:
    """How many requests a run sends for each that it keeps in flight.

    InferenceMAX is taken to send ten (see WAVES). Of other harnesses it is not known; what the
    stack's rows show of their neighbours' prompts tells it: of w waves, the first replaces nobody,
    so that a share 1 - 1 / (2 w) of the prompts is met.
    """
    if INFERENCEMAX.search(name):
        return WAVES
    return min(max(1 / max(2 * (1 - prefill_share(stack)), 1e-3), 1.0), WAVES)
