"""What holds for every corruption: shape, seeds, severity, fixed pixels, the same on any number of ranks."""

import hashlib

import numpy as np
import pytest
import torch

from hornet.data.config import EvaluationConfig
from hornet.data.corruptions.corruption import CORRUPTIONS, Corruption
from hornet.data.corruptions.names import COUNTED, EXTRA, SEVERITIES, list_departures
from hornet.data.loader import open_evaluation_stream
from tests.unit.shards.making import make_set, rank_of

PLAIN = (
    "brightness",
    "contrast",
    "defocus_blur",
    "gaussian_blur",
    "jpeg_compression",
    "pixelate",
    "saturate",
    "zoom_blur",
)
"""Those without any chance."""


def make_image(size=48, seed=0):
    """Smooth colours, an edge and some grain, none at the ends of the scale."""
    random = np.random.RandomState(seed)
    rows, columns = np.mgrid[:size, :size] / size
    planes = np.stack([90 + 80 * rows, 60 + 120 * columns, 150 - 60 * rows * columns], axis=2)
    planes[size // 4 : size // 2, size // 3 :] += 50
    return (planes + random.uniform(-20, 20, planes.shape)).clip(10, 245).astype(np.uint8)


def corrupt(name, severity, *, key="set-000.tar/a", image=None):
    return Corruption(name=name, severity=severity)(make_image() if image is None else image, key=key)


COVERED = ("frost", "fog")
"""Something is laid over a darkened image, which takes away its contrast and may leave its levels."""


def measure_distance(name, severity):
    image = make_image().astype(float)
    found = [corrupt(name, severity, key=f"set/{number}") for number in range(6)]
    if name in COVERED:
        return float(np.mean([100 - 100 * np.corrcoef(one.ravel(), image.ravel())[0, 1] for one in found]))
    return float(np.mean([np.sqrt(((one - image) ** 2).mean()) for one in found]))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_stays_one_and_another_key_another_one(name):
    image = make_image()
    kept = image.copy()
    found = corrupt(name, 2, image=image)
    assert (found.shape, found.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, kept), "what is given is not changed"
    assert np.array_equal(found, corrupt(name, 2))
    assert np.array_equal(found, corrupt(name, 2, key="set-000.tar/b")) == (name in PLAIN)
    assert corrupt(name, 5, image=make_image(32)).shape == (32, 32, 3), "the least that networks take"


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_no_generator_of_the_process_matters_or_is_touched(name):
    np.random.seed(1)
    torch.manual_seed(1)
    before = corrupt(name, 3)
    state = np.random.get_state()[1].copy()
    np.random.seed(2)
    assert np.array_equal(corrupt(name, 3), before)
    np.random.seed(1)
    corrupt(name, 3)
    assert np.array_equal(np.random.get_state()[1], state)


LESS_SIMPLE = {
    "frost": [(1, 2), (2, 3), (1, 4), (2, 5), (4, 5)],  # a little more is kept of 4 than 3 is darkened
    "snow": [(1, 2), (1, 3), (3, 4), (4, 5)],  # from 2 to 3 other flakes, on ground as white
    "glass_blur": [(1, 3), (1, 5)],  # reach, rounds and sigma do not rise together
    "pixelate": [(1, 2), (2, 3), (3, 4), (1, 5)],  # at 0.6 blocks of one and two pixels take turns
    "saturate": [(1, 2), (3, 4), (4, 5)],  # less colour, then more
    "elastic_transform": [(1, 2), (3, 4), (4, 5)],  # the whole image by 1 and 2, details by 3 to 5
}
PAIRS = [(1, 2), (2, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_takes_an_image_further_from_what_it_was(name):
    distances = {severity: measure_distance(name, severity) for severity in SEVERITIES}
    for low, high in LESS_SIMPLE.get(name, PAIRS):
        assert 0.5 < distances[low] < distances[high], (low, high, distances)


DIGESTS = {
    "gaussian_noise": "c844177129ea05e2",
    "shot_noise": "5291b45625f8e813",
    "impulse_noise": "17b74f9b2bad1a0c",
    "defocus_blur": "09e2dc74823f80a9",
    "glass_blur": "89cd2a47f939f4f4",
    "motion_blur": "545cb11ca065aa9d",
    "zoom_blur": "5f464cca6030b28e",
    "snow": "d501c94164cc0a2f",
    "frost": "d6c72c361f0fc68f",
    "fog": "1d6e1e7bd688447a",
    "brightness": "a0345d87211e909e",
    "contrast": "0f0809413e9a874d",
    "elastic_transform": "4ba3706b2e416d1a",
    "pixelate": "b50bdb10c5e9ecf6",
    "speckle_noise": "40da67c87d6468db",
    "gaussian_blur": "c45127f09728987a",
    "spatter": "b4560518aa3db321",
    "saturate": "c1e7778cff0f1bfd",
}


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "jpeg_compression"])
def test_pixels_are_those_of_every_earlier_release(name):
    """Pillow's JPEG is its library's, and compared with it elsewhere."""
    pixels = np.stack([corrupt(name, severity) for severity in SEVERITIES])
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == DIGESTS[name]


def test_what_is_none_is_refused():
    for name, severity in (("rain", 1), ("fog", 0), ("fog", 6)):
        with pytest.raises(ValueError, match=f"{name}/{severity}: is no corruption with a severity of 1 to 5"):
            Corruption(name=name, severity=severity)


def test_departures_are_those_of_what_is_made():
    assert list_departures(("fog",), image_size=224) == (
        "images are not stored as JPEG of quality 85 in between, as ImageNet-C's files are",
    )
    found = list_departures((*COUNTED, *EXTRA), image_size=48)
    assert [line.partition(":")[0] for line in found[1:3]] == ["frost", "spatter"]
    assert "224" in found[3]


@pytest.mark.parametrize("name", ["fog", "glass_blur", "shot_noise"])
def test_any_number_of_ranks_sees_the_same_pixels(tmp_path, name):
    config = EvaluationConfig(shards=make_set(tmp_path), split="train", image_size=32, batch_size=5)
    worlds = []
    for num_ranks in (1, 2, 3):
        seen = {}
        for rank in range(num_ranks):
            world = rank_of(rank, num_ranks)
            stream = open_evaluation_stream(config, world=world, corrupt=Corruption(name=name, severity=3))
            for batch in stream.iterate():
                for key, image, is_real in zip(batch.keys, batch.images_bchw, batch.is_real, strict=True):
                    if is_real:
                        assert key not in seen
                        seen[key] = image.clone()
            stream.close()
        worlds.append(seen)
    clean = {
        key: image
        for batch in open_evaluation_stream(config, world=world).iterate()
        for key, image in zip(batch.keys, batch.images_bchw, strict=True)
    }
    assert len(worlds[0]) == 48
    for seen in worlds[1:]:
        assert seen.keys() == worlds[0].keys()
        assert all(torch.equal(image, worlds[0][key]) for key, image in seen.items())
    assert not any(torch.equal(image, clean[key]) for key, image in worlds[2].items() if key in clean)
