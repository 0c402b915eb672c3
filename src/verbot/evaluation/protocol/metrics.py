"""The metrics, each with its definition, its n and its 95 % interval. Errors are in no metric; they are counted separately."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from verbot.evaluation.protocol.conditions import ALL, axes_suffix
from verbot.evaluation.protocol.intervals import Estimate, correlation, mean, proportion, quantile, ratio
from verbot.rollout.results import EpisodeResult

Results = Sequence[EpisodeResult]
SceneKey = tuple[str, int, int]  # task, index, goal index


def success_rate(results: Results) -> Estimate:
    """P(success): the goal is held for the time that the task requires, within the time limit. n: episodes. Wilson."""
    return proportion([r.success for r in _valid(results)])


def engagement_rate(results: Results) -> Estimate:
    """P(any object was touched), if the instruction names an object. n: episodes. Wilson."""
    return proportion([r.first_contact is not None for r in _naming(results)])


def language_following(results: Results) -> Estimate:
    """P(the first touched object is the named one). n: episodes in which some object was touched. Wilson.

    Read it together with `engagement_rate`, because episodes without any contact are not counted here.
    """
    return proportion([r.first_contact == r.target_object for r in _naming(results) if r.first_contact is not None])


def execution_accuracy(results: Results) -> Estimate:
    """P(success | the first touched object is the named one). n: episodes with that first contact. Wilson."""
    return proportion([r.success for r in _naming(results) if r.first_contact == r.target_object])


def language_understanding(results: Results) -> Estimate:
    """Success over K ≥ 2 feasible instructions from one identical initial state. n: episodes, K for each state. Wilson."""
    return proportion([r.success for state in _states(results) for r in state])


def strict_counterfactual(results: Results) -> Estimate:
    """Share of initial states from which all K instructions succeed. n: states. Wilson."""
    return proportion([all(r.success for r in state) for state in _states(results)])


def retention(condition: Results, reference: Results) -> Estimate:
    """P(success under a condition) / P(success under the reference). n: episodes under the condition.

    If both have common scenes, only those count and the interval uses their correlation. Otherwise all episodes count, e.g. for
    compositions, whose scenes differ. MOVER-R interval, see `intervals.ratio`.
    """
    pairs = paired(condition, reference)
    if pairs:
        a, b = zip(*pairs, strict=True)
        return ratio(proportion(a), proportion(b), correlation(pairs))
    return ratio(success_rate(condition), success_rate(reference))


def unpaired_retention(condition: Results, reference: Results) -> Estimate:
    """`retention` if equal scene numbers are different scenes. The reference is limited to the tasks of the condition."""
    tasks = {result.task for result in condition}
    return ratio(success_rate(condition), success_rate([result for result in reference if result.task in tasks]))


def language_sensitivity(reference: Results, blank: Results) -> Estimate:
    """(success − success with a blank instruction) / success, on the same scenes. n: episodes with a blank instruction."""
    return retention(blank, reference).complement()


def spl(results: Results, expert: Results) -> Estimate:
    """Mean of success × expert length / max(length, expert length), lengths in control steps. Bootstrap.

    n: episodes whose same scene the expert solved. Source: Anderson et al. 2018, with the expert for the shortest path.
    """
    lengths = {_scene(r): r.steps for r in expert if r.success}
    rows = [(r, lengths[_scene(r)]) for r in _valid(results) if _scene(r) in lengths]
    return mean([r.success * best / max(r.steps, best, 1) for r, best in rows])


def final_error_m(results: Results) -> Estimate:
    """Mean distance in meters between the moved object and its goal position at the end. n: episodes. Bootstrap."""
    return mean([r.final_error_m for r in _valid(results) if r.final_error_m is not None])


def latency(seconds: Sequence[float]) -> dict[str, Estimate]:
    """Milliseconds of one prediction from one observation on one core. n: predictions. Order-statistic intervals."""
    milliseconds = [1000 * s for s in seconds]
    return {f"latency_p{q}_ms": quantile(milliseconds, q / 100) for q in (50, 95, 99)} if seconds else {}


def agent_metrics(results: Results) -> dict[str, Estimate]:
    """Metrics of any agent on any episodes."""
    return {
        "success_rate": success_rate(results),
        "execution_accuracy": execution_accuracy(results),
        "language_following": language_following(results),
        "engagement_rate": engagement_rate(results),
        "final_error_m": final_error_m(results),
    }


def malformed_answers(results: Results) -> Estimate:
    """Answers of the policy that meant no actions, so that the robot was held, per episode. n: episodes. Bootstrap."""
    return mean([float(r.malformed) for r in _valid(results)])


def policy_metrics(conditions: Mapping[str, Results], expert: Results) -> dict[str, Estimate]:
    """All metrics of a policy that its conditions allow.

    Args:
        conditions: results by condition, the main one first.
        expert: the expert on the main condition's scenes.
    """
    main = next(iter(conditions.values()))
    metrics = agent_metrics(main)
    counterfactual = next((r for name, r in conditions.items() if name.startswith("counterfactual")), None)
    if counterfactual is not None:
        metrics["language_understanding"] = language_understanding(counterfactual)
        metrics["strict_counterfactual"] = strict_counterfactual(counterfactual)
    reference = conditions.get("canonical")
    if reference is not None:
        if "blank" in conditions:
            metrics["language_sensitivity"] = language_sensitivity(reference, conditions["blank"])
        for name in ("paraphrase", "longer"):
            if name in conditions:
                metrics[f"{name}_retention"] = retention(conditions[name], reference)
        if "composition" in conditions:
            metrics["composition_retention"] = unpaired_retention(conditions["composition"], reference)
        metrics |= axis_retentions(conditions, reference)
    if any(r.malformed for r in main):
        metrics["malformed_answers"] = malformed_answers(main)
    if expert:
        metrics["spl"] = spl(main, expert)
    return metrics


def axis_retentions(conditions: Mapping[str, Results], reference: Results) -> dict[str, Estimate]:
    """``retention_AXIS`` of each randomization axis, or ``retention_AXIS_STRENGTH`` if there are several strengths.

    ``retention_all`` is that of all axes at once.
    """
    found = {pair: results for name, results in conditions.items() for pair in _varied(name, results)}
    several = Counter(axis for axis, _ in found)
    return {
        f"retention_{axis}" + (f"_{strength}" if several[axis] > 1 else ""): retention(results, reference)
        for (axis, strength), results in found.items()
    }


def by_task(results: Results) -> dict[str, Estimate]:
    """`success_rate` of each task, in order of appearance."""
    groups: dict[str, list[EpisodeResult]] = defaultdict(list)
    for result in results:
        groups[result.task].append(result)
    return {task: success_rate(group) for task, group in groups.items()}


def paired(first: Results, second: Results) -> list[tuple[bool, bool]]:
    """(success of the first, success of the second) on every scene that both ran without an error."""
    other = {_scene(r): r.success for r in _valid(second)}
    return [(r.success, other[_scene(r)]) for r in _valid(first) if _scene(r) in other]


def _varied(condition: str, results: Results) -> list[tuple[str, int]]:
    """The (axis, strength), or ("all", strength), that a condition varies; empty if it varies none or several."""
    axes = {(axis, strength) for r in results for axis, strength in r.axes.items() if strength}
    if results and (suffix := axes_suffix(results[0].axes).strip()).startswith(f"{ALL}:"):
        axes = {(ALL, int(suffix.partition(":")[2]))}
        condition = condition.replace("axes:", "axis:", 1)
    return list(axes) if len(axes) == 1 and condition.startswith(("axis:", "canonical ")) else []


def _valid(results: Iterable[EpisodeResult]) -> list[EpisodeResult]:
    return [r for r in results if r.outcome != "error"]


def _naming(results: Iterable[EpisodeResult]) -> list[EpisodeResult]:
    return [r for r in _valid(results) if r.target_object is not None]


def _states(results: Iterable[EpisodeResult]) -> list[list[EpisodeResult]]:
    """Episodes by initial state, without states with an error and states with only one goal."""
    states: dict[tuple[str, int], list[EpisodeResult]] = defaultdict(list)
    for result in results:
        states[result.task, result.index].append(result)
    return [state for state in states.values() if len(state) > 1 and all(r.outcome != "error" for r in state)]


def _scene(result: EpisodeResult) -> SceneKey:
    return result.task, result.index, result.goal_index
