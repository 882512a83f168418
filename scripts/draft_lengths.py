"""Write docs/draft-lengths.md: the best draft length of served models on common GPUs.

python scripts/draft_lengths.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accuracy_layout import table

from magicplan.acceptance_specs.heads import heads_for
from magicplan.engine_specs.capabilities import load
from magicplan.engines.existing import best_existing
from magicplan.engines.settings import drafted
from magicplan.errors import UsageError
from magicplan.prediction.request import Request

PAGE = Path(__file__).parent.parent / "docs" / "draft-lengths.md"
MODELS = (
    "llama-3.1-8b", "llama-3.3-70b", "llama-3.1-405b", "llama-4-scout-17b-16e",
    "llama-4-maverick-17b-128e", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen3-30b-a3b",
    "qwen3-235b-a22b", "qwen2.5-7b", "qwen2.5-72b", "gpt-oss-20b", "gpt-oss-120b", "deepseek-v3",
    "deepseek-r1", "glm-4.5", "glm-4.5-air", "kimi-k2", "gemma-3-27b",
)  # fmt: skip
GPUS = ("a100", "h100", "h200", "b200", "l40s", "mi300x")
BATCHES = [1, 8, 64]
CTX = 2048
TASK, STACK = "chat", "vllm"
RECIPES = """\
Published defaults beside them: 3 drafted tokens for EAGLE-3 heads of RedHatAI (their cards), 15 for
DFlash (its README), 7 for DSpark of DeepSeek-V4 (vLLM's recipe), 1 to 3 for MTP of DeepSeek-V3.
"""
ABOUT = f"""\
# Draft lengths

Written by `python scripts/draft_lengths.py`: the draft that exists for a model and gains most
under {STACK}, its best length (K) by requests in a batch, with the predicted speedup and its 80 %
interval, at {CTX} tokens of context, for chat. GPUs are as few as hold the work.
`off`: plain decoding is fastest. Drafts are published heads whose rates are known, layers of the
checkpoint, and look-up; `magicplan schedule` does the same for your model, contexts and engine, and
says why a draft is off where it is.

{RECIPES}"""


def line(model: str, gpu: str) -> str | None:
    """One model on one GPU; None where it does not fit or the engine runs no draft for it."""
    request = Request(
        gpu=gpu, model=model, batch=BATCHES, ctx=[CTX], stack=STACK, draft="auto", task=TASK
    )
    try:
        p = best_existing(request, load(STACK))
    except UsageError:
        return None
    if not p.placement.fits.any():
        return None
    draft = drafted(p.resolved)
    head = next(iter(heads_for(model, draft.method)), None)
    best = [np.asarray(getattr(p.best, n))[:, 0] for n in ("gamma", "speedup", "speedup_low",
                                                           "speedup_high")]  # fmt: skip
    gpus = np.broadcast_to(np.asarray(p.placement.layout.gpus), p.placement.fits.shape)[:, 0]
    cells = [
        f"{int(k)}: {s:.2f} ({low:.2f} to {high:.2f})" if k else "off"
        for k, s, low, high in zip(*best, strict=True)
    ]
    counts = "/".join(dict.fromkeys(f"{int(n)}" for n in gpus))
    named = f"{draft.name}, {head.id}" if head else draft.name
    return " | ".join([model, counts, named, *cells])


def main() -> None:
    header = "model | GPUs | draft | " + " | ".join(f"batch {b}" for b in BATCHES)
    text = ABOUT
    for gpu in GPUS:
        lines = [found for model in MODELS if (found := line(model, gpu))]
        text += f"\n## {gpu}\n\n" + table(header, lines)
    PAGE.write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"written: {PAGE.name}")


if __name__ == "__main__":
    main()
