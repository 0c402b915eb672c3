"""The pages: code imports and runs, links resolve, guides are short, results are one row a measurement and consistent."""

import ast
import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from verbot.evaluation.report.summary import PERCENT
from verbot.models import registries, reward_models
from verbot.recipes.variants import parse_variant, resolve_variant
from verbot.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "experiments/README.md", ROOT / "profiling/README.md"]
)
DATED = [page for page in PAGES if page.startswith("docs/notebook/2")]  # kept in the words of their time
LIVING = [page for page in PAGES if page not in DATED]
GUIDES = [page for page in PAGES if page.startswith(("docs/guides/", "docs/tutorials/"))]
RESULTS = [page for page in PAGES if page.startswith("docs/results/") and not page.endswith("index.md")]
OUTCOMES = ("docs/results/other_data.md", "docs/results/reliability.md")  # what is done with inputs and faults: no measurement

WORDS_OF_A_GUIDE = 800
COLUMNS = ("Measurement", "Value", "95 % interval", "n", "Seeds", "Date", "Commit", "Script")


def text(page):
    return (ROOT / page).read_text()


def blocks(page, language="python"):
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


def without_code(page):
    return re.sub(r"```.*?```", "", text(page), flags=re.DOTALL)


def tables(page):
    """Every table as (header cells, rows of cells)."""
    found, lines = [], without_code(page).splitlines()
    for k in range(len(lines) - 1):
        if lines[k].startswith("|") and re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", lines[k + 1].strip()):
            rows = []
            for line in lines[k + 2 :]:
                if not line.startswith("|"):
                    break
                rows.append(cells(line))
            found.append((cells(lines[k]), rows))
    return found


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def anchors(page):
    """The fragments that headings of a page make, as GitHub and MkDocs build them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", without_code(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.add(re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain.lower()).strip()))
    return found


def parse_row(cell):
    return tuple(float(number.replace("−", "-")) for number in re.fullmatch(r"\[([−\d.]+), ([−\d.]+)\]", cell).groups())


@pytest.mark.parametrize("page", LIVING)
def test_code_in_the_docs_is_python_and_what_it_imports_exists(page):
    for block in blocks(page):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize("page", [page for page in LIVING if "\n<!-- runs -->\n" in text(page)])
def test_code_that_needs_nothing_else_runs(page):
    """A block after the line ``<!-- runs -->`` is executed."""
    found = re.findall(r"<!-- runs -->\n+```python\n(.*?)```", text(page), re.DOTALL)
    assert found
    for block in found:
        exec(compile(block, page, "exec"), {})


def test_enough_code_runs():
    assert sum(text(page).count("\n<!-- runs -->\n") for page in LIVING) >= 13


@pytest.mark.parametrize("page", LIVING)
def test_overrides_in_the_docs_can_be_resolved(page):
    for word in re.findall(r'[`" ]([a-z0-9-]+\+[a-z_]+[a-z_.]*=[^`" ]+)[`" ]', text(page)):
        resolve_variant(parse_variant(word), {"samples": 100}, 0)


def folder_made_in(line):
    """(what makes it, folder) of a documented command; None where it makes no folder or adds to one."""
    words = shlex.split(line, comments=True)[1:]
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    if "--out" in words:
        folder = words[words.index("--out") + 1]
    else:
        place = {"collect": 1, "teleop": 1, "data import": 3}.get(name)
        folder = None if place is None else words[place]
    if folder is None or Path(folder).suffix or name == "robustness":  # strengths join in one folder of robustness
        return None
    return (name, words[1] if name == "evaluate" else None), folder


def test_no_folder_in_the_docs_is_made_by_two_commands():
    """Each command refuses, or continues, what another one left there."""
    makers = {}
    for page in LIVING:
        if not page.startswith(("docs/results/", "docs/reference/")):
            for line in re.findall(r"^(verbot .*)$", "\n".join(blocks(page, "bash")), re.MULTILINE):
                if made := folder_made_in(line):
                    makers.setdefault(made[1], {}).setdefault(made[0], f"{page}: {line}")
    several = {folder: list(by.values()) for folder, by in makers.items() if len(by) > 1}
    assert len(makers) > 40 and not several, several


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if target.startswith(("http", "mailto:")):
            continue
        name, _, fragment = target.partition("#")
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), target
        if fragment and path.suffix == ".md":
            assert fragment in anchors(path.relative_to(ROOT).as_posix()), target


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_is_short_and_has_no_table_of_results(page):
    words = len(without_code(page).split())
    assert words <= WORDS_OF_A_GUIDE, f"{words} words"
    for _, rows in tables(page):
        for row in rows:
            assert not re.search(r"\d ?%.*\[[−\d]", " ".join(row)), row
            assert not any(re.search(r"\d(?: ?%)? \[[−\d.]+, [−\d.]+\]", cell) for cell in row), row


@pytest.mark.parametrize("page", [page for page in RESULTS if not str(page).endswith(OUTCOMES)])
def test_results_are_one_row_a_measurement(page):
    assert tables(page)
    for header, rows in tables(page):
        assert [name for name in header if name != "p"] == list(COLUMNS), header
        for row in rows:
            record = dict(zip(header, row, strict=True))
            assert record["Measurement"] and record["Value"], row
            assert re.fullmatch(r"20\d\d-\d\d-\d\d", record["Date"]), row
            assert re.fullmatch(r"[0-9a-f]{7}", record["Commit"]), row
            script = record["Script"].strip("`")
            assert record["Script"] == "–" or (ROOT / script).exists() or script.split()[0] in _PROGRAMS, row


_PROGRAMS = ("verbot", "make", "pytest", "python", ".ci/run")


@pytest.mark.parametrize("page", [page for page in RESULTS if not str(page).endswith(OUTCOMES)])
def test_intervals_of_success_rates_follow_from_their_n(page):
    """Wilson's interval of k successes in n, for rows that are plain shares."""
    for header, rows in tables(page):
        for row in rows:
            record = dict(zip(header, row, strict=True))
            share = re.fullmatch(r"([\d.]+) %", record["Value"])
            if not ("success" in record["Measurement"] and share and record["95 % interval"] != "–" and record["n"].isdigit()):
                continue
            if "retention" in record["Measurement"]:
                continue
            n, low, high = int(record["n"]), *parse_row(record["95 % interval"])
            k = round(float(share[1]) / 100 * n)
            expected = wilson(k, n)
            assert abs(100 * k / n - float(share[1])) < 0.6, row
            assert abs(expected[0] - low) < 0.6 and abs(expected[1] - high) < 0.6, (row, expected)


