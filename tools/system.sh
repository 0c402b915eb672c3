#!/usr/bin/env bash
# What pip cannot do.   system.sh venv DIR: a virtual environment of Python >= 3.11   |   system.sh gl: OpenGL without a screen
set -euo pipefail

new_venv() {
    [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1 && return
    for python in python3.11 python3 python3.12 python3.13; do
        if "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$python" -m venv "$1" && return
        fi
    done
    echo "verbot needs Python 3.11 or newer with its venv module (Debian: apt-get install python3 python3-venv)" >&2
    exit 1
}

has_library() { (ldconfig -p 2>/dev/null || /sbin/ldconfig -p) | grep -F "$1" >/dev/null; }

has_driver() { compgen -G '/usr/lib*/*/dri/swrast_dri.so' >/dev/null || compgen -G '/usr/lib*/dri/swrast_dri.so' >/dev/null; }

offscreen_gl() {
    [ "$(uname -s)" = Linux ] || return 0
    # libEGL alone is only a dispatcher: it needs NVIDIA's side, or Mesa's with its drivers.
    if has_library libEGL.so.1 && has_library libOpenGL.so.0 &&
        { has_library libEGL_nvidia.so.0 || { has_library libEGL_mesa.so.0 && has_driver; }; }; then
        return 0
    fi
    local egl="libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"
    local packages="$egl libosmesa6"
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "installing OpenGL without a screen: $packages"
        apt-get update -qq </dev/null >/dev/null || true
        # libosmesa6 left Debian after 12; EGL alone is enough.
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages </dev/null >/dev/null ||
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $egl </dev/null >/dev/null ||
            echo "could not install $packages; camera images need them" >&2
    else
        echo "camera images need OpenGL without a screen: sudo apt-get install --no-install-recommends $packages" >&2
    fi
}

case "${1:-}" in
    venv) new_venv "$2" ;;
    gl) offscreen_gl ;;
    *) echo "usage: system.sh venv DIR | gl" >&2; exit 2 ;;
esac
