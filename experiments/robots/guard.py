"""A guard under hostile actions: are all limits kept, what does it cost, and is a safe policy left alone?

Four parts, one JSON record:

- ``hostile``: NaN, infinite, huge, alternating, misshapen, stale and out-of-order actions through the guard of each robot. What
  it gave is checked against the limits in arithmetic of its own. Reported are violations, the largest share of each limit that
  was used, and the time of a call.
- ``simulated``: the same actions through guard and simulated arm, whose box is narrowed, so that the guard alone keeps it. The
  box of its target is smaller by a margin, for the measured arm strays from its target.
- ``faults``: a policy that drives beyond two corners of the box, with faults in its actions, guarded and unguarded: how far out
  of the box the measured arm came; negative is inside.
- ``safe``: the expert and the starter policy behind the guard: how many actions were changed.

Run it: python experiments/robots/guard.py --actions 1000000 --simulated 20000 --faults 2000 --safe 10000 --out guard.json
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import verbot
from verbot.agents import ChunkAgent, Guard, GuardConfig, GuardedAgent
from verbot.agents.kinematics import ForwardKinematics
from verbot.contracts import Agent, expert_of
from verbot.envs import make_env
from verbot.robots.simulated import SimulatedRobot
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import (
    ChainJoint,
    Component,
    EndEffector,
    KinematicChain,
    MotionLimits,
    Observation,
    RobotSpec,
    Workspace,
)

SUITE = "tabletop-starter"
NEVER = GuardConfig(patience=10**9, latch_after=10**9)  # every action reaches the limits: a held robot would test nothing
FAMILIES = ("nan", "infinite", "huge", "alternating", "random", "push", "misshapen", "stale", "disordered", "lost state", "calm")
BOX = ((0.42, -0.15, 0.06), (0.62, 0.15, 0.30))  # that the measured simulated arm has to keep
MARGIN_M = 0.025  # of its target: the arm strays from it
LIMITED = ("low", "high", "step", "velocity", "acceleration")


def arm(axes: int, reach: bool) -> RobotSpec:
    """An arm of joints that are commanded as positions at 50 Hz; with `reach` its end effector has a workspace."""
    names = tuple(f"j{i}" for i in range(axes))
    joints = Component("joints", "joint_position", names, "rad", "base", (-3.0,) * axes, (3.0,) * axes)
    limits = MotionLimits(
        "joints", (-2.6,) * axes, (2.6,) * axes, velocity=(2.2,) * axes, acceleration=(10.0,) * axes, jerk=(800.0,) * axes
    )
    if not reach:
        return RobotSpec(f"arm-{axes}", 50.0, (), (joints,), (joints,), limits=(limits,))
    links = tuple(
        ChainJoint(n, (0.0, 0.0, 0.15), axis=(0.0, 0.0, 1.0) if i % 2 else (0.0, 1.0, 0.0)) for i, n in enumerate(names)
    )
    chain = KinematicChain("hand", "joints", (*links, ChainJoint("tip", (0.0, 0.0, 0.1), kind="fixed")))
    return RobotSpec(
        f"arm-{axes}-reach", 50.0, (), (joints,), (joints,), (EndEffector("hand", ("joints",), ("joints",)),), limits=(limits,),
        chains=(chain,), workspaces=(Workspace("hand", (-0.6, -0.6, 0.2), (0.6, 0.6, 1.3)),),
    )  # fmt: skip


def hostile(spec: RobotSpec, count: int, seed: int) -> Iterator[tuple[str, Any, float, float]]:
    """(family, action, change of the clock in periods, age in s). Families last for 1 to 40 steps, so that speed builds up."""
    rng, size = np.random.default_rng(seed), spec.action_size
    low, high = spec.action_low().astype(float), spec.action_high().astype(float)
    done = 0
    while done < count:
        family = FAMILIES[rng.integers(len(FAMILIES))]
        push = rng.choice([-1.0, 0.0, 1.0], size) * (high - low)
        for step in range(min(int(rng.integers(1, 41)), count - done)):
            done += 1
            action: Any = rng.uniform(low, high).astype(np.float32)
            ticks, age_s = 1.0, 0.0
            if family in ("nan", "infinite"):
                action[rng.integers(size)] = np.nan if family == "nan" else rng.choice([np.inf, -np.inf])
            elif family == "huge":
                action = (rng.choice([-1.0, 1.0], size) * 10.0 ** rng.uniform(0, 38, size)).astype(np.float32)
            elif family == "alternating":
                action = (high if step % 2 else low).astype(np.float32)
            elif family == "push":
                action = push.astype(np.float32)
            elif family == "misshapen":
                action = (action[:-1], action[None], None, "stop", list(action), action.astype(object), np.float32(1))[
                    rng.integers(7)
                ]
            elif family == "stale":
                age_s = float(rng.choice([1.1, 1e9, np.nan]))
            elif family == "disordered":
                ticks = float(rng.choice([-3.0, np.nan]))
            elif family == "calm":
                action = ((0.5 + 0.02 * np.sin(step / 10)) * (low + high)).astype(np.float32)
            yield family, action, ticks, age_s


def under_fire(spec: RobotSpec, count: int, seed: int) -> dict[str, Any]:
    """The guard alone: the robot follows exactly."""
    spec = dataclasses.replace(spec, max_age_s=1.0)
    guard, table = Guard(spec, NEVER), _targets(spec)
    rng = np.random.default_rng(seed + 1)
    target = table.middle + 0.2 * rng.uniform(-1, 1, len(table.middle)) * table.room
    first, given = target.copy(), np.zeros((count, spec.action_size), np.float32)
    rules, families = Counter[str](), Counter[str]()
    spent_s, now = np.zeros(count), 0.0
    for i, (family, action, ticks, age_s) in enumerate(hostile(spec, count, seed)):
        now = max(now, 0.0) + 1.0 / spec.rate_hz
        state = table.state_of(spec, target)
        if family == "lost state" and i:
            state[rng.integers(len(state))] = np.nan
        observation = Observation({}, state, time_s=now if ticks == 1.0 else now + ticks / spec.rate_hz)
        begun_s = time.perf_counter()
        result = guard.apply(action, observation, age_s)
        spent_s[i] = time.perf_counter() - begun_s
        assert result.action is not None, (i, family)
        given[i] = result.action
        target = target + result.action / table.per if table.is_rate else result.action.astype(float)
        families[family] += 1
        rules.update(event.rule for event in result.events)
    return {
        "robot": spec.name, "axes": spec.action_size, "actions": count, **recheck(spec, table, first, given),
        "p50_us": round(1e6 * float(np.quantile(spent_s, 0.5)), 2), "p99_us": round(1e6 * float(np.quantile(spent_s, 0.99)), 2),
        "families": dict(families), "rules": dict(rules),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Targets:
    """Where targets begin, and what an action of 1 moves them by."""

    middle: np.ndarray
    room: np.ndarray
    is_rate: bool
    per: float = 1.0

    def state_of(self, spec: RobotSpec, target: np.ndarray) -> np.ndarray:
        state = np.zeros(spec.state_size, np.float32)
        if not self.is_rate:
            return target.astype(np.float32)
        state[:3], state[3], state[7] = target[:3], 1.0, np.clip(target[6], 0, 1)
        return state


def _targets(spec: RobotSpec) -> Targets:
    if spec.action[0].kind == "joint_position":
        return Targets(np.zeros(spec.action_size), np.ones(spec.action_size), False)
    limits = spec.limits[0]
    assert limits.low is not None and limits.high is not None
    middle = np.concatenate([0.5 * (np.array(limits.low) + np.array(limits.high)), np.zeros(4)])
    room = np.concatenate([0.5 * (np.array(limits.high) - np.array(limits.low)), np.zeros(4)])
    return Targets(middle, room, True)


def recheck(spec: RobotSpec, table: Targets, first: np.ndarray, given: np.ndarray) -> dict[str, Any]:
    """How often what was given is beyond each limit by more than the rounding of float32, and the largest share of it."""
    violations, used, jerky = int((~np.isfinite(given)).sum()), {}, 0
    rate, places = spec.rate_hz, spec.action_slices()
    beyond = (given < spec.action_low()) | (given > spec.action_high())
    violations += int(beyond.sum())
    for limit in spec.limits:
        values, start = given[:, places[limit.component]].astype(float), first[places[limit.component]]
        targets = start + np.cumsum(values, 0) if table.is_rate else values
        rounding = 1e-6 * (1.0 if table.is_rate else rate * np.abs(values).max())
        speeds = values * rate if table.is_rate else np.diff(np.vstack([start[None], values]), axis=0) * rate
        changes = np.diff(np.vstack([np.zeros((1, speeds.shape[1])), speeds]), axis=0) * rate
        jerks = np.diff(np.vstack([np.zeros((1, speeds.shape[1])), changes]), axis=0) * rate
        found = {"step": speeds / rate, "velocity": speeds, "acceleration": changes, "jerk": jerks}
        for name, array in found.items():
            if (most := getattr(limit, name)) is None:
                continue
            scale = {"step": 1.0, "velocity": 1.0, "acceleration": rate, "jerk": rate**2}[name]
            excess = np.abs(array) > np.array(most) * (1 + 1e-5) + rounding * scale * 4
            used[f"{limit.component}.{name}"] = round(float((np.abs(array) / np.array(most)).max()), 5)
            if name == "jerk":
                jerky += int(excess.sum())
            else:
                violations += int(excess.sum())
        if limit.low is not None and limit.high is not None:
            outside = np.maximum(np.array(limit.low) - targets, targets - np.array(limit.high))
            violations += int((outside > 1e-5).sum())
            used[f"{limit.component}.box"] = round(float(outside.max()), 7)
    for chain, box in zip(spec.chains, spec.workspaces, strict=False):
        component = next(c for c in spec.action if c.name == chain.component)
        places_m = ForwardKinematics(chain, component.axes, component.unit).positions(
            given[:, places[component.name]].astype(float)
        )
        outside = np.maximum(np.array(box.low) - places_m, places_m - np.array(box.high)).max(1)
        violations += int((outside > 1e-4).sum())
        used["workspace_m"] = round(float(outside.max()), 7)
    return {"violations": violations, "jerk_exceeded": jerky, "largest": used}


class Narrowed:
    """The simulated arm, whose spec has a narrow box. Its own limits are far outside."""

    def __init__(self, seed: int):
        self.robot = SimulatedRobot(SUITE, seed=seed, options={"render_cameras": False, "max_seconds": 3600.0})
        spec = self.robot.spec
        move, turn = spec.limits
        low, high = (tuple(float(v) for v in np.array(BOX[i]) + (MARGIN_M, -MARGIN_M)[i]) for i in (0, 1))
        self.spec = dataclasses.replace(
            spec, limits=(dataclasses.replace(move, low=low, high=high), turn), workspaces=(), max_age_s=1.0
        )

    def outside_m(self, box: Any = BOX) -> float:
        """How far the measured tool is out of the box; negative inside."""
        place = self.robot.observe().state[:3]
        return float(np.maximum(np.array(box[0]) - place, place - np.array(box[1])).max())


def simulated(count: int, seed: int) -> dict[str, Any]:
    """Hostile actions through guard and simulated arm; from when the arm was first inside its box."""
    world, steps, worst, inside, rules = Narrowed(seed), 0, -np.inf, False, Counter[str]()
    own = world.robot.spec.workspaces[0]
    worst_own = -np.inf
    guard = Guard(world.spec, NEVER)
    world.robot.connect()
    middle = 0.5 * (np.array(BOX[0]) + np.array(BOX[1]))
    clock = 0.0
    for _, action, ticks, age_s in hostile(world.spec, count, seed):
        observation = dataclasses.replace(world.robot.observe(), time_s=(clock := clock + 0.1))
        if not inside:
            action, ticks, age_s = np.zeros(7, np.float32), 1.0, 0.0
            action[:3] = np.clip(middle - observation.state[:3], -0.03, 0.03)
        shown = observation if ticks == 1.0 else dataclasses.replace(observation, time_s=clock + 0.1 * ticks)
        result = guard.apply(action, shown, age_s)
        assert result.action is not None
        rules.update(event.rule for event in result.events)
        world.robot.act(result.action)
        steps += 1
        away = world.outside_m()
        inside = inside or away < -0.02
        worst = max(worst, away) if inside else worst
        worst_own = max(worst_own, world.outside_m((own.low, own.high)))
    world.robot.close()
    return {
        "actions": steps, "farthest_outside_mm": round(1e3 * worst, 2), "farthest_outside_own_box_mm": round(1e3 * worst_own, 2),
        "rules": dict(rules),
    }  # fmt: skip


def faulty(action: np.ndarray, rng: np.random.Generator) -> Any:
    """One action of ten becomes one of a broken policy."""
    if rng.random() > 0.1:
        return action
    kind = rng.integers(5)
    if kind == 0:
        return np.full(7, np.nan, np.float32)
    if kind == 1:
        return np.full(7, 1e20, np.float32)
    if kind == 2:
        return -action
    return (np.sign(action + 1e-9) * 0.05).astype(np.float32) if kind == 3 else action[:5]


def faults(count: int, seed: int) -> dict[str, Any]:
    """A policy that drives beyond one corner and then the other, with faults: how far out of the box the arm comes, both ways."""
    out: dict[str, Any] = {"steps": count}
    for name in ("guarded", "unguarded"):
        rng, world, worst, inside = np.random.default_rng(seed), Narrowed(seed), -np.inf, False
        guard = Guard(world.spec, GuardConfig(patience=10**9))
        world.robot.connect()
        latches = 0
        for step in range(count):
            observation = dataclasses.replace(world.robot.observe(), time_s=0.1 * step)
            goal = np.array(BOX[(step // 40) % 2]) + (-0.2, 0.2)[(step // 40) % 2]
            goal = goal if inside else 0.5 * (np.array(BOX[0]) + np.array(BOX[1]))
            action = np.zeros(7, np.float32)
            action[:3] = np.clip(goal - observation.state[:3], -0.05, 0.05)
            action = faulty(action, rng) if inside else action
            if name == "guarded":
                given = guard.apply(action, observation).action
                if guard.latched:
                    latches += 1
                    guard.reset_latch()
            else:
                usable = isinstance(action, np.ndarray) and action.shape == (7,) and np.isfinite(action).all()
                given = np.clip(action, world.spec.action_low(), world.spec.action_high()) if usable else np.zeros(7, np.float32)
            assert given is not None
            world.robot.act(given)
            away = world.outside_m()
            inside = inside or away < -0.02
            worst = max(worst, away) if inside else worst
        world.robot.close()
        out |= {f"{name}_farthest_outside_mm": round(1e3 * worst, 2)} | ({"latches": latches} if name == "guarded" else {})
    return out


def safe(who: str, count: int, seed: int) -> dict[str, Any]:
    """A policy that keeps its limits, behind the guard: how many actions come out changed, by the bit."""
    env = make_env(SUITE, **({} if who == "starter" else {"render_cameras": False}))
    guard, changed, steps, episodes, successes = Guard(env.robot_spec), 0, 0, 0, 0
    policy = ChunkAgent(verbot.load_policy("starter"), 8) if who == "starter" else None

    class Watched:
        """Keeps what the agent inside asked for."""

        def __init__(self, agent: Agent):
            self.agent, self.asked = agent, np.zeros(0, np.float32)

        def reset(self, instruction: str) -> None:
            self.agent.reset(instruction)

        def act(self, observation: Observation) -> np.ndarray:
            self.asked = self.agent.act(observation)
            return self.asked

    while steps < count:
        episode = EpisodeRunner(env, {"index": episodes}, seed)
        watched = Watched(policy or expert_of(env, seed=episodes))
        agent = GuardedAgent(watched, guard)
        agent.reset(episode.instruction)
        for transition in episode.run(agent):
            steps += 1
            changed += transition.action.tobytes() != watched.asked.astype(np.float32).tobytes()
        episodes, successes = episodes + 1, successes + bool(episode.info["success"])
    env.close()
    return {"policy": who, "steps": steps, "episodes": episodes, "successes": successes, "changed": changed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, default=1_000_000, help="hostile actions, shared by the robots")
    parser.add_argument("--simulated", type=int, default=20_000, help="of them through the simulated arm")
    parser.add_argument("--faults", type=int, default=2_000, help="control steps of the policy with faults")
    parser.add_argument("--safe", type=int, default=10_000, help="control steps of each safe policy")
    parser.add_argument("--policies", nargs="*", default=["expert", "starter"], choices=["expert", "starter"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with contextlib.closing(make_env(SUITE, render_cameras=False)) as env:
        robots = [env.robot_spec, arm(7, False), arm(7, True), arm(14, False)]
    share = max(1, options.actions // len(robots))
    record = {
        "seed": options.seed,
        "hostile": [under_fire(spec, share, options.seed + i) for i, spec in enumerate(robots)],
        "simulated": simulated(options.simulated, options.seed) if options.simulated else None,
        "faults": faults(options.faults, options.seed) if options.faults else None,
        "safe": [safe(who, options.safe, options.seed) for who in options.policies] if options.safe else [],
    }
    text = json.dumps(record, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
