"""From settings to a session: models in memory, the draft on both sides, the acceptance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magicplan.calibrate.device_fit import Subject
from magicplan.errors import BadQuantity, DoesNotFit, UsageError
from magicplan.kernels import load
from magicplan.kernels.backend import Backend
from magicplan.model_specs.load import presets
from magicplan.prediction.draft_names import parse_view
from magicplan.prediction.tree_files import read_trees
from magicplan.roofline.acceptance import Acceptance, Iid, Ranked
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.drafts import Draft, DraftRequest, model_draft, ngram_draft, self_draft
from magicplan.units import human_bytes
from magicplan.validate.decoder.acceptance import counted, dial, prompts
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.llama_config import load_config
from magicplan.validate.decoder.tensor_parallel import ALONE, Ranks
from magicplan.validate.decoder.transformer import Transformer
from magicplan.validate.measure.bench import DecoderBench, Prompts
from magicplan.validate.measure.cells import memory_for
from magicplan.validate.measure.clock import Effort
from magicplan.validate.measure.environment import memory_bytes
from magicplan.validate.measure.exactness import exactness_gate
from magicplan.validate.measure.grid import Grid, Point, grid_of, parse_gammas
from magicplan.validate.run_file import Settings
from magicplan.validate.session import Session
from magicplan.validate.settings import DTYPES, is_checkpoint

RANKS = 16
"""Children of one node whose acceptance a simulated law gives."""
OBSERVED_AT = (2, 2048)
"""Batch and context at which attention is scaled, or a checkpoint's acceptance is looked at."""
ROUNDS = 32
CACHES = 0.2
"""Share of free memory that a suggested model's weights leave for caches."""
BRIEF: dict[str, Any] = {
    "calibration_effort": Effort(least=3, most=5, seconds=0.1),
    "effort": Effort(least=3, most=5, seconds=0.02),
}
"""For tests: nothing that a tiny grid measures is worth a second."""


def grid_for(settings: Settings) -> Grid:
    """The grid asked for. Raises UsageError, SpecError naming the line of a file."""
    gammas = parse_gammas(settings.gamma) if settings.gamma else None
    trees = read_trees(Path(settings.tree)) if settings.tree else None
    return grid_of(settings.grid, settings.device, gammas=gammas, trees=trees)


def session(settings: Settings, ranks: Ranks = ALONE) -> Session:
    """Everything that a run needs, in memory; of a model that ranks share, this one's part.

    Raises UsageError for what does not go together, DoesNotFit where not even weights fit.
    """
    grid = grid_for(settings)
    _check_contexts(settings, grid)
    _check_text(settings, grid)
    with memory_for("loading the models"):
        bench, acceptance = loaded(settings, grid.points, ranks)
    return Session(
        settings=settings,
        grid=grid,
        bench=bench,
        subject=subject(settings),
        acceptance=acceptance,
        exactness=lambda: exactness_gate(
            bench.backend, settings.device, ranks=ranks, asked=bench.plan.kind
        ),
        ranks=ranks,
        **(BRIEF if settings.grid == "tiny" else {}),
    )


def loaded(
    settings: Settings, points: Sequence[Point], ranks: Ranks = ALONE
) -> tuple[DecoderBench, Acceptance]:
    """The models in memory with their draft, and the acceptance that a prediction rests on."""
    backend = load(settings.backend)
    plan, small_name = draft_plan(settings.draft, settings.draft_kv)
    small = _transformer(small_name, settings, ranks) if small_name else None
    target = _transformer(settings.model, settings, ranks)
    source, _, rate = settings.acceptance.partition(":")
    rates: tuple[float, ...] | None = None
    if source == "simulated":
        acceptance: Acceptance = simulated_law(rate, settings.acceptance)
        width = max((max(p.tree.ranks) + 1 for p in points if p.tree), default=1)
        rates = tuple(float(p) for p in acceptance.ranks(width, np.asarray(1.0)))
    else:
        acceptance = _seen(target, plan, small, backend, settings)
    prompted = _prompts(settings) if source == "checkpoint" else None
    bench = DecoderBench(
        target, backend, plan, small=small, rates=rates, prompts=prompted, seed=settings.seed
    )
    return bench, acceptance


def draft_plan(draft: str, view: str) -> tuple[DraftPlan, str]:
    """How the decoder drafts, and the name of a smaller model ('' for none). Raises UsageError."""
    kind, _, number = view.partition(":")
    if kind not in ("streaming", "snapkv") or not number.isdigit() or int(number) <= 4:
        raise UsageError(
            f"--draft-kv {view}: the decoder runs streaming:N and snapkv:N, N above its 4 sinks"
        )
    budget = int(number)
    if draft == "ngram":
        return DraftPlan(kind="ngram"), ""
    if draft == "self":
        return DraftPlan(kind="self" if kind == "streaming" else "snapkv", budget=budget), ""
    if draft in ("none", "eagle3", "mtp", "medusa", "triforce"):
        raise UsageError(f"--draft {draft}: the decoder runs self, ngram or a smaller model")
    if kind != "streaming":
        raise UsageError(f"--draft-kv {view}: a smaller model keeps streaming:N")
    return DraftPlan(kind="model", budget=budget), draft


