"""Off-screen rendering: says what to install, survives threads, and leaves without a word."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading

import numpy as np
import pytest

from verbot.envs import make_env, rendering
from verbot.errors import MissingDependencyError

SCRIPT = """
from verbot.envs import make_env
env = make_env("tabletop-starter")
other = make_env("tabletop-starter")
other.reset(seed=1)
print(env.reset(seed=0)[0]["images"]["front"].mean() > 10)
"""

FORK = """
import os
from verbot.envs import make_env
env = make_env("tabletop-starter")
env.reset(seed=0)
if os.fork() == 0:
    try:
        env.reset(seed=0)
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


def test_a_missing_library_is_named_with_its_debian_packages(monkeypatch):
    def refuse(name, *args, **kwargs):
        raise OSError(name)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    with pytest.raises(MissingDependencyError, match=r"libegl1 libegl-mesa0.*libosmesa6"):
        rendering.backend()


def test_the_second_backend_is_taken_when_the_first_does_not_load(monkeypatch):
    def only_osmesa(name, *args, **kwargs):
        if "OSMesa" not in name:
            raise OSError(name)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", only_osmesa)
    assert rendering.backend() == "osmesa"


def test_the_second_backend_is_taken_when_the_first_has_no_driver(monkeypatch):
    class Dispatcher:  # libEGL without a driver: it loads, and finds no device
        class eglGetProcAddress:
            def __new__(cls, name):
                return None

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *args, **kwargs: Dispatcher)
    assert rendering.backend() == "osmesa"


def test_another_thread_sees_the_same():
    env, seen = make_env("tabletop-starter"), {}
    here = env.reset(seed=0)[0]["images"]

    def look():
        seen.update(env.reset(seed=0)[0]["images"])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(here["front"], seen["front"])


def test_a_process_that_rendered_ends_silently():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.stderr, done.returncode) == ("True", "", 0)


def test_a_forked_child_gets_an_error_that_asks_to_spawn_it():
    """It would wait for ever."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120)
    assert "start workers by 'spawn'" in done.stdout, done.stderr


def test_importing_the_package_loads_no_simulator():
    """Nor does listing the names of all envs."""
    code = "import sys; from verbot.envs import envs; assert 'tabletop-full' in envs.names(); "
    code += "print([m for m in ('mujoco', 'OpenGL', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_pictures_for_people_leave_what_policies_see_as_it_is():
    env = make_env("tabletop-starter")
    before = env.reset(seed=0)[0]["images"]
    pictures = {quality: env.picture("front", 200, quality) for quality in rendering.QUALITIES}
    after = env.reset(seed=0)[0]["images"]
    np.testing.assert_array_equal(before["front"], after["front"])
    assert all(picture.shape == (200, 200, 3) for picture in pictures.values())
    darker = (pictures["shadows"].astype(int).sum(-1) < pictures["fine"].astype(int).sum(-1) - 60).mean()
    assert 0.002 < darker < 0.3  # there are shadows, in places


def test_a_library_of_another_name_is_looked_for(monkeypatch):
    genuine, asked = ctypes.CDLL, []

    def elsewhere(name, *args, **kwargs):
        asked.append(name)
        if name in ("libEGL.so.1", "libOpenGL.so.0"):
            raise OSError(name)
        return genuine(None)

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", elsewhere)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: f"/opt/lib/{name}.found")
    monkeypatch.setattr(rendering, "_egl_works", lambda egl: True)
    assert rendering.backend() == "egl"
    assert asked == ["libEGL.so.1", "/opt/lib/EGL.found", "libOpenGL.so.0", "/opt/lib/OpenGL.found"]


def test_macos_draws_by_its_own_opengl(monkeypatch):
    """Without a Mac: no Linux library is looked for, and the context is CGL's."""
    import types

    class Context:
        def __init__(self, width, height):
            self.size = (width, height)

    monkeypatch.setattr(rendering.sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **kwargs: pytest.fail("a library was looked for"))
    monkeypatch.setitem(sys.modules, "mujoco.cgl", types.SimpleNamespace(GLContext=Context))
    monkeypatch.setattr(rendering.atexit, "register", lambda function: None)
    monkeypatch.setattr(rendering, "_owner", [])
    assert rendering.backend() == "cgl"
    assert isinstance(rendering._open_gl(), Context)
