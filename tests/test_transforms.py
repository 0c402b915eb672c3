import numpy as np
import pytest

from verbot.errors import ConfigError
from verbot.spec import Component
from verbot.statistics import FeatureStatistics
from verbot.transforms import FITS, KEPT_KINDS, METHODS, Affine, ClipTransform, FitImage, Pipeline, normalizer


def component(name, kind, size):
    return Component(name, kind, tuple(f"{name}{i}" for i in range(size)), "1", "base", (-1.0,) * size, (1.0,) * size)


def random_case(seed):
    rng = np.random.default_rng(seed)
    components = [
        component(f"c{i}", str(rng.choice(["position", "gripper", "quaternion"])), rng.integers(1, 5)) for i in range(3)
    ]
    size = sum(c.size for c in components)
    values = rng.normal(size=(50, size)) * 10.0 ** rng.uniform(-3, 3, size) + rng.normal(size=size) * 10
    constant = rng.random(size) < 0.3
    values[:, constant] = values[0, constant]
    return components, values.astype(np.float32), constant


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(8))
def test_the_inverse_inverts_and_constants_are_zero(method, seed):
    components, values, constant = random_case(seed)
    step = normalizer(method, FeatureStatistics.of(values), components)
    normal = step.forward(values)
    assert normal.dtype == np.float32 and (normal[:, constant] == 0).all()
    np.testing.assert_allclose(step.inverse(normal), values, rtol=1e-4, atol=1e-5)
    far = step.forward(values + 1e3)
    assert np.isfinite(far).all() and (far[:, constant] == 0).all()
    np.testing.assert_allclose(step.inverse(normal * 100)[:, constant], values[:, constant], rtol=1e-6)


def test_what_each_method_means():
    values = np.arange(101, dtype=np.float32)[:, None] * [1.0, 2.0]
    statistics, components = FeatureStatistics.of(values), [component("x", "position", 2)]
    z = normalizer("z_score", statistics, components).forward(values)
    np.testing.assert_allclose([z.mean(0), z.std(0)], [[0, 0], [1, 1]], atol=1e-5)
    ranged = normalizer("min_max", statistics, components).forward(values)
    assert ranged.min() == -1 and ranged.max() == 1
    quantile = normalizer("quantile", statistics, components)
    np.testing.assert_allclose(quantile.forward(np.array([[1.0, 198.0]])), [[-1, 1]], atol=1e-6)


def test_a_dimension_that_moves_once_takes_its_range():
    values = np.zeros((1000, 1), np.float32)
    values[0] = 0.5
    step = normalizer("quantile", FeatureStatistics.of(values), [component("x", "position", 1)])
    assert step.forward(np.array([[0.5]])) == 1 and step.forward(np.array([[0.0]])) == -1


def test_a_dimension_constant_but_for_rounding_does_not_explode():
    values = np.full((100, 1), 0.3, np.float32)
    values[::2] = np.nextafter(np.float32(0.3), np.float32(1))
    step = normalizer("z_score", FeatureStatistics.of(values), [component("x", "position", 1)])
    assert (step.forward(values) == 0).all() and (step.forward(values + 1) == 0).all()


def test_kept_kinds_keep_their_units():
    components = [component("p", "position", 1), component("g", "gripper", 1), component("q", "quaternion", 4)]
    values = np.random.default_rng(0).random((20, 6)).astype(np.float32)
    values[:, 1] = 1.0  # a gripper that never closes in the data must still accept a close command
    normal = normalizer("z_score", FeatureStatistics.of(values), components, KEPT_KINDS).forward(values)
    np.testing.assert_array_equal(normal[:, 1:], values[:, 1:])
    assert abs(normal[:, 0].mean()) < 1e-5


def test_a_pipeline_runs_backward_in_reverse():
    double, add = Affine(np.zeros(1), np.full(1, 0.5)), Affine(np.full(1, -3.0), np.ones(1))
    line = Pipeline((double, add))
    assert line.forward(np.array([2.0])) == 7 and line.inverse(np.array([7.0])) == 2
    clipped = Pipeline((ClipTransform(np.array([-1.0]), np.array([1.0])), double))
    assert clipped.forward(np.array([5.0])) == 2 and clipped.inverse(np.array([9.0])) == 1


@pytest.mark.parametrize(
    ("source", "target"), [((64, 64), (64, 64)), ((48, 64), (32, 32)), ((33, 50), (16, 16)), ((16, 16), (32, 32))]
)
@pytest.mark.parametrize("how", FITS)
def test_images_fit_and_points_follow(source, target, how):
    fit = FitImage(source, target, how)
    rows, columns = np.indices(source)
    gradient = np.stack([rows * 3, columns * 3, np.zeros(source)], -1).astype(np.uint8)
    small = fit.forward(gradient)
    assert small.shape == (*target, 3) and small.dtype == np.uint8
    assert fit.inverse(small).shape == gradient.shape
    points = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    np.testing.assert_allclose(fit.points_inverse(fit.points(points)), points, atol=1e-6)
    # The middle of the target shows the place of the source that the points say.
    x, y = (fit.points_inverse(np.zeros(2, np.float32)) + 1) / 2 * [source[1], source[0]] - 0.5
    middle = small[target[0] // 2 - 1 : target[0] // 2 + 1, target[1] // 2 - 1 : target[1] // 2 + 1].mean((0, 1))
    np.testing.assert_allclose(middle[:2], [y * 3, x * 3], atol=2.5)


@pytest.mark.parametrize(("source", "target"), [((33, 50), (16, 16)), ((48, 64), (33, 33)), ((64, 40), (25, 24))])
def test_a_letterboxed_image_is_whole_and_its_points_follow(source, target):
    fit = FitImage(source, target, "letterbox")
    image = np.full((*source, 3), 200, np.uint8)
    corners = np.array([[0, 0], [source[0] - 1, source[1] - 1]])
    small = fit.forward(image)
    shown = np.argwhere(small[..., 0] == 200)
    for (row, column), (y, x) in zip((shown.min(0), shown.max(0)), corners, strict=True):  # the corner pixels' outer edges
        edge = np.array([2 * (x + (x > 0)) / source[1] - 1, 2 * (y + (y > 0)) / source[0] - 1], np.float32)
        place = (fit.points(edge) + 1) / 2 * [target[1], target[0]]
        np.testing.assert_allclose(place, [column + (x > 0), row + (y > 0)], atol=0.51)
    assert (small[..., 0] == 0).sum() == target[0] * target[1] - len(shown) > 0
    assert (fit.inverse(small) == image).all()


def test_an_unknown_fit_is_named():
    with pytest.raises(ConfigError, match="images are fitted by crop or letterbox; got 'squeeze'"):
        FitImage((8, 8), (4, 4), "squeeze")


def test_an_image_of_one_color_stays_so():
    assert (FitImage((48, 64), (24, 24)).forward(np.full((2, 48, 64, 3), 77, np.uint8)) == 77).all()


def test_errors_teach():
    statistics = FeatureStatistics.of(np.random.default_rng(0).random((5, 2)))
    with pytest.raises(ConfigError, match=r"no normalization 'zscore'; there are z_score, min_max"):
        normalizer("zscore", statistics, [component("x", "position", 2)])
    with pytest.raises(ConfigError, match=r"statistics have 2 dimensions; x have 3"):
        normalizer("z_score", statistics, [component("x", "position", 3)])
