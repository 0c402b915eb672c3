"""Off-screen rendering: one OpenGL context in a thread for all envs, on EGL or OSMesa, whichever loads, on macOS CGL.

Shadows and reflections are off: in software they cost twenty times the rest of the frame. So are the sky, which is never seen
and costs as much as everything else, and, but for pictures that people look at, multisampling, which costs three times as much.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import ctypes
import ctypes.util
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from verbot.errors import MissingDependencyError, SimulationError
from verbot.spec import FloatArray, Int32Array, UInt8Array

_EGL_PLATFORM_DEVICE = 0x313F
# Each backend's libraries, and the Debian packages that bring them. PyOpenGL finds no EGL functions without libOpenGL.
_LIBRARIES = {
    "egl": (("libEGL.so.1", "libOpenGL.so.0"), "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"),
    "osmesa": (("libOSMesa.so.8",), "libosmesa6"),
}
_OFF = (
    mujoco.mjtRndFlag.mjRND_SHADOW,
    mujoco.mjtRndFlag.mjRND_REFLECTION,
    mujoco.mjtRndFlag.mjRND_HAZE,
    mujoco.mjtRndFlag.mjRND_FOG,
    mujoco.mjtRndFlag.mjRND_SKYBOX,
)
# Samples per pixel, slices and stacks of round shapes, and the shadow map's size.
QUALITIES = {
    "plain": (0, 16, 8, 0),  # what policies see
    "fine": (4, 40, 24, 0),  # for people: smooth edges, ten times slower
    "shadows": (4, 40, 24, 4096),  # for pictures in print: slower again
}
_local = threading.local()
_owner: list[int] = []  # the process that opened OpenGL


class Renderer:
    """Pictures of one model. Envs whose models were copied from the same compiled model share its textures on the GPU.

    Args:
        model: the env's own copy; its colors and poses are read at every frame.
        family: models of one family have the same textures and meshes, and share what is uploaded to the GPU.
    """

    def __init__(self, model: mujoco.MjModel, family: str):
        self._model, self._family = model, family
        self._scene = mujoco.MjvScene(model, maxgeom=200)
        for flag in _OFF:
            self._scene.flags[int(flag)] = 0
        self._option, self._perturb, self._camera = mujoco.MjvOption(), mujoco.MjvPerturb(), mujoco.MjvCamera()
        self._camera.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
        self._buffers: dict[tuple[int, int], UInt8Array] = {}

    def render(
        self, data: mujoco.MjData, cameras: tuple[str, ...], height: int, width: int, quality: str = "plain"
    ) -> dict[str, UInt8Array]:
        """One fresh uint8 RGB image (h, w, 3) per camera, upright; see `QUALITIES`."""
        self._scene.flags[int(mujoco.mjtRndFlag.mjRND_SHADOW)] = shadows = QUALITIES[quality][3] > 0
        self._model.light_castshadow[:1] = shadows
        return self._draw(data, cameras, height, width, quality)

    def depth(self, data: mujoco.MjData, cameras: tuple[str, ...], height: int, width: int) -> dict[str, FloatArray]:
        """One float32 depth image (h, w) per camera: meters along its axis, 0 where nothing is seen."""
        buffers: dict[str, FloatArray] = {name: np.empty((height, width), np.float32) for name in cameras}
        self._draw(data, cameras, height, width, "plain", buffers)
        extent = self._model.stat.extent
        near, far = self._model.vis.map.znear * extent, self._model.vis.map.zfar * extent
        out = {}
        for name, buffer in buffers.items():
            meters = near / (1 - buffer[::-1].astype(np.float64) * (1 - near / far))  # OpenGL's depth is nearly 1 / meters
            out[name] = np.where(meters < 0.99 * far, meters, 0).astype(np.float32)
        return out

    def segment(self, data: mujoco.MjData, cameras: tuple[str, ...], height: int, width: int) -> dict[str, Int32Array]:
        """The geom (h, w) that each pixel of each camera shows, −1 where it shows none."""
        marking = [int(mujoco.mjtRndFlag.mjRND_SEGMENT), int(mujoco.mjtRndFlag.mjRND_IDCOLOR)]
        self._scene.flags[marking] = 1
        try:
            images = self._draw(data, cameras, height, width, "plain")  # unsampled: a mixed color would be a false number
        finally:
            self._scene.flags[marking] = 0
        shown = self._scene.geoms[: self._scene.ngeom]
        geoms = np.full(self._scene.ngeom + 1, -1, np.int32)  # a color is 1 + the number of what is shown, 0 for nothing
        for geom in shown:
            if geom.objtype == int(mujoco.mjtObj.mjOBJ_GEOM) and geom.segid >= 0:
                geoms[geom.segid + 1] = geom.objid
        return {name: geoms[image.astype(np.int32) @ (1, 1 << 8, 1 << 16)] for name, image in images.items()}

    def _draw(
        self, data: mujoco.MjData, cameras: tuple[str, ...], height: int, width: int, quality: str,
        depth: Mapping[str, FloatArray] | None = None,
    ) -> dict[str, UInt8Array]:  # fmt: skip
        context = _context(self._family, self._model, quality)
        buffer = self._buffers.setdefault((height, width), np.empty((height, width, 3), np.uint8))
        viewport, images = mujoco.MjrRect(0, 0, width, height), {}
        for i, name in enumerate(cameras):
            self._camera.fixedcamid = self._model.camera(name).id
            if i == 0:
                everything = int(mujoco.mjtCatBit.mjCAT_ALL)
                mujoco.mjv_updateScene(self._model, data, self._option, self._perturb, self._camera, everything, self._scene)
            else:  # the same instant: only the eye moves
                mujoco.mjv_updateCamera(self._model, data, self._camera, self._scene)
            mujoco.mjr_render(viewport, self._scene, context)
            mujoco.mjr_readPixels(buffer, None if depth is None else depth[name], viewport, context)
            images[name] = np.ascontiguousarray(buffer[::-1])  # OpenGL's first row is the lowest
        return images


def backend() -> str:
    """``"egl"`` or ``"osmesa"``: the first whose system library loads and works; the variable MUJOCO_GL may choose.

    On macOS, which has neither, ``"cgl"``: MuJoCo's own choice there.

    Raises `MissingDependencyError` that names the Debian packages when none does.
    """
    if sys.platform == "darwin":
        return "cgl"
    asked = os.environ.get("MUJOCO_GL", "").lower()
    names = (asked,) if asked in _LIBRARIES else tuple(_LIBRARIES)
    for name in names:
        with contextlib.suppress(OSError):
            first, *_ = [_library(library) for library in _LIBRARIES[name][0]]
            if name != "egl" or _egl_works(first):
                return name
    packages = " or ".join(f"'apt install {_LIBRARIES[name][1]}'" for name in names)
    raise MissingDependencyError(f"no off-screen OpenGL library works ({', '.join(names)}); on Debian: {packages}")


def _library(name: str) -> ctypes.CDLL:
    """By its name on Debian, else wherever the system has it. Raises `OSError` if it is not."""
    try:
        return ctypes.CDLL(name)
    except OSError:
        found = ctypes.util.find_library(name.removeprefix("lib").partition(".so")[0])
        if found is None:
            raise
        return ctypes.CDLL(found)


def _egl_works(egl: ctypes.CDLL) -> bool:
    """Whether any EGL device opens: libEGL alone is a dispatcher, and useless without a driver (Debian: libgl1-mesa-dri).

    By hand, because PyOpenGL settles on one platform for good when it is first imported.
    """
    egl.eglGetProcAddress.restype = pointer = ctypes.c_void_p
    query, display = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display:
        return False
    devices, count = (pointer * 16)(), ctypes.c_int()
    integers = ctypes.POINTER(ctypes.c_int)
    if not ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.POINTER(pointer), integers)(query)(16, devices, count):
        return False
    get_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display)
    egl.eglInitialize.argtypes = [pointer, integers, integers]
    displays = (get_display(_EGL_PLATFORM_DEVICE, device, None) for device in devices[: count.value])
    return any(found and egl.eglInitialize(found, None, None) for found in displays)


def _context(family: str, model: mujoco.MjModel, quality: str) -> mujoco.MjrContext:
    """This thread's context for `family`: OpenGL contexts do not change threads.

    Raises `SimulationError` in a forked child of a process that rendered: OpenGL would wait there for ever.
    """
    key = (family, quality)
    if _owner and _owner[0] != os.getpid():
        raise SimulationError("this process was forked from one that had rendered; start workers by 'spawn' instead")
    if not hasattr(_local, "gl"):
        _local.gl, _local.contexts = _open_gl(), {}
        _local.gl.make_current()
    if key not in _local.contexts:
        model = copy.copy(model)
        wanted = model.vis.quality
        wanted.offsamples, wanted.numslices, wanted.numstacks, wanted.shadowsize = QUALITIES[quality]
        _local.contexts[key], _local.latest = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_100)), None
    if _local.latest != key:
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), _local.contexts[key])
        _local.latest = key
    return _local.contexts[key]


def _open_gl() -> Any:
    # Mesa's software rasterizer starts a thread per core unless limited; the workers beside us need those cores.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    name = backend()
    if "OpenGL" not in sys.modules and name != "cgl":
        os.environ["PYOPENGL_PLATFORM"] = name
    if name == "cgl":
        from mujoco.cgl import GLContext
    elif name == "egl":
        from mujoco.egl import GLContext
    else:
        from mujoco.osmesa import GLContext
    context = GLContext(640, 640)
    # Registered after mujoco's own exit handler, so it runs before that: the other order prints exceptions at exit.
    atexit.register(_close)
    _owner[:] = [os.getpid()]
    return context


def _close() -> None:
    if _owner[0] != os.getpid() or not hasattr(_local, "gl"):
        return
    for context in _local.contexts.values():
        context.free()
    _local.gl.free()
    del _local.gl
