"""Acceptance from files: the door through which ranks, counts, results and engines' logs come."""

from __future__ import annotations

from pathlib import Path

from magicplan.acceptance_specs.engine_logs import (
    from_llama_cpp,
    from_sglang,
    from_sglang_metrics,
    from_vllm_log,
    from_vllm_metrics,
)
from magicplan.acceptance_specs.ranks import ranks_from
from magicplan.acceptance_specs.results import SCHEMA, from_json
from magicplan.acceptance_specs.text import parse
from magicplan.errors import FieldError, SpecError
from magicplan.fields import read_text
from magicplan.roofline.acceptance import Acceptance, Ranked

READERS = (from_vllm_log, from_vllm_metrics, from_sglang, from_sglang_metrics, from_llama_cpp)
MAX_BYTES = 256 * 2**20
"""A log larger than this is refused; days of a busy server are a tenth of it."""


def parse_acceptance(text: str) -> Acceptance:
    """What `--acceptance` takes besides `auto`: numbers, `rank:FILE`, `file:FILE`, or the path of a
    file that exists."""
    kind, separator, rest = text.partition(":")
    read = {"rank": load_ranks, "file": import_measured}.get(kind)
    if read is None or not separator:
        return import_measured(Path(text)) if _is_file(text) else parse(text)
    if not rest.strip():
        raise FieldError("acceptance", f"{text}: the path is missing; expected {kind}:FILE")
    return read(Path(rest))


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def load_ranks(path: Path) -> Ranked:
    """Acceptance by child rank, see `ranks_from`. Raises SpecError."""
    return ranks_from(path, _read(path))


def import_measured(path: Path) -> Acceptance:
    """Measured rates: JSON of counts, of a benchmark or of histograms, or what an engine printed.

    The JSON of counts is {"schema": "magicplan.acceptance/1", "drafted": [n, ...], "accepted":
    [k, ...]}: of n rounds that drafted position i, k accepted it and all before. Raises SpecError.
    """
    text = _read(path)
    if text.lstrip().startswith("{"):
        return from_json(path, text)
    for reader in READERS:
        found = reader(path, text)
        if found is not None:
            return found
    raise SpecError(
        path,
        f"holds neither {SCHEMA} JSON, nor vLLM's SpecDecoding metrics or Prometheus counters, nor "
        "SGLang's accept len or gauges, nor llama.cpp's draft acceptance",
    )


def _read(path: Path) -> str:
    text = read_text(path, MAX_BYTES)
    if not text.strip():
        raise SpecError(path, "is empty")
    return text