def subject(settings: Settings) -> Subject:
    """The same model and draft as the predicting side knows them; loads no weights."""
    plan, small_name = draft_plan(settings.draft, settings.draft_kv)
    target = load_config(settings.model).shape
    small = load_config(small_name).shape if small_name else None
    ask = DraftRequest(target=target, view=parse_view(settings.draft_kv), small=small)
    build: dict[str, Any] = {"ngram": ngram_draft, "model": model_draft}
    draft: Draft = build.get(plan.kind, self_draft)(ask)
    name = settings.dtype
    layout = Deployment(dtype=name, kv_dtype=name, math_dtype=name, tp=float(settings.ranks))
    return Subject(model=target, layout=layout, draft=draft)


def simulated_law(text: str, option: str) -> Acceptance:
    """One rate for every token, or rates by rank of a tree's children: `0.8` or `0.7,0.1,0.05`."""
    try:
        rates = tuple(float(part) for part in text.split(","))
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError
    except ValueError:
        raise BadQuantity(f"--acceptance {option}: expected rates from 0 to 1") from None
    if len(rates) == 1:
        return Iid(alpha=rates[0], origin=option)
    return Ranked(probabilities=rates, origin=option)


def _transformer(name: str, settings: Settings, ranks: Ranks) -> Transformer:
    """Weights of a checkpoint or random ones, once it is known that they fit."""
    config, dtype = load_config(name), DTYPES[settings.dtype]
    bytes_each = dtype.itemsize / ranks.count
    needed, free = config.shape.parameters * bytes_each, memory_bytes(settings.device)
    if needed > free:
        raise DoesNotFit(
            f"the weights of {config.shape.name} take {human_bytes(needed)} in {settings.dtype}, "
            f"{human_bytes(free)} are free on this {settings.device}; "
            f"{largest_preset(free / bytes_each)}"
        )
    if is_checkpoint(name):
        folder = Path(name).expanduser()
        return Transformer.from_checkpoint(
            config, folder, device=settings.device, dtype=dtype, ranks=ranks
        )
    return Transformer.random(
        config, device=settings.device, dtype=dtype, seed=settings.seed, ranks=ranks
    )


def largest_preset(parameters: float) -> str:
    """In words: the largest preset whose weights leave `CACHES` of this many parameters' room."""
    fitting: list[tuple[float, str]] = []
    for name in presets():
        try:
            size = load_config(name).shape.parameters
        except UsageError:  # no model that the decoder runs
            continue
        if size <= (1 - CACHES) * parameters:
            fitting.append((size, name))
    if not fitting:
        return "no preset fits; --model model-b is smaller than all of them"
    return f"the largest preset that fits with its caches is --model {max(fitting)[1]}"


def _check_contexts(settings: Settings, grid: Grid) -> None:
    target = load_config(settings.model)
    longest, most = max(point.ctx for point in grid.points), target.shape.max_ctx_tokens
    if longest > most and is_checkpoint(settings.model):
        raise UsageError(
            f"--grid {settings.grid}: {longest} tokens exceed the {most} that "
            f"{target.shape.name} was made for"
        )


def _prompts(settings: Settings) -> Prompts:
    folder = Path(settings.model).expanduser()
    text = Path(settings.text).expanduser() if settings.text else None
    return lambda batch, tokens: prompts(folder, batch, tokens, text)


def _check_text(settings: Settings, grid: Grid) -> None:
    """A file that is too short is refused before anything is measured."""
    if settings.text:
        cells = [OBSERVED_AT, *((at.batch, at.ctx + 1) for at in grid.calibration)]
        cells += [(point.batch, point.ctx + 1) for point in grid.points]
        _prompts(settings)(*max(cells, key=math.prod))


def _seen(
    target: Transformer,
    plan: DraftPlan,
    small: Transformer | None,
    backend: Backend,
    settings: Settings,
) -> Acceptance:
    """The acceptance to predict with: dialled, or observed on text, at a context of its own."""
    batch, ctx = OBSERVED_AT
    decoder = build_decoder(
        target, backend, batch=batch, tokens=ctx + 6 * ROUNDS, plan=plan, small=small
    )
    source, _, rate = settings.acceptance.partition(":")
    with torch.inference_mode():
        if source == "dialled":
            law = simulated_law(rate, settings.acceptance)
            wanted = float(law.survival(1, np.asarray(1.0))[..., 0])
            found = dial(target, decoder, wanted, ctx_tokens=ctx, seed=settings.seed)
        else:
            decoder.start(_prompts(settings)(batch, ctx), new_tokens=5 * ROUNDS)
            decoder.run(rounds=ROUNDS)
            found = counted(decoder, settings.acceptance)
    return Iid(
        alpha=found.acceptance,
        origin=f"{settings.acceptance}, {found.acceptance:.3f} seen at {ctx} tokens",
        uncertainty=1.28 * found.standard_error,
    )
