"""The orthonormal cosine transform over time, in numpy, with the rounding errors of `scipy.fft`.

The last bit of a coefficient halfway between two integers decides how it is rounded, and actions on a grid have many of those.
So the sums are done in the order of pocketfft, which scipy uses and numpy has for its real transforms, with pocketfft's table of
cosines. A product with the matrix of cosines rounds some halves otherwise. Checked to the bit against scipy 1.17 in float64.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from verbot.spec import Float64Array

PI = np.longdouble("3.14159265358979323846264338327950288")


def cosine_transform(x: Float64Array) -> Float64Array:
    """The coefficients (…, h) of DCT-II, orthonormal, over the last axis of x (…, h), by a real Fourier transform."""
    x = np.asarray(x, np.float64)
    length = x.shape[-1]
    pairs, middle, is_even = (length - 1) // 2, length // 2, length % 2 == 0
    first, second = x[..., 1 : 1 + 2 * pairs : 2], x[..., 2 : 2 + 2 * pairs : 2]
    spectrum = np.zeros((*x.shape[:-1], middle + 1), np.complex128)
    spectrum[..., 0] = 2 * x[..., 0]
    spectrum[..., 1 : 1 + pairs] = (first + second) + 1j * (second - first)
    if is_even:
        spectrum[..., middle] = 2 * x[..., -1]
    y = np.fft.irfft(spectrum, n=length, norm="forward") * float(1 / np.sqrt(np.longdouble(2 * length)))
    cosines = _cosines(length)
    low = np.arange(1, pairs + 1)
    high = length - low
    a = cosines[low - 1] * y[..., high] + cosines[high - 1] * y[..., low]
    b = cosines[low - 1] * y[..., low] - cosines[high - 1] * y[..., high]
    y[..., low], y[..., high] = 0.5 * (a + b), 0.5 * (a - b)
    if is_even:
        y[..., middle] *= cosines[middle - 1]
    y[..., 0] *= math.sqrt(2) * 0.5
    return y


def inverse_cosine_transform(coefficients: Float64Array) -> Float64Array:
    """The inverse of `cosine_transform` over the last axis (…, h), up to rounding."""
    return np.asarray(coefficients, np.float64) @ _matrix(np.shape(coefficients)[-1])


@functools.lru_cache(64)
def _matrix(length: int) -> Float64Array:
    """Row k has the coefficient k of a unit step at each time (h, h)."""
    k, time = np.arange(length)[:, None], np.arange(length)
    matrix = np.sqrt(2 / length) * np.cos(np.pi * (2 * time + 1) * k / (2 * length))
    matrix[0] = np.sqrt(1 / length)
    return matrix


@functools.lru_cache(64)
def _cosines(length: int) -> Float64Array:
    """cos(i·π/(2·length)) for i = 1…length, each a product of two tabulated rotations, as in pocketfft."""
    circle = 4 * length
    bits = 1
    while 4**bits < (circle + 2) // 2:
        bits += 1
    found = []
    for i in range(1, length + 1):
        coarse, fine = (i >> bits) << bits, i & ((1 << bits) - 1)
        (a, b), (c, d) = _rotation(fine, circle), _rotation(coarse, circle)
        found.append(a * c - b * d)
    return np.array(found)


def _rotation(part: int, circle: int) -> tuple[float, float]:
    """(cos, sin) of `part`/`circle` of a turn, up to a quarter, from angles of at most an eighth."""
    eighth = float(PI * np.longdouble(0.25) / np.longdouble(circle))
    if part == 0:
        return 1.0, 0.0
    if 8 * part < circle:
        return math.cos(8 * part * eighth), math.sin(8 * part * eighth)
    left = 2 * circle - 8 * part
    return math.sin(left * eighth), math.cos(left * eighth)
