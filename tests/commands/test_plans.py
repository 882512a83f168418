"""`magicplan plan` and `magicplan report` as a user meets them: files, exit codes, one sentence."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from magicplan.planning.request import SLO_KEYS
from tests.report.capacity.a_plan import a_plan

OBSERVED = Path(__file__).parents[1] / "data" / "observed" / "vllm_serve.json"
QUICK = ("--gpu", "h100", "--draft", "none", "--requests-per-s", "4", "--prompt", "2048",
         "--output", "256", "--stack", "ideal")  # fmt: skip
Done = subprocess.CompletedProcess[str]


def run(*words: str, cwd: Path, blocked: str = "") -> Done:
    """The command line, without one package where `blocked` names it."""
    code = (
        f"import sys; sys.modules[{blocked!r}] = None; sys.argv[0] = 'magicplan';"
        "from magicplan.cli import main; main()"
    )
    words = ("-c", code, *words) if blocked else ("-m", "magicplan", *words)
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=cwd,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": root},
    )  # fmt: skip


def test_a_written_file_plans_as_it_is(tmp_path: Path) -> None:
    done = run("plan", "--init", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "plan.toml written" in done.stderr
    again = run("plan", "--init", cwd=tmp_path)
    assert again.returncode == 2
    assert "plan.toml exists" in again.stderr
    files = ("--html", "plan.html", "--markdown", "plan.md")
    done = run("plan", "plan.toml", "--json", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "magicplan.plan/1"
    page = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert (tmp_path / "plan.md").read_text(encoding="utf-8").startswith("# Chat\n\n**Rent ")
    (tmp_path / "stored.json").write_text(done.stdout, encoding="utf-8")
    again = run("report", "stored.json", "--html", "again.html", cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout.startswith("Rent ")
    assert "magicplan report stored.json" in (tmp_path / "again.html").read_text(encoding="utf-8")
    assert "magicplan plan plan.toml" in page


def test_one_price_stated_leaves_the_others(tmp_path: Path) -> None:
    priced = ("plan", *QUICK, "--gpu", "h100,l40s", "--prices", "h100=99")
    done = run(*priced, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {
        p["gpu"]: (p["usd_per_hour"], p["indicative"]) for p in json.loads(done.stdout)["prices"]
    }
    assert found["h100-sxm"] == (99, False)
    assert found["l40s"][1]
    (tmp_path / "chat.toml").write_text(
        '[traffic]\nrequests_per_s = 1\nprompt = 200\noutput = 20\n[choices]\ngpus = ["h100"]\n'
        'drafts = ["none"]\n[engine]\nstack = "ideal"\n'
    )
    done = run("fleet", "chat.toml", "--prices", "h100=99", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cost_usd_per_hour"] % 99 == 0


def test_options_alone_make_a_plan_and_win_over_a_file(tmp_path: Path) -> None:
    alone = run("plan", *QUICK, "--slo", "tpot_p95=0.05", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.startswith("Rent 1 x h100-sxm (1 replica of TP1")
    file = tmp_path / "plan.toml"
    file.write_text(
        '[traffic]\nusers = 9\nprompt = 100\noutput = 10\n[slo]\nttft_p95_seconds = 1\n'
        '[choices]\ngpus = ["l40s"]\n'
    )  # fmt: skip
    done = run("plan", str(file), *QUICK, "--slo", "tpot_p95=0.05", "--json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["best"]["gpu"] == "h100-sxm"
    assert document["traffic"]["mean_requests_per_s"] == 4
    assert document["slo"] == {"ttft_p95_seconds": 1, "tpot_p95_seconds": 0.05}


def test_common_fields_have_options(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("[choices]\ntrees = true\n[money]\nmax_gpus = 64\n")
    words = ("--growth", "0.5", "--prefix-hit-rate", "0", "--available", "h100=8",
             "--available", "l40s=0", "--no-trees", "--json")  # fmt: skip
    done = run("plan", "plan.toml", *QUICK, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["traffic"]["peak_requests_per_s"] == 6
    asked = document["request"]
    assert asked["available"] == {"h100": 8, "l40s": 0}
    assert (asked["trees"], asked["max_gpus"], asked["prefix_hit_rate"]) == (False, 64, 0)
    assert document["mixed"] is not None


def test_a_new_traffic_clears_what_belongs_to_the_file_s_own(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(
        '[traffic]\nusers = 9\nthink_seconds = 5\nprompt = 100\noutput = 10\n'
        '[choices]\ngpus = ["h100"]\ndrafts = ["none"]\n'
    )  # fmt: skip
    rows = "".join(f"{second},700,70\n" for second in range(60))
    (tmp_path / "t.csv").write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    done = run("plan", "plan.toml", "--requests-per-s", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["request"]["think_seconds"] == 0
    done = run("plan", "plan.toml", "--trace", "t.csv", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["traffic"]["prompt_mean_tokens"] == 700
    done = run("plan", "plan.toml", "--users", "20", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["request"]["think_seconds"] == 5
    done = run("plan", "plan.toml", "--trace", "t.csv", "--prompt", "5", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: --prompt contradicts --trace, which brings its own lengths"
    )
    done = run("plan", "plan.toml", "--requests-per-s", "3", "--gpu", "h10", cwd=tmp_path)
    assert done.stderr.startswith("error: --gpu: unknown accelerator 'h10'")


def test_limits_that_nothing_meets_are_exit_1_with_the_nearest_plan(tmp_path: Path) -> None:
    done = run("plan", *QUICK, "--slo", "ttft_p95=0.0001", "--html", "no.html", cwd=tmp_path)
    assert done.returncode == 1
    done = run("plan", *QUICK, "--slo", "ttft_p95=0.0001", "--full", cwd=tmp_path)
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert text.startswith("Nothing meets the limits: the nearest, ")
    assert "What binds: TTFT p95." in text


def test_every_limit_can_be_stated_as_an_option(tmp_path: Path) -> None:
    """All sixteen at once: each is in the verdict of the terminal with its interval."""
    limits = [f"--slo={key.removesuffix('_seconds')}=600s" for key in SLO_KEYS]
    done = run("plan", *QUICK, *limits, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for key in SLO_KEYS:
        metric, statistic, _ = key.split("_")
        name = f"{metric.upper()} {statistic}"
        assert re.search(rf"{name} [^,]* \(limit 600 s, 80 % [^)]* to [^)]*\)", text), name


def test_an_observed_run_stands_beside_and_leaves_a_calibration(tmp_path: Path) -> None:
    words = ("plan", *QUICK[:-2], "--observed", str(OBSERVED), "--fitted", "mine.toml")
    done = run(*words, "--full", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "vllm bench serve" in done.stdout
    assert "TPOT mean" in done.stdout
    again = run("plan", *QUICK[:-2], "--stack", "mine.toml", "--full", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "calibration mine" in again.stdout or "fitted" in again.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("plan",), "plan needs a file or a traffic"),
        (("plan", "no.toml"), "no.toml: cannot be read"),
        (("plan", "--requests-per-s", "nan"), "--requests-per-s 'nan': expected a positive number"),
        (
            ("plan", "--requests-per-s", "1", "--users", "2"),
            "--requests-per-s and --users state the traffic",
        ),
        (("plan", "--slo", "fast"), "--slo 'fast': expected a name and a time"),
        (("plan", *QUICK, "--slo", "speed=1"), "--slo speed is no limit"),
        (("plan", *QUICK, "--slo", "ttft_p95=-1"), "--slo ttft_p95 '-1': expected a time"),
        (("plan", *QUICK, "--gpu", "h10"), "unknown accelerator 'h10'"),
        (("plan", *QUICK, "--gpu", ","), "--gpu is empty"),
        (("plan", *QUICK, "--max-gpus", "0"), "--max-gpus '0'"),
        (("plan", *QUICK, "--growth", "-1"), "--growth '-1': expected 0 or a positive number"),
        (
            ("plan", *QUICK, "--prefix-hit-rate", "2"),
            "--prefix-hit-rate 2: expected a number from 0 to 1",
        ),
        (("plan", *QUICK, "--available", "h100"), "--available 'h100': expected a GPU and a count"),
        (("plan", *QUICK, "--available", "h100=x"), "--available 'x'"),
        (("plan", *QUICK, "--stack", "vllm", "--trees"), "--trees true: vllm runs no tree"),
        (("plan", *QUICK, "--prices", "no.toml"), "no.toml: cannot be read"),
        (("plan", *QUICK, "--fitted", "x.toml"), "--stated and --fitted go with --observed"),
        (("plan", *QUICK, "--observed", "no.json"), "no.json: cannot be read"),
        (
            ("plan", *QUICK, "--json", "--html", "/no/such/folder/x.html"),
            "--html /no/such/folder/x.html",
        ),
        (("plan", "--init", "/no/such/folder/x.toml"), "--init /no/such/folder/x.toml"),
        (("report",), "Missing argument"),
        (("report", "no.json"), "no.json: cannot be read"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("package", ["jinja2", "vl_convert"])
def test_without_the_report_extra_only_html_is_missing(package: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(a_plan().to_dict()), encoding="utf-8")
    done = run("report", str(path), "--html", "x.html", cwd=tmp_path, blocked=package)
    assert (done.returncode, done.stdout) == (3, "")
    assert "magicplan[report]" in done.stderr
    assert not (tmp_path / "x.html").exists()
    done = run("report", str(path), "--markdown", "x.md", cwd=tmp_path, blocked=package)
    assert done.returncode == 0
    done = run("report", str(path), cwd=tmp_path, blocked=package)
    assert done.stdout.startswith("Rent 4 x h100-sxm")


def test_a_plan_starts_without_drawing(tmp_path: Path) -> None:
    """Nor do jinja2 and vl-convert load where no HTML is asked for."""
    code = (
        "import sys; sys.argv = ['magicplan', 'report', 'plan.json'];"
        "from magicplan.cli import main; main();"
        "print(*{'vl_convert', 'jinja2'} & set(sys.modules), file=sys.stderr)"
    )
    (tmp_path / "plan.json").write_text(json.dumps(a_plan().to_dict()), encoding="utf-8")
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert done.stderr.strip() == ""


SMALL = """
name = "{name}"
model = "{model}"
[traffic]
requests_per_s = {rate}
prompt = 2048
output = 256
[slo]
tpot_p95_seconds = 0.05
[choices]
gpus = ["h100", "l40s"]
drafts = ["none"]
"""


def test_a_mix_within_the_gpus_at_hand_is_the_same_everywhere(tmp_path: Path) -> None:
    """On the terminal, in the JSON, and from `fleet`, which reads the stock from the plan file."""
    stock = "[money]\navailable = {h100 = 1, l40s = 20}\n"
    text = SMALL.format(name="chat", model="llama-3.1-8b", rate=20)
    text = f'{text}disaggregation = "off"\n{stock}'
    (tmp_path / "chat.toml").write_text(text, encoding="utf-8")
    done = run("plan", "chat.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["answer"] == "mixed"
    assert document["mixed"]["gpus"]["h100-sxm"] == 1
    shown = run("plan", "chat.toml", "--full", cwd=tmp_path)
    joint = run("fleet", "chat.toml", cwd=tmp_path)
    assert shown.returncode == joint.returncode == 0
    cost = f"{document['mixed']['cost_usd_per_hour']:.2f}"
    told = [" ".join(one.stdout.split()) for one in (shown, joint)]
    for gpu, count in document["mixed"]["gpus"].items():
        assert all(f"{count} x {gpu}" in text.partition(cost)[0] for text in told)
        assert all(f"Launch a replica on {gpu}" in text for text in told)
    assert told[0].startswith("Rent a mix: ")


def test_a_fleet_for_two_models_within_the_gpus_at_hand(tmp_path: Path) -> None:
    for name, model, rate in (("chat", "llama-3.1-8b", 20), ("code", "qwen3-32b", 4)):
        text = SMALL.format(name=name, model=model, rate=rate)
        (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
    done = run("fleet", "chat.toml", "code.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "magicplan.mixed_fleet/1"
    assert {part["workload"] for part in document["parts"]} == {"chat", "code"}
    shown = run("fleet", "chat.toml", "code.toml", "--available", "h100=8", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "l40s" not in shown.stdout
    short = run("fleet", "chat.toml", "code.toml", "--available", "l40s=1", cwd=tmp_path)
    assert short.returncode == 1
    assert "No mix of replicas carries chat and code" in short.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--available", "h100"), "expected a GPU and a count, such as h100=16"),
        (("--available", "h900=2"), "unknown accelerator 'h900'"),
        (("--available", "h100=-2"), "--available"),
        ((), "missing.toml"),
    ],
)
def test_a_fleet_s_bad_words_are_named(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = run("fleet", "missing.toml", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
