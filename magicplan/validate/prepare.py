"""From a question to a session: models in memory, and the acceptance to predict with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from magicplan.errors import DoesNotFit, UsageError
from magicplan.kernels import load
from magicplan.kernels.backend import Backend
from magicplan.model_specs.load import presets
from magicplan.roofline.acceptance import Acceptance, Iid
from magicplan.units import human_bytes
from magicplan.validate.decoder.acceptance import counted, dial
from magicplan.validate.decoder.build import build_decoder
from magicplan.validate.decoder.llama_config import LlamaConfig, load_config
from magicplan.validate.decoder.tensor_parallel import ALONE, RankGroup
from magicplan.validate.decoder.transformer import Transformer
from magicplan.validate.measure.bench import DecoderBench
from magicplan.validate.measure.cells import memory_for
from magicplan.validate.measure.clock import Effort
from magicplan.validate.measure.environment import memory_bytes
from magicplan.validate.measure.exactness import exactness_gate
from magicplan.validate.question import OBSERVED_AT, Question
from magicplan.validate.run_file import RunSettings
from magicplan.validate.session import Session
from magicplan.validate.settings import DTYPES

ROUNDS = 32
"""Rounds after which an acceptance rate is counted."""
CACHES = 0.2
"""Share of free memory that a suggested model's weights leave for caches."""
BRIEF: dict[str, Any] = {
    "calibration_effort": Effort(least=3, most=5, seconds=0.1),
    "effort": Effort(least=3, most=5, seconds=0.02),
}
"""The effort of tests: nothing that a tiny grid measures is worth a second."""


def session(asked: Question, ranks: RankGroup = ALONE) -> Session:
    """Everything that a run needs, in memory; of a model that ranks share, this one's part.

    Raises DoesNotFit where not even the weights fit.
    """
    settings = asked.settings
    with memory_for("loading the models"):
        bench, acceptance = loaded(asked, ranks)
    return Session(
        settings=settings,
        grid=asked.grid,
        bench=bench,
        subject=asked.subject,
        acceptance=acceptance,
        exactness=lambda: exactness_gate(
            bench.backend, settings.device, ranks=ranks, asked=bench.plan.kind
        ),
        ranks=ranks,
        **(BRIEF if settings.grid == "tiny" else {}),
    )


def loaded(asked: Question, ranks: RankGroup = ALONE) -> tuple[DecoderBench, Acceptance]:
    """The models in memory with their draft, and the acceptance that a prediction rests on."""
    settings = asked.settings
    backend = load(settings.backend)
    small = None
    if asked.small:
        stored = settings.draft_weights == "checkpoint"
        small = _transformer(asked.small, settings.draft if stored else None, settings, ranks)
    stored = settings.weights == "checkpoint"
    target = _transformer(asked.target, settings.model if stored else None, settings, ranks)
    simulated = settings.acceptance.startswith("simulated")
    rates: tuple[float, ...] | None = None
    if asked.law is not None and simulated:
        acceptance = asked.law
        trees = [point.tree for point in asked.grid.points if point.tree]
        width = max((max(tree.ranks) + 1 for tree in trees), default=1)
        rates = tuple(float(rate) for rate in acceptance.ranks(width, np.asarray(1.0)))
    else:
        acceptance = _observed(asked, target, small, backend)
    bench = DecoderBench(
        target, backend, asked.plan, small=small, rates=rates, prompts=asked.prompts,
        seed=settings.seed,
    )  # fmt: skip
    return bench, acceptance


def _transformer(
    config: LlamaConfig, folder: str | None, settings: RunSettings, ranks: RankGroup
) -> Transformer:
    """Weights of the checkpoint in a folder, or random ones, once it is known that they fit."""
    dtype = DTYPES[settings.dtype]
    bytes_each = dtype.itemsize / ranks.count
    needed, free = config.shape.parameters * bytes_each, memory_bytes(settings.device)
    if needed > free:
        raise DoesNotFit(
            f"the weights of {config.shape.name} take {human_bytes(needed)} in {settings.dtype}, "
            f"{human_bytes(free)} are free on this {settings.device}; "
            f"{largest_preset(free / bytes_each)}"
        )
    if folder is not None:
        return Transformer.from_checkpoint(
            config, Path(folder).expanduser(), device=settings.device, dtype=dtype, ranks=ranks
        )
    return Transformer.random(
        config, device=settings.device, dtype=dtype, seed=settings.seed, ranks=ranks
    )


def largest_preset(parameters: float) -> str:
    """A clause that names the largest preset whose weights leave `CACHES` of the room for this many
    parameters."""
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


def _observed(
    asked: Question, target: Transformer, small: Transformer | None, backend: Backend
) -> Acceptance:
    """The acceptance to predict with: dialled, or observed on text, at a context of its own."""
    settings, (batch, ctx) = asked.settings, OBSERVED_AT
    decoder = build_decoder(
        target, backend, batch=batch, tokens=ctx + 6 * ROUNDS, plan=asked.plan, small=small
    )
    with torch.inference_mode():
        if asked.law is not None:
            wanted = float(asked.law.survival(1, np.asarray(1.0))[..., 0])
            found = dial(target, decoder, wanted, ctx_tokens=ctx, seed=settings.seed)
        else:
            assert asked.prompts is not None
            decoder.start(asked.prompts(batch, ctx), new_tokens=5 * ROUNDS)
            decoder.run(rounds=ROUNDS)
            found = counted(decoder, settings.acceptance)
    return Iid(
        alpha=found.acceptance,
        origin=f"{settings.acceptance}, {found.acceptance:.3f} seen at {ctx} tokens",
        uncertainty=1.28 * found.standard_error,
    )
