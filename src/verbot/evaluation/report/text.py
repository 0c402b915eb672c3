"""The texts of the report."""

from __future__ import annotations

from verbot.evaluation.protocol import metrics
from verbot.evaluation.protocol.intervals import Estimate
from verbot.rollout.results import EpisodeResult

AGENTS = {"expert": "scripted expert", "blind": "policy without instruction", "random": "random actions"}

CARDS = {
    "language_following": "of first contacts were with the object that the instruction names.",
    "strict_counterfactual": "of scenes were solved under every instruction tried in them.",
    "language_sensitivity": "of success is lost without an instruction.",
    "paraphrase_retention": "of success remains under wordings that were not in the training data.",
    "composition_retention": "of success remains on combinations of color, shape and verb that were not demonstrated.",
    "execution_accuracy": "success rate if the first contact was with the named object.",
}

LISTENING = (
    "Every scene admits at least three different instructions, so that a policy cannot succeed by ignoring the instruction. "
    "These metrics separate language following from guessing."
)
SCENES = "The initial scene is the same; only the instruction differs."
SUCCESSES = "The first successes of each task, not selected by appearance."
FAILURES = "The first failures of each task. A red border means that the goal was not reached in time."
PLOTS = "Bars are success rates; whiskers are 95 % intervals."
METRICS = "Episodes that ended with an error of the simulator or of the code are in no metric."
REPEAT = "Scenes are a function of suite, task, number and seed alone; the same command plays the same episodes."

_CONDITIONS = {
    "canonical": "canonical wording",
    "paraphrase": "unseen paraphrases",
    "longer": "longer instructions than in training",
    "composition": "undemonstrated combinations",
    "counterfactual": "every goal of a scene",
    "blank": "no instruction",
    "image": "a goal image, no instruction",
}
_LATENCY = "Milliseconds of one prediction from one observation on one core."


def headline(success: Estimate) -> str:
    """The main result, as a sentence."""
    if success.value is None:
        return "There are no results."
    solved = round(success.value * success.n)
    return f"The policy succeeded in {solved} of {success.n} unseen scenes."


def confidence(success: Estimate) -> str:
    if success.low is None or success.high is None:
        return "no valid episodes"
    return f"between {100 * success.low:.1f} and {100 * success.high:.1f} % with 95 % confidence"


def condition(name: str) -> str:
    """Example:
    >>> condition("axis:lighting:2"), condition("axes:all:2"), condition("canonical camera:1")
    ('lighting 2', 'all 2', 'canonical wording, camera 1')
    """
    if name.startswith(("axis:", "axes:")):
        return plain(name[5:].replace("+", ", ").replace(":", " "))
    mode, *axes = name.split(" ")
    return ", ".join([_CONDITIONS.get(mode, mode), *(plain(axis.replace(":", " ")) for axis in axes)])


def plain(name: str) -> str:
    return name.replace("_", " ")


def meaning(name: str) -> str:
    """The first sentence of a metric's definition."""
    if name.startswith("latency_"):
        return _LATENCY
    if name.startswith("retention_"):
        return f"Success with randomized {plain(name.removeprefix('retention_'))} / success without, on the same scenes."
    if name.endswith("_retention"):
        return f"Success with {_CONDITIONS[name.removesuffix('_retention')]} / success with canonical wording."
    text = getattr(metrics, name).__doc__ or ""
    return " ".join(text.split("n: ")[0].split())


def reason(result: EpisodeResult) -> str:
    """The likely reason of a failure; empty for a success."""
    if result.success:
        return ""
    if result.target_object is not None and result.first_contact is None:
        return "no contact with any object"
    if result.first_contact != result.target_object and result.target_object is not None:
        return f"first contact with the {result.first_contact}"
    if result.final_error_m is not None:
        return f"correct object, {100 * result.final_error_m:.0f} cm off at the end"
    return "goal not reached in time"


def errors(count: int) -> str:
    subject = "episode ended with an error and counts" if count == 1 else "episodes ended with errors and count"
    return f"{count} {subject} neither as success nor as failure."


def p_value(p: float) -> str:
    """Example:
    >>> p_value(0.0312), p_value(1e-9)
    ('= 0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
