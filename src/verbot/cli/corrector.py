"""The command that trains the corrector of a policy."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from verbot.cli.options import BUDGET, BudgetOptions


def corrector_command(
    policy: Positional[str],
    data: tuple[Path, ...],
    out: Path = Path("outputs/corrected"),
    budget: BudgetOptions = BUDGET,
    set: tuple[str, ...] = (),
    seed: int = 0,
) -> int:
    """Train a corrector, which corrects a policy's late actions at every control step: for --real-time corrected.

    Example: verbot corrector outputs/demo/policy --data outputs/demo/dataset --out outputs/corrected --minutes 8

    Args:
        policy: a policy's folder, or "starter" (the one that came with verbot); it is not changed.
        data: folders of episodes, best those that the policy was trained on.
        out: gets policy (a copy with its corrector), config.yaml, log.jsonl and result.json.
        set: settings, each as name=value, e.g. network.hidden=128 optimizer.learning_rate=1e-3 augment.shift_pixels=0.
        seed: the seed of the whole run.
    """
    from verbot.configuration import assignments
    from verbot.workflows.corrector import corrector

    print(corrector(policy, data, out, budget.settings(), assignments(set), seed).table())
    return 0
