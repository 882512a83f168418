"""The laws of the house that hold for every file: who may import whom, and what start-up loads."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import magicplan

ROOT = Path(magicplan.__file__).parent
ORDER = (
    {"errors", "units", "fields"},
    {"kernels"},
    {"hardware_specs", "model_specs"},
    {"roofline"},
    {"engine_specs", "acceptance_specs", "calibrate"},
    {"prediction"},
    {"engines"},
    {"serving"},
    {"planning"},
    {"observed", "replay"},
    {"validate"},
    {"report"},
    {"commands"},
    {"cli"},
)
"""A room imports rooms of the lines above its own, and itself; not its neighbours on the line."""
FOUNDATION = {"errors", "units", "fields"}
"""Single files at the bottom, which may know each other."""
TOWER = {
    "kernels": {"kernels", "errors"},
    "validate.decoder": {"validate.decoder", "kernels", "model_specs", "errors"},
    "validate.measure": {
        "validate.measure", "validate.decoder", "kernels", "model_specs", "errors", "units",
        "roofline.tree",
    },
}  # fmt: skip
"""The measuring tower, and all that each of its rooms may import: it never sees a prediction."""
MOST_FILES = 15
HEAVY = {
    "torch", "triton", "scipy", "sympy", "matplotlib", "pyarrow", "pynvml", "pandas", "plotly",
    "altair", "vl_convert", "jinja2", "transformers", "tokenizers", "safetensors",
}  # fmt: skip
FRAGMENT = re.compile(r"(Of|The same|See|Where)\b")
"""The words that begin a docstring which leans on a neighbour or has no subject."""
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


def module_of(path: Path) -> str:
    """`roofline.trees`, without the package's own name; a folder's __init__ is the folder."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in files()}


def ours(path: Path) -> set[str]:
    """Modules of the package that a file imports, as `roofline.trees`."""
    inside = {name.removeprefix("magicplan.") for name in imports(path)}
    return {name for name in inside if name in MODULES} - {module_of(path), ""}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    room = module_of(path).partition(".")[0]
    if room in ("", "__main__"):
        return
    for name in ours(path):
        target = name.partition(".")[0]
        beside = target == room or {room, target} <= FOUNDATION
        assert beside or rank(target) < rank(room), f"{room} imports {name}"


@pytest.mark.parametrize("room", TOWER)
def test_what_measures_knows_no_prediction(room: str) -> None:
    """The two towers meet in the files of `validate/` itself and nowhere else."""
    for name, path in MODULES.items():
        if name == room or name.startswith(f"{room}."):
            for target in ours(path):
                known = any(target == one or target.startswith(f"{one}.") for one in TOWER[room])
                folder = any(one.startswith(f"{target}.") for one in TOWER[room])
                assert known or folder, f"{name} imports {target}"


def test_no_two_files_import_each_other() -> None:
    """Packages are left out: a folder's __init__ names what stands in it."""
    known = {name: ours(path) for name, path in MODULES.items() if path.stem != "__init__"}
    pairs = {(one, two) for one in known for two in known[one] if one in known.get(two, ())}
    assert not pairs


def test_rooms_are_small_and_names_are_short() -> None:
    """At most fifteen files a folder; no file's name begins with its folder's."""
    rooms: dict[Path, list[str]] = {}
    for path in files():
        if path.stem not in ("__init__", "__main__"):
            rooms.setdefault(path.parent, []).append(path.stem)
    assert {room.name: len(held) for room, held in rooms.items() if len(held) > MOST_FILES} == {}
    assert [p for p in files() if p.stem.startswith(p.parent.name)] == []


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of a file's docstrings: of the module, its classes and functions, and of the
    assignments in a module's or class's body."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for before, statement in zip([None, *node.body], node.body, strict=False):
            named = isinstance(node, ast.Module | ast.ClassDef) and isinstance(
                before, ast.Assign | ast.AnnAssign
            )
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))) if before is None or named:
                    yield statement.lineno, text.strip()


def test_docstrings_can_be_read_alone() -> None:
    """A docstring begins with its subject, not with what hangs on the line above."""
    tools = ROOT.parent / "tools"
    walked = [(path, *found) for path in [*files(), *sorted(tools.rglob("*.py"))]
              for found in docstrings(path)]  # fmt: skip
    assert len(walked) > 1000
    fragments = [
        f"{path.relative_to(ROOT.parent)}:{line}: {text.partition(chr(10))[0]}"
        for path, line, text in walked
        if FRAGMENT.match(text)
    ]
    assert not fragments, "\n".join(fragments)


def test_tests_mirror_the_rooms() -> None:
    """Every folder of tests is a room, or a folder beside the package."""
    tests = Path(__file__).parent
    beside = {"data", "tools", "benchmarks"}
    folders = {p.parent.relative_to(tests) for p in tests.rglob("test_*.py")} - {Path()}
    strangers = {f for f in folders if not (ROOT / f).is_dir() and f.parts[0] not in beside}
    assert strangers == set()


@pytest.mark.parametrize("path", sorted((ROOT / "roofline").rglob("*.py")), ids=lambda p: p.name)
def test_the_roofline_is_arithmetic_only(path: Path) -> None:
    allowed = {"sympy"} if path.name == "symbolic.py" else set()
    loaded = {name.split(".")[0] for name in imports(path)}
    assert not loaded & (PURE - allowed)


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
        if path.name not in ("symbolic.py", "closed_forms.py", "explain.py"):
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
        "DoesNotFit", "MagicplanError", "MissingExtra", "UsageError", "__version__", "bench",
        "choose", "drafts", "mixed_fleet", "plan", "predict", "read_plan", "trees", "with_observed",
    ]  # fmt: skip
    for name in magicplan.__all__:
        assert getattr(magicplan, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = magicplan.no_such_thing
