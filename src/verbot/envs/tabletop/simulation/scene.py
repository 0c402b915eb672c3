"""The scene as MJCF of primitive shapes: one model with slots, compiled once, whose slots are rewritten for every episode."""

from __future__ import annotations

import functools

import mujoco
import numpy as np

from verbot.envs.tabletop.simulation import arm, robot_mount
from verbot.envs.tabletop.simulation.layout import (
    BOX_FLOOR_M,
    BOX_HEIGHT_M,
    BOX_INNER_M,
    BOX_WALL_M,
    PLATE_HEIGHT_M,
    PLATE_RADIUS_M,
    SceneConfig,
)
from verbot.envs.tabletop.simulation.views import (
    SCREEN_HALF_WIDTH_M,
    SCREEN_HEIGHT_M,
    SCREEN_THICKNESS_M,
    SCREEN_X_M,
    VIEWS,
    View,
)

TIMESTEP_S = 0.005
CLUTTER_SLOTS = 6
TABLE_MATERIALS, FLOOR_MATERIALS = 8, 6
BUTTON_TRAVEL_M, DRAWER_TRAVEL_M = 0.012, 0.09


@functools.cache
def compile_model(config: SceneConfig) -> mujoco.MjModel:
    """The pristine model of `config`; copy it before rewriting its slots."""
    return mujoco.MjModel.from_xml_string(_mjcf(config))


def look_at(position: np.ndarray, target: np.ndarray, up: tuple[float, float, float]) -> np.ndarray:
    """The rotation (3, 3) of a camera in MuJoCo's convention: x right, y up, looking along −z."""
    backward = np.asarray(position, float) - np.asarray(target, float)
    backward /= np.linalg.norm(backward)
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(backward, right), backward], axis=1)


def _mjcf(config: SceneConfig) -> str:
    movables = "".join(_movable(i) for i in range(config.movables))
    receptacles = "".join(_receptacle(i) for i in range(config.receptacles))
    clutter = "".join(
        f'<body name="clutter{i}" pos="0 0 -2"><geom name="clutter{i}" type="box" size=".015 .015 .015"/></body>'
        for i in range(CLUTTER_SLOTS if config.movables else 0)
    )
    fixtures = "".join(_FIXTURES[name] for name in config.fixtures)
    # A fixture's moving part slides within the part that stands still.
    excludes = "".join(f'<exclude body1="{name}" body2="{name}_slide"/>' for name in config.fixtures)
    return f"""
<mujoco model="verbot tabletop">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{TIMESTEP_S}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <statistic center=".5 0 0" extent="1"/>
  <visual>
    <global offwidth="640" offheight="640"/>
    <quality shadowsize="0" numquads="1"/>
    <headlight ambient=".40 .40 .40" diffuse="0 0 0" specular="0 0 0"/>
    <map znear="0.01" zfar="20" shadowclip="0.7"/>
  </visual>
  <default>
    <geom solref="0.01 1"/>
    <default class="visual"><geom contype="0" conaffinity="0" group="2"/></default>
    <default class="hand"><geom rgba=".25 .25 .28 1" mass="0"/></default>
    <default class="object"><geom condim="6" friction="1 .02 .002" mass=".05"/></default>
  </default>
  <asset>{_materials()}</asset>
  <worldbody>
    <light name="sun" directional="true" pos=".5 0 2" dir="-.35 .25 -1" diffuse=".6 .6 .6" specular=".15 .15 .15"
      castshadow="false"/>
    <light name="window" directional="true" pos="1 0 2" dir="-.6 -.2 -.7" diffuse=".25 .25 .25" specular="0 0 0"
      castshadow="false"/>
    {"".join(_camera(name, VIEWS[name], (0, 0, 1)) for name in ("front", *config.cameras))}
    <geom name="ground" type="plane" size="3 3 .1" group="4" rgba="0 0 0 0"/>
    <geom name="table" class="visual" type="box" size=".36 .44 .02" pos=".44 0 -.0201" material="table0"/>
    <geom name="floor" class="visual" type="plane" size="4 4 .1" pos="0 0 -.4" material="floor0"/>
    {_arm(robot_mount.find(config.mount))}{movables}{receptacles}{clutter}{fixtures}{_SCREEN if config.screen else ""}
  </worldbody>
  <contact><exclude body1="left_finger" body2="right_finger"/>{excludes}</contact>
  <equality><joint joint1="left_finger" joint2="right_finger" solref=".005 1"/></equality>
  <actuator>{_actuators()}</actuator>
</mujoco>"""


