"""A validation with every word read once: the models' shapes, the draft on both sides, the grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from magicplan.calibrate.device_fit import Subject
from magicplan.errors import BadQuantity, UsageError
from magicplan.prediction.adaptive_trees import read_trees
from magicplan.prediction.draft_names import parse_view
from magicplan.roofline.acceptance import Acceptance, Iid, Ranked
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.drafts import DraftRequest, model_draft, ngram_draft, self_draft
from magicplan.validate.decoder.acceptance import prompts
from magicplan.validate.decoder.build import DraftPlan
from magicplan.validate.decoder.llama_config import LlamaConfig, load_config
from magicplan.validate.measure.bench import Prompts
from magicplan.validate.measure.grid import MeasuringGrid, grid_of, parse_gammas
from magicplan.validate.run_file import RunSettings

OBSERVED_AT = (2, 2048)
"""Batch and context at which attention is scaled, or a checkpoint's acceptance is looked at."""
ELSEWHERE = ("none", "eagle3", "mtp", "medusa", "triforce")
"""Drafts that `predict` knows and the decoder does not run as an option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What one validation runs and predicts. `settings` keeps the words, as the run file does."""

    settings: RunSettings
    grid: MeasuringGrid
    target: LlamaConfig
    small: LlamaConfig | None
    """The smaller model that drafts; None where the target or the text drafts."""
    plan: DraftPlan
    """The draft as the decoder runs it."""
    subject: Subject
    """The model and the draft as the prediction knows them."""
    law: Acceptance | None
    """The acceptance that was stated; None where a checkpoint's own is observed."""
    prompts: Prompts | None
    """Real text for a checkpoint's own acceptance; None where no text is read."""


def question(settings: RunSettings, grid: MeasuringGrid | None = None) -> Question:
    """Read every word of the settings, without loading weights; `grid` stands for the named one.

    Raises UsageError for what does not go together, SpecError naming the line of a file.
    """
    plan, small_name = _draft(settings.draft, settings.draft_kv)
    source, _, rate = settings.acceptance.partition(":")
    target = load_config(settings.model)
    small = load_config(small_name) if small_name else None
    found = Question(
        settings=settings,
        grid=grid or _grid(settings),
        target=target,
        small=small,
        plan=plan,
        subject=_subject(settings, plan, target, small),
        law=None if source == "checkpoint" else stated_law(rate, settings.acceptance),
        prompts=_prompts(settings) if source == "checkpoint" else None,
    )
    _check_contexts(found)
    _check_text(found)
    return found


def _grid(settings: RunSettings) -> MeasuringGrid:
    gammas = parse_gammas(settings.gamma) if settings.gamma else None
    trees = read_trees(Path(settings.tree)) if settings.tree else None
    return grid_of(settings.grid, settings.device, gammas=gammas, trees=trees)


def _draft(draft: str, view: str) -> tuple[DraftPlan, str]:
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
    if draft in ELSEWHERE:
        raise UsageError(f"--draft {draft}: the decoder runs self, ngram or a smaller model")
    if kind != "streaming":
        raise UsageError(f"--draft-kv {view}: a smaller model keeps streaming:N")
    return DraftPlan(kind="model", budget=budget), draft


def _subject(
    settings: RunSettings, plan: DraftPlan, target: LlamaConfig, small: LlamaConfig | None
) -> Subject:
    """The model and the draft of the decoder, for the predicting side."""
    view = parse_view(settings.draft_kv)
    ask = DraftRequest(target=target.shape, view=view, small=small.shape if small else None)
    build = {"ngram": ngram_draft, "model": model_draft}.get(plan.kind, self_draft)
    name = settings.dtype
    layout = Deployment(dtype=name, kv_dtype=name, math_dtype=name, tp=float(settings.ranks))
    return Subject(model=target.shape, layout=layout, draft=build(ask))


def stated_law(text: str, option: str) -> Acceptance:
    """One rate for every token, or rates by rank of a tree's children: `0.8` or `0.7,0.1,0.05`.

    Raises BadQuantity, which shows the whole `option`.
    """
    try:
        rates = tuple(float(part) for part in text.split(","))
        if not all(0 <= rate <= 1 for rate in rates):
            raise ValueError
    except ValueError:
        raise BadQuantity(f"--acceptance {option}: expected rates from 0 to 1") from None
    if len(rates) == 1:
        return Iid(alpha=rates[0], origin=option)
    return Ranked(probabilities=rates, origin=option)


def _prompts(settings: RunSettings) -> Prompts:
    folder = Path(settings.model).expanduser()
    text = Path(settings.text).expanduser() if settings.text else None
    return lambda batch, tokens: prompts(folder, batch, tokens, text)


def _check_contexts(asked: Question) -> None:
    """Raises UsageError where a checkpoint would read beyond the context it was trained for."""
    longest = max((point.ctx for point in asked.grid.points), default=0)
    most, settings = asked.target.shape.max_ctx_tokens, asked.settings
    if longest > most and settings.weights == "checkpoint":
        raise UsageError(
            f"--grid {settings.grid}: {longest} tokens exceed the {most} that "
            f"{asked.target.shape.name} was made for"
        )


def _check_text(asked: Question) -> None:
    """Raises UsageError for a text that is too short, before anything is measured."""
    if asked.settings.text and asked.prompts:
        cells = [OBSERVED_AT, *((at.batch, at.ctx + 1) for at in asked.grid.calibration)]
        cells += [(point.batch, point.ctx + 1) for point in asked.grid.points]
        asked.prompts(*max(cells, key=math.prod))
