"""Which model configs are read, refused by name, or read wrongly: a peer's list and transformers'.

Usage:
    pip install --no-deps --target /tmp/peer aiconfigurator-core==0.12.0
    python benchmarks/model_coverage.py /tmp/peer [--all]

"Wrong" is a count of parameters more than 0.5 % off that of transformers' own class, built on the
meta device from the same config. Needs torch and transformers; --all prints every config.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicplan.errors import MagicplanError
from magicplan.model_specs.config import from_config

TOLERANCE = 0.005
TEXT_PARTS = ("text_config", "llm_config", "language_config")
NO_DECODERS = {
    "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot",
    "blenderbot-small", "camembert", "data2vec-text", "electra", "ernie", "git", "got_ocr2",
    "marian", "mbart", "megatron-bert", "mllama", "moshi", "musicgen", "musicgen_melody", "mvp",
    "pegasus", "plbart", "prophetnet", "reformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "trocr", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet",
    "xmod", "fuyu", "emu3", "modernbert-decoder", "moss_transcribe_diarize", "beam", "blt",
    "gemma4_assistant", "gemma4_unified_assistant",
}  # fmt: skip
"""Of the classes that transformers lists for causal language modelling, those of encoders, of
encoders with decoders, of towers, and of draft heads."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one config."""

    name: str
    verdict: str
    detail: str


def peer_configs(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any] | None]]:
    """Every model config of an installed aiconfigurator-core, with its hf_quant_config if any."""
    for path in sorted(folder.rglob("*_config.json")):
        if path.name.endswith("_hf_quant_config.json"):
            continue
        beside = path.with_name(path.name.replace("_config.json", "_hf_quant_config.json"))
        quantised = json.loads(beside.read_text()) if beside.exists() else None
        yield path.name.removesuffix("_config.json"), json.loads(path.read_text()), quantised


def class_configs() -> Iterator[tuple[str, dict[str, Any], dict[str, Any] | None]]:
    """What every causal language model class of transformers says by default."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    for model_type in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - NO_DECODERS):
        try:
            stated = CONFIG_MAPPING[model_type]().to_dict()
        except Exception:
            continue  # a class that its own defaults do not build
        yield model_type, json.loads(json.dumps(stated, default=str)), None


def counted(config: dict[str, Any]) -> int | None:
    """Parameters of transformers' own class for the text part, on the meta device; None where it
    has no class for it or cannot build it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    text = next((config[key] for key in TEXT_PARTS if isinstance(config.get(key), dict)), config)
    model_type = text.get("model_type", "")
    if model_type not in CONFIG_MAPPING:
        return None
    plain = {k: v for k, v in text.items() if k not in ("quantization_config", "model_type")}
    if "tie_word_embeddings" in config:
        plain.setdefault("tie_word_embeddings", config["tie_word_embeddings"])
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**plain))
    except Exception:
        return None
    found = {id(p): p.numel() for p in model.parameters()}
    return sum(found.values())


def judge(name: str, config: dict[str, Any], quantised: dict[str, Any] | None) -> Verdict:
    """Loaded, refused or wrong."""
    try:
        shape = from_config(config, name, quantised=quantised)
    except MagicplanError as problem:
        return Verdict(name, "refused", str(problem))
    theirs = counted(config)
    if theirs is None:
        return Verdict(name, "loaded", f"{shape.parameters:,}; transformers counts none")
    off = shape.parameters / theirs - 1
    verdict = "loaded" if abs(off) <= TOLERANCE else "wrong"
    return Verdict(name, verdict, f"{shape.parameters:,} against {theirs:,} ({off:+.3%})")


def main() -> None:
    """Print a line a list, and every config that is not simply loaded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", type=Path, help="folder that aiconfigurator-core was installed to")
    parser.add_argument("--all", action="store_true", help="print every config")
    ask = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    lists = {"aiconfigurator 0.12.0": peer_configs(ask.peer), "transformers": class_configs()}
    for title, configs in lists.items():
        verdicts = [judge(*entry) for entry in configs]
        counts = {
            v: sum(one.verdict == v for one in verdicts) for v in ("loaded", "refused", "wrong")
        }
        compared = sum("against" in one.detail for one in verdicts)
        print(f"{title}: {len(verdicts)} configs, {counts}, {compared} counted by transformers too")
        for one in verdicts:
            if ask.all or one.verdict != "loaded":
                print(f"  {one.verdict:8s} {one.name}: {one.detail[:150]}")


if __name__ == "__main__":
    main()
