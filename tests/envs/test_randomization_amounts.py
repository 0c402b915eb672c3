"""How much an axis changes grows with its strength, and what belongs together changes together."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.envs import make_env

FIELDS = ("body_mass", "body_inertia", "geom_friction", "actuator_gainprm", "actuator_biasprm", "light_dir")


@pytest.fixture(scope="module")
def env():
    return make_env("tabletop-starter", render_cameras=False)


def models(env, axis):
    """The fields of one episode's model at strengths 0 to 3 of `axis`."""
    found = []
    for strength in range(4):
        env.reset(seed=0, options={"index": 0, "task": "pick", "axes": {axis: strength}})
        model = env.physics.model
        movable = [i for i in range(model.nbody) if model.body(i).name.startswith("movable")]
        found.append({name: np.array(getattr(model, name)) for name in FIELDS} | {"movable": movable})
        found[-1]["geoms"] = [int(model.body_geomadr[i]) for i in movable]
    return found


def test_mass_friction_and_gains_deviate_in_proportion_to_the_strength(env):
    """Kills: a mass, a friction or a gain drawn without the strength."""
    nominal, *changed = models(env, "dynamics")
    bodies, geoms = nominal["movable"], nominal["geoms"]
    quantities = {
        "mass": lambda m: m["body_mass"][bodies],
        "friction": lambda m: m["geom_friction"][geoms, 0],
        "gain": lambda m: m["actuator_gainprm"][:7, 0],
    }
    for name, read in quantities.items():
        one, two, three = (read(m) / read(nominal) - 1 for m in changed)
        assert (np.abs(one) > 1e-4).all(), name
        np.testing.assert_allclose(two, 2 * one, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(three, 3 * one, rtol=1e-6, err_msg=name)
        assert np.abs(three).max() <= 0.6 + 1e-9, name


def test_the_inertia_follows_the_mass(env):
    """Kills: an inertia that stays nominal where the mass changes."""
    nominal, *_, changed = models(env, "dynamics")
    bodies = nominal["movable"]
    factor = changed["body_mass"][bodies] / nominal["body_mass"][bodies]
    np.testing.assert_allclose(changed["body_inertia"][bodies], nominal["body_inertia"][bodies] * factor[:, None], rtol=1e-6)


def test_the_bias_of_a_servo_follows_its_gain(env):
    """Kills: a gain changed without its bias: the servo would no longer settle at its target.

    A servo's force is gain · target + bias₁ · position + bias₂ · velocity: it rests at its target where bias₁ = −gain.
    """
    nominal, *changed = models(env, "dynamics")
    np.testing.assert_allclose(nominal["actuator_biasprm"][:7, 1], -nominal["actuator_gainprm"][:7, 0])
    for model in changed:
        gain = model["actuator_gainprm"][:7, 0] / nominal["actuator_gainprm"][:7, 0]
        np.testing.assert_allclose(model["actuator_biasprm"][:7, 1], -model["actuator_gainprm"][:7, 0], rtol=1e-9)
        expected = nominal["actuator_biasprm"][:7, 1:3] * gain[:, None]
        np.testing.assert_allclose(model["actuator_biasprm"][:7, 1:3], expected, rtol=1e-9)


def test_the_direction_of_the_light_turns_further_when_stronger(env):
    """Kills: a light direction that is fixed, or drawn without the strength."""
    nominal, *changed = models(env, "lighting")
    before = nominal["light_dir"] / np.linalg.norm(nominal["light_dir"], axis=1, keepdims=True)
    angles = []
    for model in changed:
        np.testing.assert_allclose(np.linalg.norm(model["light_dir"], axis=1), 1.0)
        angles.append(np.arccos(np.clip((model["light_dir"] * before).sum(1), -1, 1)))
    one, two, three = angles
    assert (one > 0.01).all()
    assert (two > 1.2 * one).all()
    assert (three > 1.2 * two).all()
