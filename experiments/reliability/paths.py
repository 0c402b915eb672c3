"""Hostile names, paths, links and playlists in other people's data: does verbot write, delete or read outside the folder given?

Run it as ``python experiments/reliability/paths.py --count 320 --seed 0 --out outputs/paths.json``. Every case is made from the
seed in a sandbox: a source, a target, a victim (another dataset, with a person's note in it) and private files whose content is
known. A case calls verbot's public functions as its commands do. Afterwards the sandbox is compared with the one before: files
outside the target that were written, changed or deleted, private content that became data, episodes that were saved and never
merged, names of two cameras that became one, and errors of another type than verbot's own.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from path_cases import CASES
from path_sandbox import Sandbox, holds_private_content, make_template, prepare

from verbot.data import open_dataset
from verbot.errors import VerbotError

FAULTS = {
    "outside": "wrote_or_deleted_outside",
    "leaked": "private_became_data",
    "deleted": "notes_deleted",
    "stuck": "saved_never_merged",
    "joined": "cameras_joined",
}


def run(case: Callable[[Sandbox], None], box: Sandbox) -> dict[str, Any]:
    """What one case did: ``error`` is the type of what it raised, the others whether it happened."""
    error, message, before = "", "", box.snapshot()
    try:
        case(box)
    except VerbotError as caught:
        error, message = "typed", str(caught)
    except Exception as caught:
        error, message = "untyped", f"{type(caught).__name__}: {caught}"
    after = box.snapshot()  # the case itself makes the source, and may change the private files
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    outside = sorted(name for name in changed if not name.startswith((str(box.source), str(box.private))))
    leaked = box.facts.get("leaked", False)
    if not leaked and (box.target / "meta/info.json").is_file():
        try:
            leaked = any(holds_private_content(open_dataset(box.target)))
        except VerbotError:
            pass
    facts = {"leaked": bool(leaked), **{name: bool(box.facts.get(name, False)) for name in ("deleted", "stuck", "joined")}}
    return {"case": case.__name__, "error": error, "message": message[:200], "outside": outside, **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="the name of one case, for example playlist")
    parser.add_argument("--out", type=Path, help="gets the record with every case that is not as it should be")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        template_root = Path(folder) / "template"
        make_template(template_root)
        for number in range(arguments.count):
            case = CASES[number % len(CASES)]
            if arguments.only not in ("", case.__name__):
                continue
            box = Sandbox(Path(folder) / str(number), random.Random(f"{arguments.seed} {number}"))
            prepare(template_root, box.root)
            found.append(run(case, box) | {"number": number})
            shutil.rmtree(box.root, ignore_errors=True)
    wrong = [each for each in found if each["error"] == "untyped" or any(each[name] for name in FAULTS)]
    counts = {name: sum(bool(each[name]) for each in found) for name in FAULTS}
    errors = Counter(each["error"] for each in found)
    record: dict[str, Any] = {"test": "paths", "count": len(found), "seed": arguments.seed}
    record |= {said: counts[name] for name, said in FAULTS.items()}
    record |= {"untyped": errors["untyped"], "refused": errors["typed"], "done": errors[""]}
    record["by_case"] = dict(Counter(each["case"] for each in wrong))
    print(json.dumps(record))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**record, "wrong": wrong}, indent=1))


if __name__ == "__main__":
    main()
