"""Each corruption against what does not share its code: moments, colorsys, Pillow, scipy, hand-made values."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hornet.data.corruptions import blur, digital, drops, noise, optics, weather

SEVERITIES = (1, 2, 3, 4, 5)


def seeded(seed=0):
    return np.random.RandomState(seed)


def make_point(size=65):
    point = np.zeros((size, size, 3))
    point[size // 2, size // 2] = 1
    return point


def measure_spread(image):
    """Sum, and the second moments about the centre down and to the right."""
    plane = image[..., 0]
    away = np.arange(len(plane)) - len(plane) // 2
    return plane.sum(), (plane.sum(1) * away**2).sum() / plane.sum(), (plane.sum(0) * away**2).sum() / plane.sum()


def make_colours(seed=1):
    """Random colours, with black, white, greys and pure ones among them."""
    colours = seeded(seed).randint(0, 256, size=(8, 8, 3)) / 255
    colours[0, :6] = [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5], [1, 0, 0], [0, 1, 0], [0.2, 0.2, 0.9]]
    return colours


@pytest.mark.parametrize(("severity", "deviation"), zip(SEVERITIES, (0.08, 0.12, 0.18, 0.26, 0.38), strict=True))
def test_gaussian_noise_has_the_published_deviation_everywhere(severity, deviation):
    for level in (0.1, 0.8):
        added = noise.add_gaussian_noise(np.full((64, 64, 3), level), severity, seeded()) - level
        assert added.std() == pytest.approx(deviation, rel=0.03)
        assert added.mean() == pytest.approx(0, abs=4 * deviation / 110)


@pytest.mark.parametrize(("severity", "photons"), zip(SEVERITIES, (60, 25, 12, 5, 3), strict=True))
def test_shot_noise_counts_photons(severity, photons):
    found = noise.add_shot_noise(np.full((64, 64, 3), 0.5), severity, seeded())
    assert np.allclose(found * photons, np.round(found * photons))
    assert found.mean() == pytest.approx(0.5, rel=0.03)
    assert found.var() == pytest.approx(0.5 / photons, rel=0.05), "a Poisson variable's variance is its mean"


@pytest.mark.parametrize(("severity", "share"), zip(SEVERITIES, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True))
def test_impulse_noise_hits_a_share_of_the_values_half_white_half_black(severity, share):
    found = noise.add_impulse_noise(np.full((128, 128, 3), 0.5), severity, seeded())
    assert set(np.unique(found)) == {0, 0.5, 1}
    assert (found != 0.5).mean() == pytest.approx(share, rel=0.06)
    assert (found == 1).sum() == pytest.approx((found == 0).sum(), rel=0.15)
    assert (found[..., 0] != found[..., 1]).any(), "each channel by itself"


@pytest.mark.parametrize(("severity", "deviation"), zip(SEVERITIES, (0.15, 0.2, 0.35, 0.45, 0.6), strict=True))
def test_speckle_noise_is_in_proportion(severity, deviation):
    for level in (0.2, 0.8):
        found = noise.add_speckle_noise(np.full((64, 64, 3), level), severity, seeded())
        assert found.std() == pytest.approx(level * deviation, rel=0.03)


@pytest.mark.parametrize(("severity", "sigma"), zip(SEVERITIES, (1, 2, 3, 4, 6), strict=True))
def test_a_gaussian_blur_spreads_a_point_as_far_as_it_says(severity, sigma):
    total, down, right = measure_spread(blur.blur_with_gaussian(make_point(), severity, seeded()))
    assert total == pytest.approx(1)
    assert down == pytest.approx(right)
    assert down == pytest.approx(sigma**2, rel=0.01)


@pytest.mark.parametrize(
    ("severity", "radius", "soft"), [(1, 3, 0.1), (2, 4, 0.5), (3, 6, 0.5), (4, 8, 0.5), (5, 10, 0.5)]
)
def test_a_point_out_of_focus_is_a_disk(severity, radius, soft):
    found = blur.defocus(make_point(), severity, seeded())
    total, down, right = measure_spread(found)
    assert total == pytest.approx(1, abs=0.02), "the mask of radius 8 is cut at its border, as published"
    assert down == pytest.approx(right)
    assert down == pytest.approx(radius**2 / 4 + soft**2, rel=0.07), "of a disk r^2 / 4"
    assert found[32, 32, 0] == pytest.approx(1 / (np.pi * radius**2), rel=0.12)
    assert abs(found[32, 32 + radius + 3, 0]) < 1e-12


@pytest.mark.parametrize("degrees", [0, 30, -45, 90, -100])
def test_motion_drags_a_point_along_a_line_that_fades_as_a_gaussian(degrees):
    found = optics.drag(make_point(), radius=10, sigma=5, degrees=degrees)[..., 0]
    assert found.sum() == pytest.approx(1, abs=0.05), "levels are rounded to 255ths"
    assert np.count_nonzero(found) <= 21
    weights = np.exp(-(np.arange(21) ** 2) / 50)
    away = np.arange(65) - 32
    right, down = found.sum(0) @ away / found.sum(), found.sum(1) @ away / found.sum()
    length, angle = weights @ np.arange(21) / weights.sum(), np.radians(degrees)
    # Light comes from where the angle points to.
    assert (right, down) == pytest.approx((-length * np.cos(angle), -length * np.sin(angle)), abs=0.35)
    if degrees == 0:
        assert np.allclose(found[32, 32:20:-1] / found[32, 32], weights[:12], atol=0.03)


def test_a_camera_that_moves_draws_the_image_out_to_one_side_by_45_degrees_at_most():
    for seed in range(20):
        found = blur.move(make_point(), 3, seeded(seed))[..., 0]
        rows, columns = np.nonzero(found)
        assert columns.max() == 32
        assert columns.min() < 32
        assert np.abs(rows - 32).max() <= 32 - columns.min()


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.1, 1.27, 2.5, 4.5])
def test_zooming_is_scipys_linear_zoom_of_the_middle(factor):
    image = seeded().uniform(size=(40, 40, 3))
    kept = int(np.ceil(40 / factor))
    start = (40 - kept) // 2
    whole = ndimage.zoom(image[start : start + kept, start : start + kept], (factor, factor, 1), order=1)
    trim = (len(whole) - 40) // 2
    assert np.allclose(optics.zoom_into(image, factor), whole[trim : trim + 40, trim : trim + 40])
    assert np.allclose(optics.zoom_into(image[..., 0], factor), optics.zoom_into(image, factor)[..., 0])


@pytest.mark.parametrize(("severity", "count"), zip(SEVERITIES, (12, 16, 11, 13, 11), strict=True))
def test_zoom_blur_is_the_mean_over_its_factors_and_the_image(severity, count):
    """Of an image that is dark but for a point off the middle, the point is seen `count` + 1 times."""
    image = np.zeros((224, 224, 3))
    image[20:204, 20:24] = 1
    found = blur.zoom(image, severity, seeded())
    assert found[112, 20:24].max() <= 1
    assert found[112, 22, 0] * (count + 1) >= 1.99, "the image itself, and zoomed by 1"
    assert np.allclose(found[112].sum() / image[112].sum(), 1, atol=0.3)
    assert blur.zoom(np.full((32, 32, 3), 0.5), severity, seeded()) == pytest.approx(0.5)


@pytest.mark.parametrize(("severity", "reach", "num_rounds"), [(1, 1, 2), (2, 2, 1), (3, 2, 3), (4, 3, 2), (5, 4, 2)])
def test_glass_scatters_pixels_no_further_than_its_reach_a_round(severity, reach, num_rounds):
    sources = blur.scatter(32, 32, reach=reach, num_rounds=num_rounds, random=seeded())
    rows, columns = np.divmod(sources, 32)
    moved = np.maximum(np.abs(rows - np.arange(1024) // 32), np.abs(columns - np.arange(1024) % 32))
    # What was copied may be copied again by its neighbour above or to the left, in the same round.
    assert 0 < moved.max() <= 12 * reach * num_rounds
    assert np.median(moved) <= 2 * reach * num_rounds
    still = moved.reshape(32, 32)
    assert not still[: reach + 1].any()
    assert not still[:, : reach + 1].any(), "the published loop leaves the upper and the left border"
    assert not still[32 - reach + 1 :].any()


def test_glass_copies_as_the_published_exchange_of_numpys_rows_does():
    """A literal exchange of array rows, on which the published images depend."""
    image = seeded(5).randint(0, 256, size=(12, 12, 3))
    literal, random = image.copy(), seeded(7)
    for row in range(10, 2, -1):
        for column in range(10, 2, -1):
            right, down = random.randint(-2, 2, size=(2,))
            literal[row, column], literal[row + down, column + right] = (
                literal[row + down, column + right],
                literal[row, column],
            )
    sources = blur.scatter(12, 12, reach=2, num_rounds=1, random=seeded(7))
    assert np.array_equal(image.reshape(-1, 3)[sources].reshape(image.shape), literal)


@pytest.mark.parametrize(("severity", "added"), zip(SEVERITIES, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
def test_brightness_raises_the_value_of_colorsys(severity, added):
    colours = make_colours()
    for colour, found in zip(
        colours.reshape(-1, 3), digital.brighten(colours, severity, seeded()).reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        assert found == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, min(1, value + added)), abs=1e-12)


@pytest.mark.parametrize(
    ("severity", "factor", "added"), [(1, 0.3, 0), (2, 0.1, 0), (3, 2, 0), (4, 5, 0.1), (5, 20, 0.2)]
)
def test_saturate_changes_the_saturation_of_colorsys(severity, factor, added):
    colours = make_colours()
    for colour, found in zip(
        colours.reshape(-1, 3), digital.saturate(colours, severity, seeded()).reshape(-1, 3), strict=True
    ):
        hue, saturation, value = colorsys.rgb_to_hsv(*colour)
        saturation = min(1, max(0, saturation * factor + added))
        assert found == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, value), abs=1e-12)


@pytest.mark.parametrize(("severity", "share"), zip(SEVERITIES, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True))
def test_contrast_keeps_each_channels_mean_and_a_share_of_its_deviation(severity, share):
    image = seeded().uniform(size=(32, 32, 3)) * (1, 0.5, 0.2)
    found = digital.reduce_contrast(image, severity, seeded())
    assert np.allclose(found.mean((0, 1)), image.mean((0, 1)))
    assert np.allclose(found.std((0, 1)), share * image.std((0, 1)))


@pytest.mark.parametrize(("severity", "quality"), zip(SEVERITIES, (25, 18, 15, 10, 7), strict=True))
def test_compression_is_pillows(severity, quality):
    pixels = seeded().randint(0, 256, size=(32, 40, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    assert np.array_equal(digital.compress(pixels / 255, severity, seeded()) * 255, np.asarray(Image.open(file)))


def test_pixelate_averages_blocks():
    pixels = seeded().randint(0, 256, size=(48, 48, 3)).astype(np.uint8)
    for severity, block in ((3, 0), (5, 4)):
        found = digital.pixelate(pixels / 255, severity, seeded()) * 255
        assert found.shape == pixels.shape
        if block:
            blocks = pixels.reshape(48 // block, block, 48 // block, block, 3).mean((1, 3))
            assert np.abs(found - blocks.repeat(block, 0).repeat(block, 1)).max() <= 1
    assert len(np.unique(digital.pixelate(make_point(50), 1, seeded())[25, :, 0])) <= 30, "int(0.6 x 50)"


@pytest.mark.parametrize("decay", [1.4, 1.7, 2, 3])
def test_a_plasmas_displacements_shrink_by_the_square_of_its_decay_from_scale_to_scale(decay):
    """Midpoint displacement: the centre of a square, less the mean of its corners, is uniform noise of that scale."""
    field = optics.make_plasma(256, decay=decay, random=seeded())
    assert (field.shape, field.min(), field.max()) == ((256, 256), 0, 1)
    deviations = []
    for step in (8, 4, 2):
        corners = field[::step, ::step]
        means = sum(np.roll(corners, shift, (0, 1)) for shift in ((0, 0), (-1, 0), (0, -1), (-1, -1))) / 4
        away = field[step // 2 :: step, step // 2 :: step] - means
        deviations.append(away.std())
        assert np.abs(away).max() / away.std() == pytest.approx(3**0.5, rel=0.05), "uniform"
    assert deviations[0] / deviations[1] == pytest.approx(decay**2, rel=0.06)
    assert deviations[1] / deviations[2] == pytest.approx(decay**2, rel=0.03)


def test_clouds_are_as_large_as_the_image_needs():
    for size in (32, 224, 257, 384):
        assert optics.make_clouds(size, size, decay=2, random=seeded()).shape == (size, size)
    small = optics.make_clouds(32, 40, decay=2, random=seeded())
    assert np.array_equal(small, optics.make_plasma(256, decay=2, random=seeded())[:32, :40])


@pytest.mark.parametrize(
    ("severity", "strength", "decay"), [(1, 1.5, 2), (2, 2, 2), (3, 2.5, 1.7), (4, 2.5, 1.5), (5, 3, 1.4)]
)
def test_fog_adds_clouds_and_keeps_the_brightest_level(severity, strength, decay):
    image = np.full((32, 32, 3), 0.6)
    clouds = optics.make_plasma(256, decay=decay, random=seeded())[:32, :32, None]
    found = weather.let_fog_rise(image, severity, seeded())
    assert np.allclose(found, 0.6 * (0.6 + strength * clouds) / (0.6 + strength))
    assert found.max() <= 0.6 + 1e-12


def test_frost_is_a_mixture_with_ice_that_is_blue_white_and_varied():
    image = make_colours()
    for severity, (kept, added) in enumerate(((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)), start=1):
        ice = weather.make_frost(8, 8, random=seeded())
        assert np.allclose(weather.freeze(image, severity, seeded()), kept * image + added * ice)
    ice = weather.make_frost(224, 224, random=seeded())
    assert 0.05 < ice.min() < 0.3 < ice.mean() < 0.8 < ice.max() <= 1
    assert (ice[..., 0] < ice[..., 2]).all()
    assert not np.array_equal(ice, weather.make_frost(224, 224, random=seeded(1)))


def test_snow_whitens_and_falls_from_both_sides():
    image = np.full((64, 64, 3), (0.2, 0.4, 0.1))
    grey = 0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.1
    ground = 0.7 * image + 0.3 * np.maximum(image, 1.5 * grey + 0.5)
    flakes = weather.let_it_snow(image, 2, seeded()) - ground
    assert (flakes > -1e-12).all()
    assert np.allclose(flakes, flakes[..., :1])
    assert np.allclose(flakes, flakes[::-1, ::-1]), "the flakes, and the same turned by half"
    assert 0.01 < flakes.mean() < 0.5


def test_water_is_added_in_its_colour_and_mud_covers():
    dark = np.full((64, 64, 3), 0.1)
    for severity in (1, 2, 3):
        water = weather.spatter(dark, severity, seeded(severity)) - dark
        wet = water[..., 0] > 0
        assert 0 < wet.mean() < 0.6
        assert water.max() == pytest.approx((0.6, 0.6, 0.5)[severity - 1] * 238 / 255)
        assert np.allclose(water[wet] / water[wet].max(1, keepdims=True), np.array([175, 238, 238]) / 238)
    for severity in (4, 5):
        found = weather.spatter(dark + 0.8, severity, seeded())
        changed = (found != 0.9).any(2)
        assert 0.02 < changed.mean() < 0.6
        cover = (0.9 - found[changed]) / (0.9 - np.array([63, 42, 20]) / 255)
        assert np.allclose(cover, cover[:, :1])
        assert cover.min() >= 0.8 - 1e-9
        assert cover.max() <= 1 + 1e-9


def test_edges_of_a_square_are_its_outline():
    levels = np.zeros((32, 32))
    levels[8:24, 8:24] = 200
    edges = drops.find_edges(levels, low=50, high=150)
    outline = np.abs(np.stack(np.nonzero(edges)) - 15.5).max(0)
    assert set(outline) <= {7.5, 8.5}
    assert 52 <= edges.sum() <= 72, "one pixel wide"
    assert not drops.find_edges(levels / 9, low=50, high=150).any(), "89, at corners 133, is over low alone"
    assert drops.find_edges(levels / 7, low=50, high=150).sum() == edges.sum(), "171 at corners, and what hangs there"


def test_equalising_spreads_levels_evenly():
    levels = np.repeat([10.0, 11.0, 200.0, 201.0], 16).reshape(8, 8)
    assert sorted(set(drops.equalize(levels).ravel())) == [0, 85, 170, 255]
    assert np.array_equal(drops.equalize(np.full((4, 4), 7.0)), np.full((4, 4), 7.0))


def test_drops_without_an_edge_have_a_shading():
    assert np.isfinite(drops.shade_drops(np.zeros((32, 32)))).all()


@pytest.mark.parametrize(("severity", "jitter", "swell"), [(1, 0.1, 0.02), (3, 0.02, 0.03), (5, 0.02, 0.06)])
def test_an_elastic_image_is_moved_by_no_more_than_points_and_field_allow(severity, jitter, swell):
    """Of an image whose levels are places, levels tell from where a pixel came."""
    size = 96
    rows, columns = np.mgrid[:size, :size] / (size - 1)
    found = digital.transform_elastically(np.stack([rows, columns, 0 * rows], 2), severity, seeded())
    middle = slice(size // 3, 2 * size // 3)
    down, right = (found[middle, middle, c] - (rows, columns)[c][middle, middle] for c in (0, 1))
    limit = 244 / 224 * jitter * 2.5 + swell
    assert 0.002 < np.abs(down).max() < limit
    assert 0.002 < np.abs(right).max() < limit
    flat = digital.transform_elastically(np.full((64, 64, 3), 0.3), severity, seeded())
    assert np.allclose(flat, 0.3)


def test_three_points_go_where_they_are_sent():
    """A dot at each of the three corners of the square is found where it was moved to."""
    size, reach = 90, 30
    shifts = np.array([[5.0, -3.0], [-4.0, 6.0], [2.0, 7.0]])
    for number, (x, y) in enumerate(((75, 75), (75, 15), (15, 15))):
        image = np.zeros((size, size, 3))
        image[y - 1 : y + 2, x - 1 : x + 2] = 1
        found = digital._move_points(image, shifts)[..., 0]
        row, column = (np.arange(size) @ found.sum(axis) / found.sum() for axis in (1, 0))
        assert (column, row) == pytest.approx((x + shifts[number, 0], y + shifts[number, 1]), abs=0.35)
    assert reach == size // 3
