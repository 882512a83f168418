"""The HTML file: escaped, self-contained, the same bytes for the same input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from magicplan.errors import MissingExtra
from magicplan.report.document import html
from magicplan.report.document.page import Plot
from magicplan.report.pages import pages_of
from tests.report.capacity.a_plan import NASTY, a_plan
from tests.report.capacity.golden_texts import page_of
from tests.report.document.reader import Reader
from tests.report.documents import documents

pytest.importorskip("jinja2", reason="needs the report extra")
pytest.importorskip("vl_convert", reason="needs the report extra")
MOST_BYTES = 1_300_000


@pytest.fixture(scope="module")
def text() -> str:
    return html.render((page_of(a_plan(name=NASTY)),))


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_names_from_files_are_text(read: Reader) -> None:
    plots = [b for s in page_of(a_plan()).sections for b in s.blocks if isinstance(b, Plot)]
    scripts = read.all("script")
    assert len(scripts) == len(plots) + 2  # data of every plot, the library, the page's own
    assert sum(NASTY in words for words in read.words) >= 5  # title, tables, why, assumptions
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)


def test_plot_data_cannot_close_its_script(text: str) -> None:
    start = text.index('<script type="application/json"')
    assert "</script><" not in text[start:].split("alert(")[1][:20]
    assert "\\u003cscript\\u003ealert" in text


def test_nothing_is_fetched(read: Reader, text: str) -> None:
    for _, attributes in read.tags:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    policy = next(a for a in read.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    assert "url(" not in text[text.index("<style>") : text.index("</style>")]


def test_a_reader_without_eyes_finds_everything(read: Reader) -> None:
    ids = {attributes["id"] for _, attributes in read.tags if "id" in attributes}
    assert len(ids) == sum("id" in attributes for _, attributes in read.tags)
    for _, attributes in read.tags:
        for key in ("aria-labelledby", "aria-describedby"):
            assert set((attributes.get(key) or "").split()) <= ids
        target = attributes.get("href") or "#"
        assert target[:1] != "#" or target == "#" or target[1:] in ids
    plots = [a for a in read.all("div") if a.get("class") == "plot"]
    assert plots
    assert all(a["role"] == "group" for a in plots)
    assert all(a.get("aria-labelledby") and a.get("aria-describedby") for a in plots)
    assert len(read.all("details")) == len(plots)  # every figure has its table
    assert all(a.get("aria-label") and a.get("tabindex") == "0"
               for a in read.all("div") if a.get("class") == "scroll")  # fmt: skip
    assert all(a.get("scope") for a in read.all("th"))
    assert read.all("html")[0]["lang"] == "en"


@pytest.mark.parametrize("name", sorted(documents()))
def test_every_document_stays_small_and_repeats(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(documents()[name], encoding="utf-8")
    pages = tuple(pages_of(path))
    whole = html.render(pages)
    assert len(whole.encode()) <= MOST_BYTES
    assert whole == html.render(tuple(pages_of(path)))


def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(documents()["plan"], encoding="utf-8")
    code = (
        "import sys, hashlib; from pathlib import Path; from magicplan.report.document import html;"
        "from magicplan.report.pages import pages_of;"
        "text = html.render(tuple(pages_of(Path(sys.argv[1]))));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""},
            cwd=Path(html.__file__).parents[3],
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize("missing", ["jinja2", "vl_convert"])
def test_without_the_extra_it_says_how_to_get_it(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r"magicplan\[report\]") as problem:
        html.render((page_of(a_plan()),))
    assert problem.value.exit_code == 3


def test_a_page_without_plots_leaves_the_library_out() -> None:
    from magicplan.report.document.page import Page

    assert len(html.render((Page(title="t", verdict="v"),))) < 50_000
