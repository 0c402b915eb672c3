"""What a robot is, sees and does: plain frozen data, numpy only."""

from __future__ import annotations

from verbot.spec.arrays import (
    BoolArray,
    Float64Array,
    FloatArray,
    FloatingArray,
    Int32Array,
    Int64Array,
    Memory,
    UInt8Array,
)
from verbot.spec.forward import ForwardModel, Move, Response, moves
from verbot.spec.kinematics import ChainJoint, KinematicChain
from verbot.spec.limits import MotionLimits, Workspace
from verbot.spec.messages import MALFORMED_ANSWER, ActionChunk, Observation, check_memory
from verbot.spec.robot import BASE, TOOL, Camera, Component, EndEffector, RobotSpec

__all__ = [
    "BASE",
    "TOOL",
    "ActionChunk",
    "BoolArray",
    "Camera",
    "ChainJoint",
    "Component",
    "EndEffector",
    "Float64Array",
    "FloatArray",
    "FloatingArray",
    "ForwardModel",
    "Int32Array",
    "Int64Array",
    "KinematicChain",
    "MALFORMED_ANSWER",
    "Memory",
    "MotionLimits",
    "Move",
    "Observation",
    "Response",
    "RobotSpec",
    "UInt8Array",
    "Workspace",
    "check_memory",
    "moves",
]
