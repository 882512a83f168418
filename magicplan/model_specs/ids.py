"""Hugging Face ids taken apart: the words of the model, its tuning, its date, its number format.

Ids are compared word by word, without case; spaces and underscores are hyphens, and a family's name
may be joined to its version ("llama3.1-8b"). What is left when words of tuning, dates and formats
are gone must be a model's name in full: no size or version is ever guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

TUNINGS = frozenset({"instruct", "chat", "it", "pt", "hf", "base", "thinking", "preview"})
DATE = re.compile(r"(\d{2}){2,4}")
FORMATS = (
    ("nvfp4", re.compile(r"nvfp4(a16)?|fp4")),
    ("mxfp4", re.compile(r"mxfp4(a16)?")),
    ("mxfp8", re.compile(r"mxfp8")),
    ("fp8", re.compile(r"fp8|w8a8fp8|float8")),
    ("int8", re.compile(r"int8|w8a8|w8a16|8bit|q8")),
    ("int4", re.compile(r"int4|w4a16|4bit|awq|gptq|autoround|bnb|q4")),
    ("bf16", re.compile(r"bf16|fp16")),
    ("", re.compile(r"gguf")),
)
"""Words of formats, and the format meant; of several words the first of this list decides."""
BEFORE = frozenset({"quantized", "qat", "mlx", "unsloth"})
AFTER = BEFORE | frozenset(
    {
        "dynamic", "static", "block", "kv", "gguf", "g32", "g64", "g128", "marlin", "ct", "v2", "0",
        "k", "m", "s",
    }
)  # fmt: skip
"""Words that stand before or after a format's; elsewhere they are words of the model."""
HEADS = re.compile(r"eagle|dflash|speculator|medusa|dspark|p-?eagle")
FAMILY = re.compile(r"([a-z]{3,})(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class ModelId:
    """An id taken apart. `words` are all but the format's; `format` is "" where none is named."""

    organisation: str
    words: tuple[str, ...]
    format: str

    @property
    def untuned(self) -> tuple[str, ...]:
        """The words without those of tuning."""
        return tuple(word for word in self.words if word not in TUNINGS)

    @property
    def bare(self) -> tuple[str, ...]:
        """The words without those of tuning, and without dates."""
        return tuple(word for word in self.untuned if not DATE.fullmatch(word))


def parse(text: str) -> ModelId:
    """An id, or its last part alone, as people write it."""
    organisation, _, last = text.strip().lower().rpartition("/")
    words = _words(last)
    meant = [name for name, pattern in FORMATS if any(map(pattern.fullmatch, words))]
    first = next((i for i, word in enumerate(words) if _is_format(word)), len(words))
    kept = [word for word in words[:first] if first == len(words) or word not in BEFORE]
    kept += [word for word in words[first:] if word not in AFTER and not _is_format(word)]
    return ModelId(organisation, tuple(kept), meant[0] if meant else "")


def _words(text: str) -> list[str]:
    found: list[str] = []
    for word in re.split(r"[-_\s:]+|(?<=quantized)\.", text.strip(" -_")):
        joined = FAMILY.fullmatch(word)
        found += list(joined.groups()) if joined and not _is_format(word) else [word]
    # Meta's ids of 2024 name their maker before the family
    return found[1:] if found[:2] == ["meta", "llama"] else found


def _is_format(word: str) -> bool:
    return any(pattern.fullmatch(word) for _, pattern in FORMATS)


def family(text: str) -> str:
    """The first word of a model's name, by which families are told apart."""
    words = parse(text).words
    return words[0] if words else ""


def of_family(wanted: str, known: Iterable[str]) -> list[str]:
    """The names of the same family."""
    return [name for name in known if family(name) == family(wanted)]
