"""Writes magicplan/model_specs/class_defaults.json: what transformers fills into a config.

Usage: python scripts/class_defaults.py, with the newest transformers installed. Only keys that
magicplan reads, and only values that a file may leave out: numbers, flags and words.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from magicplan.model_specs.config import WRAPPED, known

ROOM = Path(__file__).parents[1] / "magicplan" / "model_specs"
DERIVED = {"layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "moe_layers"}


def keys_read() -> set[str]:
    """Every quoted word of the reading code: a superset of the keys it reads."""
    text = "".join(path.read_text(encoding="utf-8") for path in ROOM.rglob("*.py"))
    return set(re.findall(r'"([a-zA-Z_0-9]+)"', text)) - DERIVED - {"model_type", "name", "dtype"}


VARIED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size")


def stated(kind: type, **changes: int) -> dict[str, object]:
    """What the class says with these changes."""
    return dict(kind(**changes).to_dict())


def constant(kind: type) -> dict[str, object]:
    """What the class says whatever the sizes: a key that follows from others is no default."""
    plain = stated(kind)
    kept = dict(plain)
    for key in VARIED:
        if not isinstance(plain.get(key), int):
            continue
        try:
            other = stated(kind, **{key: 2 * plain[key]})
        except Exception:
            continue
        kept = {k: v for k, v in kept.items() if k in VARIED or other.get(k) == v}
    return kept


def main() -> None:
    """Instantiate every class and keep what it says."""
    wanted, found = keys_read(), {}
    for model_type in sorted({*known(), *WRAPPED.values()}):
        if model_type not in CONFIG_MAPPING:
            continue
        found[model_type] = {
            key: value
            for key, value in sorted(constant(CONFIG_MAPPING[model_type]).items())
            if key in wanted and isinstance(value, bool | int | float | str)
        }
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    (ROOM / "class_defaults.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
