"""What each rank of `test_tensor_parallel` runs: `torchrun ranks.py FOLDER`, or alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.sampling import Sampling
from magicplan.validate.decoder.tensor_parallel import RankGroup, all_reduce_seconds, joined
from magicplan.validate.decoder.transformer import Transformer
from tests.validate.decoder import tiny

PLANS = {
    "decode": None,
    "chain": DraftPlan.chain(3, budget=24),
    "tree": DraftPlan(parents=(-1, 0, 0, 1, 2), budget=24),
    "snapkv": DraftPlan.chain(3, kind="snapkv", budget=36),
    "model": DraftPlan.chain(2, kind="model", budget=24),
}
CONFIG = tiny.config(qkv_bias=True, output_bias=True, ffn_bias=True, vocab=62)


def generated(ranks: RankGroup) -> dict[str, list[list[int]]]:
    """Tokens of every plan, greedy, and of a sampled chain."""
    model = Transformer.random(CONFIG, seed=1, attention_scale=2.0, ranks=ranks)
    prompts = tiny.prompts(50, 20)
    found = {}
    for name, plan in [*PLANS.items(), ("sampled", PLANS["chain"])]:
        sampling = Sampling(temperature=0.8, top_p=0.9, seed=4) if name == "sampled" else None
        decoder = build_decoder(
            model, tiny.backend(), batch=2, tokens=80, plan=plan, small=model, sampling=sampling
        )
        found[name] = decoder.generate(prompts, 12, speculative=plan is not None)
    return found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    device = torch.device("cpu")
    with joined(device) as ranks:
        found = generated(ranks)
        seconds = all_reduce_seconds(ranks, [64, 4096], device=device, dtype=torch.float32)
    content = {"tokens": found, "all_reduce_seconds": seconds, "ranks": ranks.count}
    (folder / f"rank{ranks.rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
