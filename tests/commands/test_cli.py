"""The command line as a user meets it: golden output, exit codes, one sentence for every error."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
Done = subprocess.CompletedProcess[str]


def run(*words: str, columns: int = 80) -> Done:
    environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(
        [sys.executable, "-m", "magicplan", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def answered(*words: str, columns: int = 80) -> str:
    done = run(*words, columns=columns)
    assert done.returncode == 0, done.stderr
    return done.stdout


WORKLOAD = ("--gpu", "a100", "--batch", "128", "--ctx", "64k")


@pytest.mark.parametrize("columns", [80, 120])
def test_the_report_fits_the_terminal_and_answers_first(columns: int) -> None:
    text = answered("predict", *WORKLOAD, "--full", columns=columns)
    assert text.startswith("Decoding is memory-bound on the KV cache; ")
    assert "snapkv:2048, 9 drafted tokens, would give 2." in " ".join(text.split())
    assert max(len(line.rstrip()) for line in text.splitlines()) <= columns
    order = ["Step", "Draft lengths", "Memory", "Break-even", "Rests on"]
    places = [text.index(f"\n{part}\n") for part in order]
    assert places == sorted(places)
    assert "16 x a100-sxm-80gb" in text
    assert "65536 tokens" in " ".join(text.split())


def test_golden_ideal_step() -> None:
    """Ideal calibration, stated acceptance: only datasheets and formulas decide these lines."""
    text = answered(
        "predict", "--gpu", "a100", "--batch", "1", "--ctx", "1k", "--stack", "ideal",
        "--acceptance", "0.8", "--max-gamma", "2", "--draft", "self",
        "--full",
    )  # fmt: skip
    assert text.splitlines()[0].startswith(
        "Decoding is memory-bound on weights; do not speculate: the best draft, self"
    )
    assert "linear layers   7.36 ms   99.1%   15.0 GB" in text
    assert "attention       66.1 us    0.9%    134 MB" in text


def test_a_gain_that_may_be_a_loss_is_called_so() -> None:
    text = answered(
        "predict", "--gpu", "h100", "--batch", "4", "--ctx", "8k", "--stack", "ideal", "--draft",
        "self",
    )  # fmt: skip
    assert "whether to speculate is not decided: self streaming:512" in " ".join(text.split())
    assert "not decided" not in answered("predict", *WORKLOAD, "--draft", "self")


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "words",
    [
        ("predict", *WORKLOAD),
        ("predict", "--gpu", "h100", "--model", "gpt-oss-120b"),
        ("plan", "--gpu", "h100", "--requests-per-s", "2", "--slo", "ttft_p95=1"),
    ],
    ids=" ".join,
)
def test_the_first_answer_fits_a_screen(words: tuple[str, ...], columns: int) -> None:
    text = answered(*words, columns=columns)
    assert sum(max(1, -(-len(line) // columns)) for line in text.splitlines()) <= 24
    assert text.splitlines()[-1] == "--full shows everything, --json every number."
    assert "Rests on calibration" in text
    if words[0] == "plan":
        assert "vllm serve meta-llama/Llama-3.1-8B" in text
        assert "(assumed)" in " ".join(text.split())


def test_json_is_one_document() -> None:
    document = json.loads(answered("predict", *WORKLOAD, "--json"))
    assert document["schema"] == "magicplan.prediction/1"
    assert document["deployment"]["gpus"] == 16
    assert document["workload"]["ctx_tokens"] == 65536


def test_sweep_as_csv_json_and_table(tmp_path: Path) -> None:
    grid = ("sweep", "--gpu", "h100,a100", "--batch", "1,64", "--ctx", "4k..64k*16")
    rows = list(csv.DictReader(io.StringIO(answered(*grid, "--csv"))))
    assert len(rows) == 8
    assert {row["gpu"] for row in rows} == {"h100-sxm", "a100-sxm-80gb"}
    document = json.loads(answered(*grid, "--json"))
    assert document["predictions"][0]["best"]["speedup"][0][0] == float(rows[0]["speedup"])
    figure = tmp_path / "map.png"
    text = answered(*grid, "--figure", str(figure))
    assert "llama-3.1-8b on h100-sxm" in text
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_facts() -> None:
    assert "a100-sxm-80gb" in answered("gpus")
    assert "312 TFLOP/s" in answered("gpus", "a100")
    assert "provisional" in answered("gpus", "gh200-144gb")
    assert "llama-3.1-8b" in answered("models", columns=120)
    assert "131,072 bytes" in answered("models", "llama-3.1-8b")
    assert len(json.loads(answered("gpus", "--json"))["accelerators"]) >= 45
    assert len(json.loads(answered("models", "--json"))["models"]) >= 55


def test_calibrate_and_replay(tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data"
    text = answered("calibrate", "--kernels", str(data / "kernels"), "--out", str(tmp_path))
    assert "h100-sxm_vllm_1.2.3" in text
    assert "linear.bf16" in text
    (own,) = tmp_path.glob("*.toml")
    predicted = json.loads(answered("predict", "--gpu", "h100", "--stack", str(own), "--json"))
    assert predicted["deployment"]["calibration"] == "h100-sxm_vllm_1.2.3"
    document = json.loads(answered("calibrate", "--kernels", str(data / "kernels"), "--json"))
    assert document["groups"][0]["parts"]["attention.bf16"]["constants"]["launch_seconds"] > 0
    figure = tmp_path / "scatter.png"
    text = answered("replay", str(data / "published.csv"), "--figure", str(figure))
    for part in ("regret of the draft length", "Worst rows", "Impossible", "Not used: 3"):
        assert part in text
    assert figure.read_bytes().startswith(b"\x89PNG")
    document = json.loads(answered("replay", str(data / "published.csv"), "--json"))
    assert {s["kind"] for s in document["summaries"]} == {"step", "speedup"}
    assert len(document["skipped"]) == 3


def test_drafts_trees_and_regimes(tmp_path: Path) -> None:
    text = answered("drafts", "--gpu", "h100", "--batch", "32", "--ctx", "32k")
    assert text.startswith(("Speculate with ", "Whether to speculate"))
    document = json.loads(answered("drafts", "--gpu", "h100", "--json"))
    assert document["plans"][0]["runs_on_stack"]
    assert document["plans"][0]["exists_for_model"]
    figure, file = tmp_path / "trees.svg", tmp_path / "trees.json"
    cells = ("--gpu", "h200", "--gpus", "8", "--ctx", "4k,64k", "--batch", "1,8")
    drawn = ("--figure", str(figure), "--out", str(file))
    document = json.loads(
        answered("tree", "--adaptive", *cells, "--acceptance", "0.7", *drawn, "--json")
    )
    assert json.loads(file.read_text()) == document
    assert len(document["points"]) == 4
    assert all(len(p["parents"]) == p["size"] for p in document["points"])
    assert "<svg" in figure.read_text()
    image = tmp_path / "map.png"
    text = answered("regimes", "--gpu", "h100", "--gpus", "8", "--figure", str(image))
    for family in ("constant KV", "eagle3 (growing KV)", "no KV"):
        assert family in text
    assert image.read_bytes().startswith(b"\x89PNG")


def test_the_best_choice_of_every_cell(tmp_path: Path) -> None:
    cells = ("sweep", "--choice", "--gpu", "h100", "--batch", "1,64", "--ctx", "4k,64k")
    figure = tmp_path / "choice.svg"
    text = answered(*cells, "--figure", str(figure), columns=120)
    assert "The best draft" in text
    assert "<svg" in figure.read_text()
    document = json.loads(answered(*cells, "--json"))
    assert document["schema"] == "magicplan.choice/1"
    assert [(c["batch"], c["ctx_tokens"]) for c in document["cells"]] == [
        (1, 4096), (1, 65536), (64, 4096), (64, 65536),
    ]  # fmt: skip
    for cell in document["cells"]:
        assert cell["speedup_low"] <= cell["speedup"] <= cell["speedup_high"]


@pytest.mark.parametrize(
    "words",
    [
        ("tree", "--adaptive", "--gpu", "h200", "--ctx", "1k..128k*2", "--batch", "1,8,64,256"),
        ("sweep", "--gpu", "h200", "--gpus", "8", "--batch", "1,1024", "--ctx", "1k..128k*2"),
        (
            "sweep",
            "--choice",
            "--gpu",
            "h200",
            "--gpus",
            "8",
            "--batch",
            "64",
            "--ctx",
            "1k..128k*2",
        ),
        ("regimes", "--gpu", "h200", "--gpus", "8", "--batch", "64", "--ctx", "1k..128k*2"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_wide_grids_fit_a_narrow_terminal(words: tuple[str, ...]) -> None:
    text = answered(*words)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "\u2026" not in text
    for ctx in ("1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k"):
        assert ctx in text.split()


def test_settings_as_text_and_json() -> None:
    grid = ("sweep", "--gpu", "h100", "--batch", "1,64", "--ctx", "4k,64k", "--draft", "eagle3")
    assert "--speculative-config" in answered(*grid, "--settings", "vllm")
    document = json.loads(answered(*grid, "--settings", "sglang", "--json"))
    assert document["schema"] == "magicplan.settings/1"
    assert all(len(entry) == 5 for entry in document["schedule"])
    one = ("tree", "--gpu", "h100", "--batch", "1", "--ctx", "4k", "--draft", "eagle3")
    assert "speculative_token_tree" in answered(*one, "--settings", "vllm@0.12.0")
    assert "% slower" in " ".join(answered(*one, "--settings", "vllm").split())
    self_draft = (*one[:-1], "self", "--settings", "vllm", "--json")
    document = json.loads(answered(*self_draft))
    assert json.loads(shlex.split(document["text"])[1])["method"] != "draft_model"
    assert "nearest: " in document["notes"][0]
    document = json.loads(answered(*grid[:-2], "--choice", "--settings", "vllm", "--json"))
    assert json.loads(shlex.split(document["text"])[1])["num_speculative_tokens"] > 0
    assert "one draft for all cells" in document["notes"][0]


def test_static_batching_from_the_command_line() -> None:
    workload = ("--gpu", "h100", "--batch", "64", "--ctx", "16k", "--output", "64")
    refilled, static = (
        json.loads(answered("predict", *workload, "--batching", kind, "--json"))
        for kind in ("continuous", "static")
    )
    assert static["baseline"] == refilled["baseline"]
    assert static["best"]["speedup"] < refilled["best"]["speedup"]
    assert any("static batching" in line for line in static["assumptions"])
    ranked = answered("drafts", *workload, "--batching", "static")
    assert "static batching" in " ".join(ranked.split())
    tree = ("tree", *workload, "--acceptance", "0.8", "--batching")
    point, other = (
        json.loads(answered(*tree, kind, "--json"))["points"][0]
        for kind in ("continuous", "static")
    )
    assert other["speedup"] < point["speedup"]


def test_a_tree_file_is_valued_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "trees.json"
    one = ("tree", "--gpu", "h100", "--batch", "8", "--ctx", "32k", "--draft", "eagle3")
    answered(*one, "--out", str(file))
    document = json.loads(answered(*one, "--from", str(file), "--json"))
    assert document["trees"][0]["loss"] == pytest.approx(0, abs=1e-9)
    for parents, wrong in (("-1, 2, 1", "expected an earlier node"), ("-1, -1", "second root")):
        file.write_text(f'{{"schema": "magicplan.tree/1", "points": [{{"parents": [{parents}]}}]}}')
        done = run(*one, "--from", str(file))
        assert (done.returncode, done.stdout) == (2, "")
        assert wrong in done.stderr


def test_explain_covers_speculation() -> None:
    workload = ("explain", "--gpu", "h100", "--batch", "32", "--ctx", "32k", "--output", "1k")
    own = (*workload, "--draft", "self", "--json")
    names = {f["name"] for f in json.loads(answered(*own))["formulas"]}
    assert names >= {
        "Survival of drafted tokens", "Tokens a round while the context grows",
        "Which drafters gain from context", "Worth of a tree", "Time of a tree's round",
        "Rounds until the last sequence of a static batch is done", "Interval of a speedup",
    }  # fmt: skip
    triforce = (*workload[:7], "--draft", "triforce", "--model", "llama-2-7b-32k", "--json")
    names = {f["name"] for f in json.loads(answered(*triforce))["formulas"]}
    assert "A draft that is drafted for" in names


@pytest.mark.parametrize("model", ["mixtral-8x7b", "deepseek-v3", "gpt-oss-120b", "gemma-3-27b"])
def test_explain_answers_for_experts_windows_and_latent_attention(model: str) -> None:
    workload = ("explain", "--gpu", "b200", "--model", model, "--batch", "64", "--ctx", "32k")
    assert "query tokens" in answered(*workload)
    document = json.loads(answered(*workload, "--json"), parse_constant=pytest.fail)
    walls = [f for f in document["formulas"] if f["name"].endswith("attention turns compute-bound")]
    assert 1 < walls[0]["value"] < walls[0]["inputs"]["ridge"]


def test_explain() -> None:
    text = answered("explain", "--gpu", "h100", "--batch", "32", "--ctx", "32k")
    assert "Best draft length" in text
    assert "Lambert W" in text
    document = json.loads(answered("explain", "--gpu", "h100", "--json"))
    assert document["schema"] == "magicplan.explain/1"
    assert document["formulas"][0]["latex"]


def test_help_shows_an_example_of_every_command() -> None:
    assert "predict" in answered()
    for command in (
        "predict", "sweep", "regimes", "drafts", "tree", "explain", "calibrate", "replay", "gpus",
        "models",
    ):  # fmt: skip
        assert "Example: magicplan" in answered(command, "--help")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predict",), "--gpu"),
        (("predict", "--gpu", "h10"), "did you mean"),
        (("predict", "--gpu", "a100", "--model", "lama-2-7b"), "llama-2-7b"),
        (("predict", "--gpu", "a100", "--ctx", "-1"), "--ctx"),
        (("predict", "--gpu", "a100", "--ctx", "0"), "--ctx"),
        (("predict", "--gpu", "a100", "--ctx", "nan"), "--ctx"),
        (("predict", "--gpu", "a100", "--ctx", "64q"), "--ctx"),
        (("predict", "--gpu", "a100", "--batch", "1e30"), "--batch"),
        (("predict", "--gpu", "a100", "--batch", ""), "--batch"),
        (("predict", "--gpu", "a100", "--tp", "3"), "--tp 3"),
        (("predict", "--gpu", "a100", "--gpus", "0"), "--gpus"),
        (("predict", "--gpu", "a100", "--memory-fraction", "x"), "--memory-fraction"),
        (("predict", *WORKLOAD, "--gpus", "1"), "largest batch that fits"),
        (("predict", "--gpu", "a100", "--acceptance", "2"), "from 0 to 1"),
        (("predict", "--gpu", "a100", "--acceptance", "mix:0.5*0.9+0.4*0.8"), "do not sum to 1"),
        (("predict", "--gpu", "a100", "--acceptance", "marg:0.6,0.7"), "increases"),
        (("predict", "--gpu", "a100", "--acceptance", "rank:none.json"), "cannot be read"),
        (("predict", "--gpu", "a100", "--draft-kv", "streaming:4"), "4 sinks"),
        (("predict", "--gpu", "a100", "--draft-kv", "topk:0"), "--draft-kv"),
        (("predict", "--gpu", "a100", "--draft-kv", "quant:3"), "quant:4 or quant:8"),
        (("predict", "--gpu", "a100", "--draft", "mtp"), "no multi-token-prediction layer"),
        (("predict", "--gpu", "a100", "--draft", "self:llama-68m"), "takes no smaller model"),
        (("predict", "--gpu", "a100", "--draft", "triforce:llama-68m:0"), "inner tokens"),
        (("predict", "--gpu", "a100", "--draft", "ngram", "--draft-kv", "snapkv:512"), "no KV"),
        (("predict", "--gpu", "a100", "--batching", "static"), "needs --output"),
        (("predict", "--gpu", "a100", "--batching", "ragged"), "expected one of continuous"),
        (("tree", "--gpu", "a100", "--tree-ranks", "noisy"), "expected one of pooled"),
        (("tree", "--gpu", "a100", "--max-size", "9999"), "expected 1 to 4096"),
        (("tree", "--gpu", "a100", "--batch", "1,8"), "--batch"),
        (("sweep", "--gpu", "a100", "--settings", "tgi"), "expected one of"),
        (("sweep", "--gpu", "a100,h100", "--choice"), "one --gpu"),
        (("predict", "--gpu", "a100", "--model", "/nonexistent/config.json"), "does not exist"),
        (("predict", "--gpu", "none.toml"), "cannot be read"),
        (("sweep", "--gpu", "a100", "--batch", "8..1*2"), "--batch"),
        (("sweep", "--gpu", ","), "--gpu is empty"),
        (("sweep", "--gpu", "a100", "--csv", "--json"), "exclude"),
        (("sweep", "--gpu", "a100", "--figure", "map.txt"), ".png or .svg"),
        (("gpus", "voodoo"), "unknown accelerator"),
        (("models", "eliza"), "unknown model"),
        (("predikt",), "predikt"),
        (("predict", "--gpu", "a100", "--colour", "red"), "--colour"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(words: tuple[str, ...], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_user_s_own_files(tmp_path: Path) -> None:
    gpu = tmp_path / "mine.toml"
    gpu.write_text(
        'name = "mine"\nunits = 100\nmemory_bytes = 80e9\nmemory_bytes_per_s = 2e12\n'
        "[dense_flops_per_s]\nbf16 = 300e12\n"
    )
    model = tmp_path / "config.json"
    model.write_text(
        '{"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, '
        '"num_attention_heads": 8, "intermediate_size": 4096, "vocab_size": 32000}'
    )
    text = answered("predict", "--gpu", str(gpu), "--model", str(model), "--full")
    assert "1 x mine" in " ".join(text.split())


def test_the_readme_runs_what_it_shows() -> None:
    """Every `magicplan` line of the README's blocks is answered."""
    blocks = README.read_text(encoding="utf-8").split("```bash\n")[1:]
    lines = [line for block in blocks for line in block.split("```")[0].splitlines()]
    commands = [line.split() for line in lines if line.startswith("magicplan ")]
    assert commands
    for words in commands:
        assert run(*words[1:]).returncode == 0, words


@pytest.mark.parametrize(
    ("acceptance", "said"),
    [
        ("0.8", "Every position alike"),
        ("beta:4,1", "drawn from Beta"),
        ("mix:0.5*0.9+0.5*0.3", "w_1 = 0.5"),
        ("cond:0.8,0.7", "c_1 = 0.8, c_2 = 0.7"),
        ("auto", "Measured at a budget of K_0"),
    ],
)
def test_explain_shows_the_law_of_acceptance_in_use(acceptance: str, said: str) -> None:
    text = answered("explain", "--gpu", "h100", "--ctx", "32k", "--acceptance", acceptance)
    assert said in " ".join(text.split())
