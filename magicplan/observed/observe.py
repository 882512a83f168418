"""A running server beside its prediction: what differs, the host constants that explain it, and
what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from magicplan.errors import SpecError, UsageError
from magicplan.observed.advice import advice, doubts, refuse_others
from magicplan.observed.files import read_observed
from magicplan.observed.host_fit import calibration_toml, fitted
from magicplan.observed.run import ObservedRun
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Candidate, Observation, ObservedFigure
from magicplan.planning.search import acceptance_of
from magicplan.prediction.request import Request
from magicplan.serving.benchmark_run import Expected, Run, expect


def observe(
    path: Path | str,
    ask: PlanRequest,
    server: Candidate,
    stated: Mapping[str, float] | None = None,
) -> Observation:
    """A benchmark of one replica of `server`, as the plan describes it, beside its prediction.

    `stated` adds facts that the tool does not write, such as {"prompt": 1024}. The fit takes as
    many tokens a round as the run had, where the file says. Raises SpecError, also for a run of
    another model or stack, and for one that speculated where `server` does not.
    """
    seen = read_observed(Path(path), stated)
    refuse_others(ask, server, seen)
    run = _run(ask, server, seen)
    before = _expected(run, seen)
    as_accepted, accepted = _as_accepted(run, server, seen)
    machine = fitted(as_accepted, before, seen)
    after = expect(as_accepted, machine)
    predicted, refitted = before.figures(), after.figures()
    figures = tuple(
        ObservedFigure(
            figure=name,
            unit="seconds" if name.endswith("seconds") else name.rpartition("_per_")[0] + "/s",
            observed=value,
            predicted=predicted[name],
            error=predicted[name] / value - 1,
            refitted=refitted[name],
        )
        for name, value in seen.figures.items()
        if name in predicted and value > 0
    )
    return Observation(
        file=str(path),
        tool=seen.tool,
        server=server.name,
        concurrency=before.users or before.outcome.decoding,
        figures=figures,
        calibration_toml=calibration_toml(machine.calibration),
        advice=(
            *doubts(ask, server, seen, before),
            *advice(ask, server, seen, before, machine, accepted),
        ),
    )


def _expected(run: Run, seen: ObservedRun) -> Expected:
    """The prediction. Raises SpecError naming the file where nothing like it can run."""
    try:
        return expect(run)
    except UsageError as problem:
        prompt, output = (float(x.mean()) for x in (seen.lengths.prompt, seen.lengths.output))
        raise SpecError(
            seen.path, f"{problem} (requests of {prompt:.0f} + {output:.0f} tokens)"
        ) from None


def _run(ask: PlanRequest, server: Candidate, seen: ObservedRun) -> Run:
    draft, _, view = server.draft.partition(" ")
    question = Request(
        gpu=server.gpu, model=ask.model, tp=server.tp, pp=server.pp, ep=server.ep,
        attention_dp=server.attention_dp, dtype=_plain(server.dtype),
        kv_dtype=_plain(server.kv_dtype), stack=ask.engine.stack, draft=draft,
        draft_kv=view or None,
        acceptance=acceptance_of(ask, server.draft), task=ask.choices.task,
        max_gamma=max(ask.choices.max_gamma, 0 if server.tree else server.gamma),
        memory_fraction=ask.engine.memory_fraction, verify_kv_passes=ask.engine.verify_kv_passes,
    )  # fmt: skip
    return Run(
        ask=question,
        lengths=seen.lengths,
        concurrency=seen.concurrency,
        requests_per_s=seen.requests_per_s,
        arrival_cv2=seen.arrival_cv2,
        prompts=seen.prompts,
        batched_tokens=ask.engine.batched_tokens,
        max_sequences=ask.engine.max_sequences,
        prefix_hit_rate=seen.prefix_hit_rate,
        gamma=server.gamma or None,
        depth=server.tree.depth - 1 if server.tree else None,
    )


def _plain(dtype: str) -> str | None:
    return None if dtype in ("bf16", "fp16") else dtype


def _as_accepted(run: Run, server: Candidate, seen: ObservedRun) -> tuple[Run, str]:
    """The run with the acceptance that emits as many tokens a round as were seen, and that
    acceptance as `--acceptance` takes it; the run itself and "" where the file does not say.

    Raises SpecError for more tokens than rounds of this draft length emit.
    """
    if not seen.tokens_per_round or not server.gamma:
        return run, ""
    if seen.tokens_per_round > server.gamma + 1:
        raise SpecError(
            seen.path,
            f"{seen.round_field} is {seen.tokens_per_round:g}, but {server.name} emits at most "
            f"{server.gamma + 1} tokens a round: plan with the draft and the length that ran",
        )
    powers = np.linspace(0.0, 1.0, 10_001)[:, None] ** np.arange(server.gamma + 1)
    rate = float(np.interp(seen.tokens_per_round, powers.sum(axis=1), powers[:, 1]))
    text = f"{rate:.4f}"
    return replace(run, ask=replace(run.ask, acceptance=text)), text