def _materials() -> str:
    """Surfaces to choose from; their tint is rewritten too. Table 0 and floor 0 are the nominal ones."""
    patterns = ("flat", "checker", "gradient", "flat", "checker", "flat", "gradient", "checker")
    parts = []
    for kind, count, base in (("table", TABLE_MATERIALS, 0.92), ("floor", FLOOR_MATERIALS, 0.85)):
        for i in range(count):
            marks = 'mark="random" random=".08" markrgb=".5 .45 .4"' if i and patterns[i] == "flat" else ""
            repeat = 1 if patterns[i] == "gradient" else 2 + i
            parts.append(
                f'<texture name="{kind}{i}" type="2d" builtin="{patterns[i]}" {marks} width="64" height="64"'
                f' rgb1="{base} {base} {base}" rgb2="{base - 0.25} {base - 0.25} {base - 0.25}"/>'
                f'<material name="{kind}{i}" texture="{kind}{i}" texrepeat="{repeat} {repeat}" specular=".1" reflectance="0"'
                f' rgba="{".62 .60 .58" if kind == "table" else ".35 .38 .42"} 1"/>'
            )
    return "".join(parts)


_LINKS = (  # mass (kg), center of mass (m), visual capsules: (from, to, radius)
    (2.7, "0 -.03 -.07", (("0 0 -.19", "0 0 0", 0.065),)),
    (2.7, "0 -.07 .03", (("0 0 0", "0 -.2 0", 0.06),)),
    (2.4, "0.03 .03 -.03", (("0 0 -.12", "0 0 0", 0.06), ("0 0 0", ".0825 0 0", 0.055))),
    (2.4, "-.04 .1 .03", (("0 0 0", "-.0825 .06 0", 0.055), ("-.0825 .06 0", "-.0825 .16 0", 0.055))),
    (2.4, "0 .04 -.11", (("0 0 -.23", "0 0 0", 0.05),)),
    (1.5, ".06 0 0", (("0 0 0", ".088 0 0", 0.05),)),
    (0.5, "0 0 .08", (("0 0 0", "0 0 .08", 0.045),)),
)


def _arm(mount: robot_mount.RobotMount) -> str:
    pose = f' pos="{mount.x} {mount.y} 0" quat="{_text(mount.quaternion)}"' if mount.name != "back" else ""
    opened = f'<body name="base"{pose}>'
    opened += '<geom class="visual" type="cylinder" fromto="0 0 -.4 0 0 .14" size=".08" rgba=".9 .9 .92 1"/>'
    for i, (joint, (mass, center, capsules)) in enumerate(zip(arm.JOINTS, _LINKS, strict=True), start=1):
        shade = ".92 .92 .94 1" if i % 2 else ".75 .76 .8 1"
        opened += (
            f'<body name="link{i}" pos="{_text(joint.offset_m)}" quat="{_text(joint.quaternion)}" gravcomp="1">'
            f'<joint name="joint{i}" axis="0 0 1" range="{joint.low_rad} {joint.high_rad}" armature=".1"/>'
            f'<inertial mass="{mass}" pos="{center}" diaginertia=".02 .02 .02"/>'
        )
        for start, end, radius in capsules:
            opened += f'<geom class="visual" type="capsule" fromto="{start} {end}" size="{radius}" rgba="{shade}"/>'
    return opened + _hand() + "</body>" * (len(arm.JOINTS) + 1)


