"""What is known, listed: names never cut, every command with help, version and completion."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from magicplan import __version__, hardware_specs, model_specs
from magicplan.cli import app
from magicplan.commands.options import _names, _stacks
from magicplan.commands.plans import DEFAULTS, PANELS
from magicplan.engine_specs.capabilities import ENGINES
from magicplan.errors import MagicplanError, UnknownName, UsageError
from magicplan.hardware_specs.calibration_files import CALIBRATIONS
from magicplan.hardware_specs.spelling import STACKS
from magicplan.planning.request import request_from


def said(*words: str, columns: int = 80) -> str:
    """What a command prints."""
    told = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner().invoke(app, list(words), env=told, prog_name="magicplan")
    if isinstance(done.exception, MagicplanError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def document(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(*words, "--json"))
    return found


def test_version() -> None:
    assert said("--version") == f"magicplan {__version__}\n"


@pytest.mark.parametrize(
    "command", [str(getattr(c.callback, "__name__", "")) for c in app.registered_commands]
)
def test_every_command_has_help_with_an_example_under_both_names(command: str) -> None:
    text = said(command, "-h")
    assert "Example: magicplan" in text
    assert text == said(command, "--help")


def test_help_shows_panels_and_defaults() -> None:
    text = said("predict", "--help")
    for panel in ("Workload", "GPUs and stack", "Number formats", "Drafts"):
        assert f"─ {panel} ─" in text
    assert "[default: 4k]" in text
    text = said("plan", "--help")
    assert all(f"─ {panel} ─" in text for panel in PANELS)
    assert "llama-3.1-8b" in text


def test_the_defaults_that_help_shows_are_those_of_a_plan() -> None:
    plain = request_from({"requests_per_s": 1}).flat()
    for name in ("model", "stack", "objective", "growth", "prefix_hit_rate"):
        assert type(plain[name])(DEFAULTS[name]) == plain[name]


def test_completion_is_offered_and_completes_names() -> None:
    assert "--install-completion" in said("--help")
    assert _names("hardware_specs")("h100") == ["h100-nvl", "h100-pcie", "h100-sxm"]
    assert "llama-3.1-8b" in _names("model_specs")("LLAMA-3.1")
    assert _stacks("") == list(STACKS)


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("command", ["gpus", "models"])
def test_names_are_never_cut(command: str, columns: int) -> None:
    known = (
        hardware_specs.names() if command == "gpus" else [m.name for m in model_specs.all_models()]
    )
    lines = said(command, columns=columns).splitlines()
    first = {line.split()[0] for line in lines if line.startswith(" ") and line.split()}
    assert set(known) <= first
    assert not any("…" in line for line in lines)


def test_columns_left_out_are_named() -> None:
    narrow, wide = said("models", columns=60), said("models", columns=120)
    assert "Left out for want of width: " in narrow
    assert "heads" in narrow.partition("Left out for want of width: ")[2].partition(";")[0]
    assert "Left out" not in wide
    assert "heads" in wide


def test_gpus_and_models_as_json() -> None:
    found = document("gpus")["accelerators"]
    assert [a["name"] for a in found] == list(hardware_specs.names())
    one = document("gpus", "NVIDIA H100 80GB HBM3")["accelerators"][0]
    assert one["name"] == "h100-sxm"
    assert {o["kind"] for o in one["offers"]} >= {"on demand", "3-year rent"}
    assert len(document("models")["models"]) == len(model_specs.all_models())
    assert document("models", "Qwen/Qwen3-8B-FP8")["models"][0]["name"] == "qwen3-8b"


def test_what_a_name_stands_for_is_said() -> None:
    assert "documented default" in said("gpus", "H100")
    assert "by its name" in said("models", "unsloth/Llama-3.1-8B-Instruct", columns=200)


def test_stacks_lists_every_engine_and_every_calibration() -> None:
    found = {row["name"]: row for row in document("stacks")["stacks"]}
    assert list(found) == list(STACKS)
    listed = {
        f"{gpu}_{name}_{version}.toml"
        for name, row in found.items()
        for gpu, versions in row["calibrations"].items()
        for version in versions
    }
    assert listed == {path.name for path in CALIBRATIONS.glob("*.toml")}
    assert {name for name, row in found.items() if row["runs"] is not None} == set(ENGINES)
    text = said("stacks")
    assert all(name in text for name in STACKS)


def test_a_stack_of_one_version_says_what_it_runs_and_what_others_do() -> None:
    row = document("stacks", "vLLM@0.14.0")["stacks"][0]
    assert "eagle3" in {entry["what"] for entry in row["runs"]}
    assert "model" in {entry["what"] for entry in row["elsewhere"]}
    text = said("stacks", "vllm@0.14.0", columns=160)
    assert "0.15.0 on" in text.partition("In other versions")[2]
    assert "https://" in text.partition("Sources")[2]
    assert "no table" in said("stacks", "magicdec")


def test_stacks_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UnknownName, match="did you mean vllm"):
        said("stacks", "vlm")
    with pytest.raises(UnknownName, match="did you mean vllm"):
        said("stacks", "vlm", "--json")
    with pytest.raises(UsageError, match=r"stack vllm@0\.1: the oldest version known"):
        said("stacks", "vllm@0.1")
    with pytest.raises(UsageError, match="leave the name out"):
        said("stacks", "vllm", "--tasks")


def test_tasks_are_listed_once_each() -> None:
    told = document("stacks", "--tasks")["tasks"]
    names = ["".join(c for c in row["task"].lower() if c.isalnum()) for row in told]
    assert len(set(names)) == len(names) > 10
    assert "eagle3" in {method for row in told for method in row["methods"]}
    assert told[0]["task"] in said("stacks", "--tasks", columns=200)
