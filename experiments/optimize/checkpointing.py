"""Memory and time of a training step with and without gradient checkpointing, in one process each. Prints one JSON record.

Example:
    python experiments/optimize/checkpointing.py --recipe starter --batch 256 --out outputs/checkpointing.json

With ``--trunk LAYERS`` the backbone is ``vlm`` on a frozen decoder of Llama's architecture with random weights, width 256 and so
many layers, and with adapters of rank 8.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from verbot.files import write_atomic


def write_trunk(folder: Path, layers: int, width: int = 256) -> dict[str, Any]:
    """A checkpoint with the names and files of published ones; the settings of a network that has it."""
    import torch
    from safetensors.torch import save_file

    from verbot.models.trunks.architecture import decoder_config
    from verbot.models.trunks.decoder import LanguageDecoder
    from verbot.models.trunks.tiny import fitted_tokenizer

    record = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": width, "intermediate_size": 3 * width,
        "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(0)
    decoder = LanguageDecoder(decoder_config(record))
    decoder.initialize()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "tokenizer.json").write_text(fitted_tokenizer(("pick up the red cube", "push the green ball to the left"), 500))
    save_file({f"model.{name}": value.contiguous() for name, value in decoder.state_dict().items()}, folder / "model.safetensors")
    trunk = {"name": "hf", "options": {"checkpoint": str(folder), "mode": "frozen", "adapters": 8}}
    return {"backbone": "vlm", "backbone.order": ["keypoints", "state", "text"], "backbone.trunk": trunk}


def measured(
    recipe: str, data: str, out: str, batch: int, steps: int, checkpointing: bool, seed: int, network: dict[str, Any]
) -> dict[str, Any]:
    """The peak of resident memory, and the time of a step, of a short training in this process."""
    import verbot
    from verbot.workflows.timing import highest_mb

    settings: dict[str, Any] = {
        **network,
        "processes": 1,
        "checkpointing": checkpointing,
        "batch_size": batch,
        "steps": steps,
        "seed": seed,
    }
    verbot.train(recipe, data=data, out=f"{out}/warm", progress=False, **{**settings, "steps": 1, "batch_size": 2})
    before, started = highest_mb(), time.perf_counter()
    verbot.train(recipe, data=data, out=f"{out}/run", progress=False, **settings)
    return {"peak_mb": highest_mb(), "before_mb": before, "seconds_per_step": (time.perf_counter() - started) / steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="starter")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=20, help="of the expert, on which is trained")
    parser.add_argument("--suite", default="tabletop-starter")
    parser.add_argument("--trunk", type=int, default=0, metavar="LAYERS", help="of a frozen language trunk; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the record here")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # in the processes that are measured: their arguments
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(**json.loads(arguments.one))))
        return
    import verbot

    found: dict[str, Any] = {
        "recipe": arguments.recipe,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "seed": arguments.seed,
        "trunk_layers": arguments.trunk,
    }
    with tempfile.TemporaryDirectory(prefix="verbot-checkpointing-") as folder:
        data = f"{folder}/data"
        verbot.collect(arguments.suite, data, arguments.episodes, arguments.seed, workers=1, progress=False)
        network = write_trunk(Path(folder) / "trunk", arguments.trunk) if arguments.trunk else {}
        for name, enabled in (("plain", False), ("checkpointing", True)):
            one = {"recipe": arguments.recipe, "data": data, "out": f"{folder}/{name}", "batch": arguments.batch,
                   "steps": arguments.steps, "checkpointing": enabled, "seed": arguments.seed,
                   "network": network}  # fmt: skip
            call = [sys.executable, __file__, "--one", json.dumps(one)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
    record = json.dumps(found, indent=2)
    if arguments.out:
        write_atomic(arguments.out, record + "\n")
    print(record)


if __name__ == "__main__":
    main()