def _hand() -> str:
    # In the tool frame, which is the hand's turned by half a turn about x.
    place = np.array(VIEWS["wrist"].position_m) * (1, -1, -1) + (0, 0, arm.TOOL_M)
    target = np.array(VIEWS["wrist"].target_m) * (1, -1, -1) + (0, 0, arm.TOOL_M)
    fingers = ""
    for name, turn in (("left", "1 0 0 0"), ("right", "0 0 0 1")):
        fingers += f"""
      <body name="{name}_finger" pos="0 0 {arm.FINGER_M}" quat="{turn}" gravcomp="1">
        <joint name="{name}_finger" type="slide" axis="0 1 0" range="0 {arm.FINGER_TRAVEL_M}" armature=".1"/>
        <inertial mass=".05" pos="0 .01 .03" diaginertia="1e-5 1e-5 1e-5"/>
        <geom class="hand" type="box" size=".0105 .006 .0175" pos="0 .015 .0175"/>
        <geom name="{name}_pad" class="hand" type="box" size=".0105 .006 .0105" pos="0 .006 .0435" rgba=".1 .1 .1 1"
          friction="1.5 .02 .002" condim="4" priority="1"/>
      </body>"""
    return f"""
    <body name="hand" pos="0 0 {arm.FLANGE_M}" quat=".9238795325 0 0 -.3826834324" gravcomp="1">
      <inertial mass=".7" pos="0 0 .03" diaginertia=".003 .001 .002"/>
      <geom class="hand" type="box" size=".028 .095 .026" pos="0 0 .030" rgba=".9 .9 .92 1"/>
      <site name="tool" pos="0 0 {arm.TOOL_M}" quat="0 1 0 0" group="4"/>
      {_camera("wrist", View(tuple(place), tuple(target), VIEWS["wrist"].fovy_deg), (1, 0, 0))}
      {fingers}
    </body>"""


def _camera(name: str, view: View, up: tuple[float, float, float]) -> str:
    axes = _axes(view.position_m, view.target_m, up)
    return f'<camera name="{name}" pos="{_text(view.position_m)}" xyaxes="{axes}" fovy="{view.fovy_deg}"/>'


def _actuators() -> str:
    parts = [
        f'<position name="joint{i}" joint="joint{i}" kp="{joint.gain}" kv="{joint.gain * arm.DAMPING_S}"/>'
        for i, joint in enumerate(arm.JOINTS, start=1)
    ]
    for name in ("left_finger", "right_finger"):
        parts.append(f'<position name="{name}" joint="{name}" kp="600" kv="40" forcerange="-20 20"/>')
    return "".join(parts)


def _movable(i: int) -> str:
    return (
        f'<body name="movable{i}" pos="0 {i} -2" gravcomp="0"><freejoint name="movable{i}"/>'
        f'<geom name="movable{i}" class="object" type="box" size=".024 .024 .024"/></body>'
    )


def _receptacle(i: int) -> str:
    outer, half, floor = BOX_INNER_M + BOX_WALL_M, BOX_HEIGHT_M / 2, BOX_FLOOR_M / 2
    walls = "".join(
        f'<geom name="receptacle{i}_wall{k}" type="box" size="{sx} {sy} {half}" pos="{x} {y} {half}"/>'
        for k, (x, y, sx, sy) in enumerate(
            (
                (BOX_INNER_M + BOX_WALL_M / 2, 0, BOX_WALL_M / 2, outer),
                (-BOX_INNER_M - BOX_WALL_M / 2, 0, BOX_WALL_M / 2, outer),
                (0, BOX_INNER_M + BOX_WALL_M / 2, outer, BOX_WALL_M / 2),
                (0, -BOX_INNER_M - BOX_WALL_M / 2, outer, BOX_WALL_M / 2),
            )
        )
    )
    return (
        f'<body name="receptacle{i}" pos="0 {i} -2">'
        f'<geom name="receptacle{i}_floor" type="box" size="{outer} {outer} {floor}" pos="0 0 {floor}"/>{walls}'
        f'<geom name="receptacle{i}_plate" type="cylinder" size="{PLATE_RADIUS_M} {PLATE_HEIGHT_M / 2}"'
        f' pos="0 0 {PLATE_HEIGHT_M / 2}"/></body>'
    )


