"""What the report says in plain words."""

from __future__ import annotations

from verbot.evaluation.protocol import metrics
from verbot.evaluation.protocol.intervals import Estimate
from verbot.rollout.results import EpisodeResult

PLAYERS = {"expert": "scripted expert", "blind": "same, without words", "random": "random actions"}

CARDS = {
    "language_following": "of the things it touched first were the thing it was told to touch.",
    "strict_counterfactual": "of the scenes were solved under every instruction tried in them.",
    "language_sensitivity": "of its success is lost when nothing is said.",
    "paraphrase_retention": "of its success remains under wordings it was never trained on.",
    "composition_retention": "of its success remains on color, shape and verb together that were never demonstrated.",
    "execution_accuracy": "success, once it has reached for the right thing.",
}

LISTENING = (
    "Every scene admits at least three different instructions, so that ignoring what was said cannot pay. "
    "These figures tell obeying from guessing."
)
SCENES = "The same first picture, another sentence. Only the words can tell the robot what to do."
WORK = "The first successes of each task, not chosen by their looks."
FAILURES = "The first failures of each task. A red border means that the goal was not reached in time."
PLOTS = "Bars are success rates; whiskers are 95 % intervals."
FIGURES = "Episodes that a fault of the simulator or of the code ended are in no figure."
REPEAT = "Scenes are a function of suite, task, number and seed alone; the same command plays the same episodes."

_CONDITIONS = {
    "canonical": "plain wording",
    "paraphrase": "unseen paraphrases",
    "longer": "more sentences than ever told",
    "composition": "undemonstrated combinations",
    "counterfactual": "every goal of a scene",
    "blank": "nothing said",
    "image": "a goal image, no words",
}
_LATENCY = "Milliseconds of one prediction from one observation on one core."


def headline(success: Estimate) -> str:
    """The finding, as a sentence."""
    if success.value is None:
        return "Nothing could be measured."
    solved = round(success.value * success.n)
    return f"It did what it was told in {solved} of {success.n} unseen scenes."


def confidence(success: Estimate) -> str:
    if success.low is None or success.high is None:
        return "no valid episodes"
    return f"between {100 * success.low:.1f} and {100 * success.high:.1f} % with 95 % confidence"


def condition(name: str) -> str:
    """Example:
    >>> condition("axis:lighting:2"), condition("axes:all:2"), condition("canonical camera:1")
    ('lighting 2', 'all 2', 'plain wording, camera 1')
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
        return f"Success with {_CONDITIONS[name.removesuffix('_retention')]} / success with plain wording."
    text = getattr(metrics, name).__doc__ or ""
    return " ".join(text.split("n: ")[0].split())


def reason(result: EpisodeResult) -> str:
    """Why an episode failed, as far as one can tell; empty for a success."""
    if result.success:
        return ""
    if result.target_object is not None and result.first_contact is None:
        return "touched nothing"
    if result.first_contact != result.target_object and result.target_object is not None:
        return f"went for the {result.first_contact}"
    if result.final_error_m is not None:
        return f"right thing, {100 * result.final_error_m:.0f} cm off at the end"
    return "not done in time"


def errors(count: int) -> str:
    noun = "episode was" if count == 1 else "episodes were"
    return f"{count} {noun} ended by a fault and count neither as success nor as failure."


def p_value(p: float) -> str:
    """Example:
    >>> p_value(0.0312), p_value(1e-9)
    ('= 0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
