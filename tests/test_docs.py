import ast
import json
import re
from pathlib import Path

import pytest

from verbot.evaluation.protocol.intervals import Estimate
from verbot.evaluation.report.summary import written
from verbot.recipes.variants import parse_variant, resolve_variant

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]
SELF_CONTAINED = ("docs/world.md", "docs/navigation.md", "docs/encoders.md", "docs/fusion.md", "docs/heads.md")


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_code_in_the_docs_is_python_and_what_it_imports_exists(page):
    for block in blocks(page):
        imports = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize("page", SELF_CONTAINED)
def test_code_that_needs_nothing_else_runs(page):
    assert blocks(page)
    for block in blocks(page):
        exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", PAGES)
def test_designs_in_the_docs_can_be_built(page):
    for word in re.findall(r'[`"]([a-z0-9-]+\+[a-z_]+[a-z_.]*=[^`"]+)[`"]', (ROOT / page).read_text()):
        resolve_variant(parse_variant(word), {"samples": 100}, 0)


@pytest.mark.parametrize(("data", "least"), [("docs/designs.json", 24), ("docs/designs-time.json", 6)])
def test_the_tables_of_designs_are_what_their_data_say(data, least):
    record, page = json.loads((ROOT / data).read_text()), (ROOT / "docs/designs.md").read_text()
    assert len(record["rows"]) > least
    for row in record["rows"]:
        success = Estimate(**row["metrics"]["success_rate"])
        assert re.search(rf"^\| {row['name']} \| .* \| {re.escape(written('success_rate', success))} \|", page, re.MULTILINE), (
            row["name"]
        )


def test_nothing_names_the_machine_it_was_made_on():
    for folder in ("src", "docs", "examples", "tools", "experiments", "profiling", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".html", ".toml", ".yaml", ".json") and path != Path(__file__).resolve():
                text = path.read_text()
                found = re.search(r"/(work|root|home)/\w+", text)
                assert found is None, (path, found)