# It touches nothing; `Physics` moves it sideways.
_SCREEN = f"""
    <body name="screen" pos="{SCREEN_X_M} 0 0">
      <geom name="screen" class="visual" type="box" size="{SCREEN_THICKNESS_M} {SCREEN_HALF_WIDTH_M} {SCREEN_HEIGHT_M / 2}"
        pos="0 0 {SCREEN_HEIGHT_M / 2}" rgba=".16 .30 .34 1"/>
    </body>"""

# The arm could push a joint far beyond soft limits: a limit is as firm as the joint is heavy.
_FIRM = 'armature="1" solreflimit="-20000 -200"'

# The drawer's handle is a bar along y, held away from the face, so that a closed gripper can hook it from above; the cabinet is
# lower than the palm of a hand that grasps beside it.
_FIXTURES = {
    "drawer": f"""
    <body name="drawer" pos="0 0 -2">
      <geom type="box" size=".07 .07 .003" pos="-.07 0 .060" rgba=".45 .33 .22 1"/>
      <geom type="box" size=".07 .003 .030" pos="-.07 .067 .030" rgba=".45 .33 .22 1"/>
      <geom type="box" size=".07 .003 .030" pos="-.07 -.067 .030" rgba=".45 .33 .22 1"/>
      <geom type="box" size=".003 .07 .030" pos="-.137 0 .030" rgba=".45 .33 .22 1"/>
      <body name="drawer_slide" pos="0 0 0">
        <joint name="drawer" type="slide" axis="1 0 0" range="0 {DRAWER_TRAVEL_M}" {_FIRM}
          damping="4" frictionloss=".5"/>
        <geom type="box" size=".058 .058 .002" pos="-.066 0 .006" mass=".1" rgba=".8 .7 .55 1"/>
        <geom type="box" size=".003 .058 .022" pos="-.121 0 .028" mass=".03" rgba=".8 .7 .55 1"/>
        <geom type="box" size=".058 .003 .022" pos="-.066 .058 .028" mass=".03" rgba=".8 .7 .55 1"/>
        <geom type="box" size=".058 .003 .022" pos="-.066 -.058 .028" mass=".03" rgba=".8 .7 .55 1"/>
        <geom name="drawer_face" type="box" size=".004 .066 .028" pos="-.004 0 .030" mass=".1" rgba=".8 .7 .55 1"/>
        <geom name="drawer_handle" type="capsule" fromto=".045 -.04 .040 .045 .04 .040" size=".006" mass=".05" rgba=".1 .1 .1 1"/>
        <geom type="capsule" fromto="0 -.04 .040 .045 -.04 .040" size=".005" mass=".01" rgba=".1 .1 .1 1"/>
        <geom type="capsule" fromto="0 .04 .040 .045 .04 .040" size=".005" mass=".01" rgba=".1 .1 .1 1"/>
      </body>
    </body>""",
    "button": f"""
    <body name="button" pos="0 0 -2">
      <geom type="cylinder" size=".032 .008" pos="0 0 .008" rgba=".2 .2 .22 1"/>
      <body name="button_slide" pos="0 0 .03">
        <joint name="button" type="slide" axis="0 0 -1" range="0 {BUTTON_TRAVEL_M}" {_FIRM} stiffness="200" damping="8"/>
        <geom name="button_cap" type="cylinder" size=".022 .012" mass=".02" rgba=".9 .15 .45 1"/>
      </body>
    </body>""",
}


def _text(values: object) -> str:
    return " ".join(f"{float(v):.10g}" for v in np.asarray(values).ravel())


def _axes(position: object, target: object, up: tuple[float, float, float]) -> str:
    rotation = look_at(np.asarray(position, float), np.asarray(target, float), up)
    return _text(np.concatenate([rotation[:, 0], rotation[:, 1]]))
