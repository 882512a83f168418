"""Our decoding loop against Hugging Face `generate`, on one random checkpoint, in one run.

Question: is our baseline as fast as the usual one, so that no speedup comes from a slow baseline?
Plain, with a smaller assistant model, and with prompt lookup, on both sides; equal tokens are
checked. Assisted generation of `transformers` takes batch 1 only, so it is compared there.

    python benchmarks/generate_peer.py [--dtype bf16] [--batch 4] [--prompt 256]
    python benchmarks/generate_peer.py --device cuda --backend triton
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from magicplan.kernels import available, load
from magicplan.validate.decoder.build import DraftPlan, build_decoder
from magicplan.validate.decoder.llama_config import MODEL_B, load_config
from magicplan.validate.decoder.transformer import Transformer

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
GAMMA = 4
Rows = list[list[int]]


def write_checkpoints(folder: Path) -> None:
    """A random model of our small shape, and its first layers as the assistant."""
    import transformers

    torch.manual_seed(0)
    shape = MODEL_B
    config = transformers.LlamaConfig(
        hidden_size=shape.hidden, intermediate_size=shape.ffn, num_hidden_layers=shape.layers,
        num_attention_heads=shape.q_heads, num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab, max_position_embeddings=8192, initializer_range=0.05,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder / "target")
    del model.model.layers[1:]
    config.num_hidden_layers = 1
    model.save_pretrained(folder / "assistant")


def theirs(folder: Path, args: argparse.Namespace) -> dict[str, Callable[[Rows, int], Rows]]:
    """`transformers`' ways to generate."""
    import transformers

    transformers.logging.set_verbosity_error()

    def model(name: str) -> Any:
        found = transformers.AutoModelForCausalLM.from_pretrained(
            folder / name, dtype=DTYPES[args.dtype]
        )
        return found.to(args.device).eval()

    target, assistant = model("target"), model("assistant")
    assistant.generation_config.num_assistant_tokens = GAMMA
    assistant.generation_config.num_assistant_tokens_schedule = "constant"
    assistant.generation_config.assistant_confidence_threshold = 0.0

    def generate(**options: Any) -> Callable[[Rows, int], Rows]:
        def run(prompts: Rows, new: int) -> Rows:
            tokens = torch.tensor(prompts, device=args.device)
            with torch.inference_mode():
                out = target.generate(
                    tokens, attention_mask=torch.ones_like(tokens), do_sample=False,
                    max_new_tokens=new, min_new_tokens=new, **options,
                )  # fmt: skip
            rows: Rows = out[:, tokens.shape[1] :].tolist()
            return rows

        return run

    return {
        "plain": generate(),
        "model": generate(assistant_model=assistant),
        "ngram": generate(prompt_lookup_num_tokens=GAMMA),
    }


def ours(
    folder: Path, args: argparse.Namespace, batch: int
) -> dict[str, Callable[[Rows, int], Rows]]:
    """The same ways here. Caches are made once, as a server does."""

    def model(name: str) -> Transformer:
        path = folder / name
        config = load_config(str(path))
        return Transformer.from_checkpoint(
            config, path, device=args.device, dtype=DTYPES[args.dtype]
        )

    target, assistant, backend = model("target"), model("assistant"), load(args.backend)
    plans = {
        "plain": None,
        "model": DraftPlan.chain(GAMMA, kind="model", budget=args.prompt + args.new),
        "ngram": DraftPlan.chain(GAMMA, kind="ngram"),
    }

    def generate(plan: DraftPlan | None) -> Callable[[Rows, int], Rows]:
        decoder = build_decoder(
            target, backend, batch=batch, tokens=args.prompt + args.new, plan=plan, small=assistant
        )

        def run(prompts: Rows, new: int) -> Rows:
            with torch.inference_mode():
                return decoder.generate(prompts, new, speculative=plan is not None)

        return run

    return {name: generate(plan) for name, plan in plans.items()}


def seconds(run: Callable[[Rows, int], Rows], prompts: Rows, new: int) -> float:
    start = time.perf_counter()
    run(prompts, new)
    return time.perf_counter() - start


def compare(name: str, peer: Callable[[Rows, int], Rows], mine: Callable[[Rows, int], Rows],
            prompts: Rows, args: argparse.Namespace) -> bool:  # fmt: skip
    """Time both in turn, prompt and generation apart; print a line. Are the tokens equal?"""
    equal = peer(prompts, args.new) == mine(prompts, args.new)
    samples: dict[str, list[float]] = {"peer": [], "mine": []}
    for _ in range(args.repeats):
        for side, run in (("peer", peer), ("mine", mine)):
            prompt = seconds(run, prompts, 1)
            samples[side].append(seconds(run, prompts, args.new) - prompt)
    tokens = len(prompts) * (args.new - 1)
    rates = {side: tokens / median(values) for side, values in samples.items()}
    print(
        f"{name:8} batch {len(prompts)}: transformers {rates['peer']:8.1f} tokens/s, "
        f"ours {rates['mine']:8.1f} tokens/s, ours / theirs {rates['mine'] / rates['peer']:.2f}, "
        f"tokens {'equal' if equal else 'DIFFER'}"
    )
    return equal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--backend", choices=available(), help="default: native where it runs")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.backend = args.backend or ("native" if "native" in available() else available()[-1])
    torch.set_num_threads(args.threads)
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, MODEL_B.vocab, (args.batch, args.prompt), generator=generator).tolist()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoints(folder)
        peer = theirs(folder, args)
        where = f"{args.device}, {args.backend} backend, {args.dtype}, {args.threads} threads"
        print(f"{where}, prompt {args.prompt} tokens")
        equal = []
        for batch, ways in ((args.batch, ("plain",)), (1, ("plain", "model", "ngram"))):
            mine = ours(folder, args, batch)
            equal += [compare(way, peer[way], mine[way], rows[:batch], args) for way in ways]
    if args.dtype == "fp32" and not all(equal):
        print("in fp32 all tokens must be equal")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
