"""The camera of the synthetic street scenes."""

import numpy as np
import pytest

from kaseg.data.scene_street import Street, smooth_noise, vary


def make_street(seed: int = 0, **changes) -> Street:
    street = Street(np.random.default_rng(seed), 192, 256)
    for name, value in changes.items():
        setattr(street, name, value)
    return street


def test_projection_is_a_pinhole_camera():
    street = make_street(focal=200.0, horizon=80.0, center=130.0, eye=1.5, bend=0.0)
    intrinsics = np.array([[200.0, 0, 130], [0, 200, 80], [0, 0, 1]])
    for x, y, z in [(0, 0, 10), (2, 1.5, 5), (-3, 4, 25)]:
        column, row, scale = intrinsics @ np.array([x, 1.5 - y, z])
        assert street.project((x, y, z)) == pytest.approx((column / scale, row / scale))
    assert street.project((1.0, 1.5, 1e9)) == pytest.approx((130, 80))  # everything meets at the horizon
    assert street.project((0.0, 0.0, -5.0))[1] > 192  # points behind the camera stay below the image


def test_a_bend_moves_far_points_sideways():
    straight, bent = make_street(bend=0.0), make_street(bend=0.001)
    for z in (5.0, 20.0):
        moved = bent.project((1.0, 0.0, z))[0]
        assert moved == pytest.approx(straight.project((1.0 + 0.001 * z**2, 0.0, z))[0])


def test_haze_takes_over_with_distance():
    street = make_street(haze=(200.0, 210.0, 220.0), haze_depth=50.0, ambient=(1.0, 1.0, 1.0))
    assert street.tint((10, 20, 30), 0.0) == (10, 20, 30)
    assert street.tint((10, 20, 30), 1e6) == (200, 210, 220)
    halfway = street.tint((10, 20, 30), 50 * np.log(2))
    assert halfway == pytest.approx((105, 115, 125), abs=1)
    assert street.tint((250, 250, 250), 0.0, light=2.0) == (255, 255, 255)


def test_layout_is_plausible():
    for seed in range(40):
        street = make_street(seed)
        assert (
            street.walls[0]
            < street.road[0]
            < min(street.lanes)
            <= max(street.lanes)
            < 0
            < street.road[1]
            < street.walls[1]
        )
        assert 0 < street.horizon < 192 and 0 < street.center < 256
        assert street.sun == 0 if street.weather == "overcast" else street.sun in (-1, 1)


def test_vary_and_noise():
    rng = np.random.default_rng(0)
    colors = np.array([vary(rng, (100, 120, 140), 10) for _ in range(2000)])
    np.testing.assert_allclose(colors.mean(axis=0), (100, 120, 140), atol=1)
    np.testing.assert_allclose(colors.std(axis=0), 10 * np.sqrt(1 + 1 / 9), rtol=0.1)
    assert min(vary(rng, (0, 0, 0), 1)) >= 8
    noise = smooth_noise(rng, 40, 60, 5, 4)
    assert noise.shape == (40, 60) and noise.dtype == np.float32
    assert np.abs(np.diff(noise, axis=1)).max() < 0.25 < noise.max() - noise.min()
