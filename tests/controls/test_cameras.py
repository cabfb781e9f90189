"""Cameras: presets against geometry, rays against projection and a float64 reading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stp_jax.controls import cameras
from stp_jax.errors import InputError
from tests.controls.random_cameras import project, random_cameras

F = 9


# Presets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", cameras.PRESETS)
def test_preset_starts_at_the_source_and_is_sound(name):
    path = cameras.preset(name, F)
    assert path.c2w.dtype == path.intrinsics.dtype == np.float32
    cameras.check(path.c2w, path.intrinsics, F, name)
    np.testing.assert_allclose(path.c2w[0], np.eye(4), atol=1e-6)
    np.testing.assert_array_equal(path.intrinsics[0], cameras.default_intrinsics())
    moved = not np.array_equal(path.c2w[-1], path.c2w[0])
    zoomed = not np.array_equal(path.intrinsics[-1], path.intrinsics[0])
    assert moved == (name not in ("static", "zoom_in", "zoom_out")) and zoomed == ("zoom" in name)


@pytest.mark.parametrize(
    "name", ["orbit_left", "orbit_right", "orbit_up", "orbit_down", "spiral_left", "spiral_right"]
)
def test_orbits_look_at_the_pivot_from_the_same_distance(name):
    path = cameras.preset(f"{name}:50:-10", F, distance=3.0)
    pivot = np.array([[0, 0, 3.0]])
    for c2w, intrinsics in zip(*path, strict=True):
        pixel, depth = project(pivot, c2w, intrinsics)
        np.testing.assert_allclose(pixel, [[0.5, 0.5]], atol=1e-6)
        np.testing.assert_allclose(depth, 3.0, rtol=1e-6)
        assert abs(c2w[1, 0]) < 1e-6, "the horizon is level"


def test_orbit_ends_at_its_angle_after_even_steps():
    position = cameras.preset("orbit_left:40", F, distance=2.0).c2w[:, :3, 3].astype(np.float64)
    from_pivot = (position - [0, 0, 2.0]) / 2.0
    angles = np.degrees(np.arctan2(-from_pivot[:, 0], -from_pivot[:, 2]))
    np.testing.assert_allclose(angles, np.linspace(0, 40, F), atol=1e-4)


def test_start_moves_the_first_frame_in_the_direction_of_the_preset():
    whole = cameras.preset("orbit_left:40:-20", F).c2w
    np.testing.assert_allclose(whole[0], cameras.preset("orbit_right:20", F).c2w[-1], atol=1e-6)
    np.testing.assert_allclose(whole[-1], cameras.preset("orbit_left:20", F).c2w[-1], atol=1e-6)
    still = cameras.preset("orbit_left:0:20", F).c2w
    np.testing.assert_allclose(still, np.broadcast_to(whole[-1], still.shape), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "position"),
    [
        ("dolly_in:2", [0, 0, 2]),
        ("dolly_out:2", [0, 0, -2]),
        ("truck_left:2", [-2, 0, 0]),
        ("truck_right:2", [2, 0, 0]),
        ("crane_up:2", [0, -2, 0]),
        ("crane_down:2:1", [0, 3, 0]),
        ("truck_left", [-2, 0, 0]),  # a quarter of the distance
    ],
)
def test_translations_keep_the_view_direction(spec, position):
    last = cameras.preset(spec, F, distance=8.0).c2w[-1]
    np.testing.assert_allclose(last[:3, 3], position)
    np.testing.assert_array_equal(last[:3, :3], np.eye(3))


@pytest.mark.parametrize(
    ("spec", "horizontal", "vertical"),
    [("pan_left:20", -1, 0), ("pan_right:20", 1, 0), ("tilt_up:20", 0, -1), ("tilt_down:20", 0, 1)],
)
def test_pan_and_tilt_turn_the_view_on_the_spot(spec, horizontal, vertical):
    last = cameras.preset(spec, F).c2w[-1]
    np.testing.assert_array_equal(last[:3, 3], 0)
    sine, cosine = np.sin(np.radians(20)), np.cos(np.radians(20))
    np.testing.assert_allclose(last[:3, 2], [horizontal * sine, vertical * sine, cosine], atol=1e-6)


def test_orbit_right_and_up_go_right_and_up():
    assert cameras.preset("orbit_right", F).c2w[-1, 0, 3] > 0.5
    assert cameras.preset("orbit_left", F).c2w[-1, 0, 3] < -0.5
    assert cameras.preset("orbit_up", F).c2w[-1, 1, 3] < -0.5  # y points down
    assert cameras.preset("orbit_down", F).c2w[-1, 1, 3] > 0.5
    spiral = cameras.preset("spiral_left:30:-15", F).c2w[:, :3, 3]
    assert spiral[0, 0] > 0.5 and spiral[-1, 0] < -0.5 and np.all(np.diff(spiral[:, 1]) < 0)


def test_zoom_multiplies_the_focal_length_evenly():
    lens = np.array([1.0, 2.0, 0.4, 0.5], np.float32)
    path = cameras.preset("zoom_in:4:0.5", 5, intrinsics=lens).intrinsics
    np.testing.assert_allclose(path[:, 0], 0.5 * 4 ** np.linspace(0, 1, 5), rtol=1e-6)
    np.testing.assert_allclose(path[:, 1] / path[:, 0], 2, rtol=1e-6)
    np.testing.assert_array_equal(path[:, 2:], np.tile(lens[2:], (5, 1)))
    np.testing.assert_allclose(
        cameras.preset("zoom_out:2", 5).intrinsics[-1, 0] * 2, cameras.default_intrinsics()[0]
    )


def test_preset_of_one_frame():
    np.testing.assert_allclose(cameras.preset("orbit_left", 1).c2w, np.eye(4)[None], atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orbit_lift", "did you mean orbit_left"),
        ("orbit", "did you mean orbit_left"),
        ("xyzzy", "choose one of static, "),
        ("", "choose one of static, "),
        ("orbit_left:4x", "'4x' is not a number"),
        ("orbit_left:", "'' is not a number"),
        ("orbit_left:nan", "'nan' is not a number"),
        ("orbit_left:1:2:3", "longest form is orbit_left:amount:start"),
        ("static:3", "longest form is static"),
        ("zoom_in:0", "'0' is not a positive number"),
        ("zoom_in:2:-1", "'-1' is not a positive number"),
    ],
)
def test_bad_preset_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        cameras.parse(spec, F)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dolly_in:1e39", "camera 'dolly_in:1e39': frame 1: the pose has NaN, infinite or huge numbers"),
        ("truck_left:1:1e300", "frame 0: the pose has NaN, infinite or huge numbers"),
        ("orbit_left:1e9", "1e.09 degrees are too many; at most 3600"),
        ("zoom_in:1e39", "a focal length of .* times the picture; at most 30"),
        ("zoom_out:1e300", "the focal lengths must be positive"),
        ("Circle", "did you mean orbit_left"),
        ("original", "did you mean source"),
        ("orbit_left:40deg", "'40deg' is not a number: write orbit_left:40, in degrees"),
        ("nofile.txt", "nofile.txt: no such file"),
        ("https://example.org/path.json", "is an address.*download it first"),
    ],
)
def test_presets_are_checked_as_files_are_and_what_was_meant_is_said(spec, message):
    with pytest.raises(InputError, match=message):
        cameras.parse(spec, F)


def test_names_known_elsewhere_lead_to_presets():
    from stp_jax.controls.moves import ALIASES, ELSEWHERE, MOVES

    assert set(ELSEWHERE.values()) <= {*MOVES, "source"} and set(ALIASES.values()) <= {*MOVES}
    assert not set(ELSEWHERE) & {*MOVES, *ALIASES} and not set(ALIASES) & {*MOVES}


@pytest.mark.parametrize("distance", [0.0, -1.0, np.nan, np.inf])
def test_bad_distance_is_refused(distance):
    with pytest.raises(InputError, match="distance"):
        cameras.preset("static", F, distance=distance)


# Lenses and frames of reference ---------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(100, 100), (160, 90), (90, 160)])
def test_default_intrinsics_give_the_field_of_view_across_the_shorter_side(width, height):
    fx, fy, cx, cy = cameras.default_intrinsics(60, width / height).astype(np.float64)
    np.testing.assert_allclose(fx * width, fy * height, rtol=1e-6)  # square pixels
    np.testing.assert_allclose(
        2 * np.degrees(np.arctan(min(width, height) / 2 / (fx * width))), 60, rtol=1e-6
    )
    assert (cx, cy) == (0.5, 0.5)


@pytest.mark.parametrize("fov", [0, 180, -5, np.nan])
def test_impossible_field_of_view_is_refused(fov):
    with pytest.raises(InputError, match="field of view"):
        cameras.default_intrinsics(fov)


def test_relative_to_makes_the_reference_the_world_and_keeps_relative_poses():
    c2w, _ = random_cameras(batch=(2,))
    relative = cameras.relative_to(c2w, c2w[:, :1])
    assert relative.dtype == np.float32
    np.testing.assert_allclose(relative[:, 0], np.tile(np.eye(4), (2, 1, 1)), atol=1e-6)
    between = np.linalg.inv(c2w[:, 3]) @ c2w[:, 5]
    np.testing.assert_allclose(np.linalg.inv(relative[:, 3]) @ relative[:, 5], between, atol=1e-5)
    np.testing.assert_allclose(cameras.relative_to(c2w[0], c2w[0, 0]), relative[0])


# Rays -----------------------------------------------------------------------------------------------------


def test_ray_passes_through_the_point_that_the_camera_projects_to_its_pixel():
    """Plücker's condition p x d = moment, for points that a shift of the lens puts on a pixel's centre."""
    c2w, intrinsics = random_cameras()
    rng = np.random.default_rng(1)
    height, width, i, j = 6, 10, 2, 7
    points = c2w[:, :3, 3] + (c2w[:, :3, :3] @ rng.uniform([-1, -1, 1], [1, 1, 5], (F, 3))[..., None])[..., 0]
    for f in range(F):
        pixel, _ = project(points[f : f + 1], c2w[f], intrinsics[f])
        intrinsics[f, 2:] += [(j + 0.5) / width, (i + 0.5) / height] - pixel[0]
    rays = cameras.plucker_rays(c2w, intrinsics, height, width)
    assert rays.shape == (F, height, width, 6) and rays.dtype == np.float64
    moment, direction = rays[:, i, j, :3], rays[:, i, j, 3:]
    np.testing.assert_allclose(np.cross(points, direction), moment, atol=1e-12)
    assert np.all(((points - c2w[:, :3, 3]) * direction).sum(-1) > 0), "the rays look forward"


def test_moment_is_perpendicular_to_the_unit_direction():
    moment, direction = np.split(cameras.plucker_rays(*random_cameras(), 4, 5), 2, axis=-1)
    np.testing.assert_allclose((moment * direction).sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, rtol=1e-12)


def test_ray_is_the_same_from_any_camera_centre_along_it():
    c2w, intrinsics = random_cameras(frames=1)
    intrinsics[:, 2:] = 0.5
    middle = cameras.plucker_rays(c2w, intrinsics, 3, 3)[0, 1, 1]
    forward = c2w.copy()
    forward[:, :3, 3] += 1.7 * middle[3:]
    np.testing.assert_allclose(cameras.plucker_rays(forward, intrinsics, 3, 3)[0, 1, 1], middle, atol=1e-12)
    aside = c2w.copy()
    aside[:, :3, 3] += c2w[:, :3, 0]
    assert np.abs(cameras.plucker_rays(aside, intrinsics, 3, 3)[0, 1, 1] - middle).max() > 0.1


def naive_token_rays(c2w, intrinsics, grid, samples, scale):
    """The definition, spelt out ray by ray in float64."""
    batch, frames = c2w.shape[:2]
    latent = (frames - 1) // 4 + 1
    out = np.empty((batch, latent, *grid, 4, samples, samples, 6))
    for b, k, i, j, n, y, x in np.ndindex(*out.shape[:-1]):
        f = 0 if k == 0 else 4 * k - 3 + n
        u = (j + (x + 0.5) / samples) / grid[1]
        v = (i + (y + 0.5) / samples) / grid[0]
        fx, fy, cx, cy = intrinsics[b, f]
        direction = c2w[b, f, :3, :3] @ np.array([(u - cx) / fx, (v - cy) / fy, 1])
        direction /= np.linalg.norm(direction)
        out[b, k, i, j, n, y, x] = [*np.cross(c2w[b, f, :3, 3] / scale, direction), *direction]
    return out.reshape(batch, latent, *grid, -1)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_token_rays_are_those_of_the_four_pixel_frames_in_numpy_and_in_jitted_jax(samples):
    c2w, intrinsics = random_cameras(batch=(2,))
    grid, scale = (2, 3), 4.0
    expected = naive_token_rays(c2w, intrinsics, grid, samples, scale)
    got = cameras.token_rays(c2w, intrinsics, grid, samples=samples, scale=scale)
    assert got.shape == (2, 3, 2, 3, 4 * samples**2 * 6) and got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-12)

    jitted = jax.jit(lambda c, i: cameras.token_rays(c, i, grid, samples=samples, scale=scale))
    on_device = jitted(jnp.asarray(c2w, jnp.float32), jnp.asarray(intrinsics, jnp.float32))
    assert isinstance(on_device, jax.Array) and on_device.dtype == jnp.float32
    np.testing.assert_allclose(on_device, expected, atol=2e-6)


def test_rays_use_no_matrix_product_which_accelerators_would_round():
    c2w, intrinsics = (jnp.asarray(x, jnp.float32) for x in random_cameras(batch=(1,)))
    program = str(jax.make_jaxpr(lambda c, i: cameras.token_rays(c, i, (2, 2)))(c2w, intrinsics))
    assert "dot_general" not in program


def test_token_rays_depend_on_scene_scale_only_through_metres():
    c2w, intrinsics = random_cameras(batch=(1,))
    doubled = c2w.copy()
    doubled[..., :3, 3] *= 2
    np.testing.assert_allclose(
        cameras.token_rays(c2w, intrinsics, (2, 2), scale=3.0),
        cameras.token_rays(doubled, intrinsics, (2, 2), scale=6.0),
        atol=1e-12,
    )


def test_token_rays_refuse_a_frame_count_without_latent_frames():
    c2w, intrinsics = random_cameras(frames=8, batch=(1,))
    with pytest.raises(ValueError, match="4n \\+ 1"):
        cameras.token_rays(c2w, intrinsics, (2, 2))
