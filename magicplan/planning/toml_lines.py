"""Where the keys of a TOML file stand: the parser keeps no lines, and errors name them."""

from __future__ import annotations

import re

KEY = r"[\w.\-]+|\"[^\"]*\"|'[^']*'"


def lines_of(text: str) -> dict[str, int]:
    """Line of every table and key that begins one, by their dotted names."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-]+)\s*\]", line):
            section = header[1]
            found.setdefault(section, number)
        elif key := re.match(rf"\s*({KEY})\s*=", line):
            name = key[1].strip("\"'")
            found.setdefault(f"{section}.{name}" if section else name, number)
    return found
