"""The laws of the house that hold for every file: who may import whom, and what start-up loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import magicplan

ROOT = Path(magicplan.__file__).parent
ORDER = (
    {"errors", "units"},
    {"kernels"},
    {"hardware_specs", "model_specs"},
    {"roofline"},
    {"acceptance_specs"},
    {"planning", "tree_files"},
    {"validate"},
    {"report"},
    {"commands"},
    {"cli"},
)
"""A room may import rooms of its own line and of those above."""
HEAVY = {
    "torch", "triton", "scipy", "sympy", "matplotlib", "pyarrow", "pynvml", "pandas", "plotly",
    "jinja2", "transformers", "tokenizers", "safetensors",
}  # fmt: skip
PURE = {"rich", "typer", "json", "tomllib", "pathlib", "os", "csv", "socket", "urllib"} | HEAVY


def rank(room: str) -> int:
    return next(i for i, rooms in enumerate(ORDER) if room in rooms)


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules that a file imports, in full; only at module level if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    room = parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for name in imports(path):
        if name.startswith("magicplan."):
            target = name.split(".")[1]
            assert rank(target) <= rank(room), f"{room} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "roofline").glob("*.py")), ids=lambda p: p.name)
def test_the_roofline_is_arithmetic_only(path: Path) -> None:
    allowed = {"sympy"} if path.name == "symbolic.py" else set()
    loaded = {name.split(".")[0] for name in imports(path)}
    assert not loaded & (PURE - allowed)


MEASURING = (
    "acceptance_source", "build", "cache", "checkpoint", "counters", "decoder", "draft_shape",
    "drafts", "llama_config", "ngram", "prompts", "sampling", "simulated", "snapkv",
    "tensor_parallel", "transformer", "triforce", "weights",
)  # fmt: skip
"""The decoder that is measured."""
PREDICTING = ("roofline", "planning", "hardware_specs", "acceptance_specs", "report", "commands")


@pytest.mark.parametrize("name", MEASURING)
def test_the_decoder_knows_no_prediction(name: str) -> None:
    """The measuring side meets the predicting side in compare and nowhere else."""
    path = ROOT / "validate" / f"{name}.py"
    rooms = {part.split(".")[1] for part in imports(path) if part.startswith("magicplan.")}
    assert not rooms & set(PREDICTING)
    inside = {
        part.split(".")[2] for part in imports(path) if part.startswith("magicplan.validate.")
    }
    assert inside <= set(MEASURING), "the decoder imports a file of the fitting side"


TIMING = ("bench", "ceilings", "clock", "environment", "grid", "measure")
"""What times the decoder."""


@pytest.mark.parametrize("name", TIMING)
def test_what_measures_knows_no_prediction(name: str) -> None:
    """Of the predicting side it knows the shape of a tree."""
    path = ROOT / "validate" / f"{name}.py"
    ours = {part for part in imports(path) if part.startswith("magicplan.")}
    told = {part for part in ours if part.split(".")[1] in PREDICTING}
    assert told <= {"magicplan.roofline.trees", "magicplan.roofline.trees.Tree"}
    inside = {part.split(".")[2] for part in ours if part.startswith("magicplan.validate.")}
    assert inside <= {*MEASURING, *TIMING}


def test_only_traffic_and_timing_choose_a_maximum() -> None:
    """The roofline's maximum stands in timing; nobody else compares bytes with FLOP."""
    users = {
        path.name
        for path in (ROOT / "roofline").glob("*.py")
        if "compute_seconds(" in path.read_text(encoding="utf-8")
    }
    assert users == {"timing.py", "symbolic.py"}


def test_nobody_imports_the_command_line_or_sympy_views_at_module_level() -> None:
    for path in files():
        top = imports(path, top_level=True)
        if path.name != "__main__.py":
            assert "magicplan.cli" not in top, path
        if path.name not in ("explain.py", "symbolic.py"):
            assert not any(name.startswith("magicplan.roofline.symbolic") for name in top), path


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in done.stdout.split("\n")[-2].split()}


def test_predict_loads_nothing_heavy() -> None:
    code = "import magicplan as mp; mp.predict(gpu='a100').to_dict()"
    assert not loaded_by(code) & HEAVY


def test_plan_loads_nothing_heavy() -> None:
    code = "import magicplan as mp; mp.plan(gpus='l40s', requests_per_s=1).to_dict()"
    assert not loaded_by(code) & HEAVY


def test_the_command_line_starts_without_numpy() -> None:
    assert not loaded_by("import magicplan.cli") & (HEAVY | {"numpy", "rich"})


def test_the_public_face() -> None:
    assert sorted(magicplan.__all__) == magicplan.__all__
    assert magicplan.__all__ == [
        "DoesNotFit", "MagicplanError", "MissingExtra", "UsageError", "__version__", "choose",
        "drafts", "mixed_fleet", "plan", "predict", "read_plan", "trees", "with_observed",
    ]  # fmt: skip
    for name in magicplan.__all__:
        assert getattr(magicplan, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = magicplan.no_such_thing
