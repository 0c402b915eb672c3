"""What a guard remembers between two actions stays right, whatever happens to the robot and to the agent's arrays."""

import numpy as np

from verbot.agents import ChunkAgent, Guard, GuardConfig, GuardedAgent, HoldAgent
from verbot.spec import (
    ActionChunk,
    ChainJoint,
    Component,
    EndEffector,
    KinematicChain,
    MotionLimits,
    Observation,
    RobotSpec,
    Workspace,
)


def seen(time_s, *state):
    return Observation({}, np.array(state, np.float32), time_s=time_s)


def test_an_agent_that_fills_one_array_again_and_again_cannot_spoil_the_hold():
    slide = Component("x", "joint_position", ("slide",), "m", "base", (0.0,), (1.0,))
    grip = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
    guard = Guard(RobotSpec("rail", 10.0, (), (slide, grip), (slide, grip), limits=(MotionLimits("x", step=(0.1,)),)))
    action = np.array([0.5, 0.75], np.float32)
    assert guard.apply(action, seen(0.0, 0.5, 0.0)).action is action
    action[:] = np.nan
    assert guard.apply(action, seen(0.1, 0.5, 0.0)).action.tolist() == [0.5, 0.75]


def test_a_robot_that_was_pushed_does_not_take_the_end_effector_out_of_its_box():
    angle = Component("angle", "joint_position", ("pan",), "rad", "base", (-3.0,), (3.0,))
    turn = Component("turn", "joint_velocity", ("pan",), "rad/s", "base", (-1.0,), (1.0,))
    joints = (ChainJoint("pan", (0.0, 0.0, 0.0)), ChainJoint("tip", (1.0, 0.0, 0.0), kind="fixed"))
    spec = RobotSpec(
        "crane", 10.0, (), (angle,), (turn,), (EndEffector("hook", ("angle",), ("turn",)),),
        limits=(MotionLimits("turn", velocity=(1.0,), acceleration=(10.0,), lead=(0.1,)),),
        workspaces=(Workspace("hook", (-2.0, -2.0, -1.0), (2.0, 0.7, 1.0)),), chains=(KinematicChain("hook", "turn", joints),),
    )  # fmt: skip
    guard, x = Guard(spec, GuardConfig(patience=1000)), -0.2
    for step in range(30):
        x += 0.55 * (step == 3)  # by a person
        x += 0.1 * float(guard.apply(np.ones(1, np.float32), seen(0.1 * step, x)).action[0])
    assert np.arcsin(0.7) - 0.05 < x < np.arcsin(0.7) + 0.2  # within `lead` and the motion of a step


def test_what_was_left_of_a_chunk_is_not_executed_after_a_stale_observation():
    slide = Component("x", "joint_position", ("slide",), "m", "base", (0.0,), (1.0,))

    class Policy:
        spec = RobotSpec("rail", 10.0, (), (slide,), (slide,), limits=(MotionLimits("x", step=(0.1,)),), max_age_s=0.5)
        asked = []

        def predict(self, observations):
            self.asked += [o.time_s for o in observations]
            return [ActionChunk(np.full((8, 1), 0.5, np.float32), o.time_s) for o in observations]

    policy, ages_s = Policy(), iter((0.0, 0.0, 0.9, 0.0, 0.0))
    agent = GuardedAgent(HoldAgent(ChunkAgent(policy, 8), 5.0), Guard(policy.spec), lambda: next(ages_s))
    agent.reset("go")
    held = [agent.decide(seen(0.1 * step, 0.5)).held for step in range(5)]
    assert held == ["", "", "age", "", ""] and np.allclose(policy.asked, [0.0, 0.3])