def wilson(k, n, z=1.959964):
    share, scale = k / n, 1 + z * z / n
    middle = share + z * z / 2 / n
    half = z * math.sqrt(share * (1 - share) / n + z * z / 4 / n / n)
    return 100 * (middle - half) / scale, 100 * (middle + half) / scale


@pytest.mark.parametrize(
    ("data", "section", "least"), [("parts.json", "At equal samples", 24), ("parts_equal_time.json", "At equal time", 6)]
)
def test_the_tables_of_parts_are_what_their_data_say(data, section, least):
    record = json.loads((ROOT / "docs/results" / data).read_text())
    found = text("docs/results/parts.md").split(f"## {section}\n")[1].split("\n## ")[0]
    assert len(record["rows"]) > least
    for row in record["rows"]:
        success = row["metrics"]["success_rate"]
        value, low, high = (f"{100 * success[key]:.1f}" for key in ("value", "low", "high"))
        expected = rf"^\| {re.escape(row['name'])}: success \| {value} % \| \[{low}, {high}\] \|.*\| {success['n']} \|"
        assert re.search(expected, found, re.MULTILINE), row["name"]


@pytest.mark.parametrize("page", LIVING)
def test_arguments_of_documented_scripts_exist(page):
    """Each ``--flag`` is a name in the script."""
    for line in re.findall(r"^python ((?:experiments|profiling)/.*)$", "\n".join(blocks(page, "bash")), re.MULTILINE):
        script, *words = shlex.split(line)
        source = text(script)
        for flag in (word for word in words if word.startswith("--")):
            name = flag.removeprefix("--no-" if flag.startswith("--no-") else "--").replace("-", "_")
            assert re.search(rf"\b{name}\b", source) or flag in source, line


@pytest.mark.parametrize("folder", ["experiments", "profiling"])
def test_every_script_is_in_the_index_with_a_place_for_its_figures(folder):
    (_, rows), *_ = tables(f"{folder}/README.md")
    listed = {re.search(r"\]\(([^)]+)\)", row[0])[1]: row for row in rows}
    assert set(listed) == {path.name for path in (ROOT / folder).glob("*.py")}
    for row in listed.values():
        assert row[1] and "../docs/" in row[2], row


def test_the_generated_reference_is_current():
    done = subprocess.run([sys.executable, "tools/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_registered_part_is_on_the_page_of_parts_and_no_other():
    registered = {
        name
        for value in (*vars(registries).values(), *vars(reward_models).values())
        if isinstance(value, Registry)
        for name in value.names()
    }
    listed = {row[0].strip("`") for _, rows in tables("docs/reference/parts.md") for row in rows}
    assert listed == registered


def test_every_metric_of_a_summary_is_defined():
    page = text("docs/reference/metrics.md")
    for name in PERCENT - {"difference"}:
        assert f"| `{name}` |" in page, name


def test_nothing_names_the_machine_it_was_made_on():
    for folder in ("src", "docs", "examples", "tools", "experiments", "profiling", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".html", ".toml", ".yaml", ".json") and path != Path(__file__).resolve():
                found = re.search(r"/(work|root|home)/\w+", path.read_text())
                assert found is None, (path, found)
