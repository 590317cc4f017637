"""The published counts of segmenters and detectors, from our modules."""

import pytest

from benchmarks.dense_costs import COCO_SIZE, PUBLISHED, SEGMENTED_SIZE, build, count


@pytest.mark.slow
@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.task} {row.size} {row.kind}")
def test_the_tables_of_the_original(row):
    size = SEGMENTED_SIZE[row.size] if row.task == "UPerNet" else COCO_SIZE
    parameters, flops = count(row.task, build(row.task, row.size, row.kind), size)
    assert abs(parameters / 1e6 - row.millions) < 0.5
    # Some rows are rounded, others cut off.
    assert row.giga - 0.5 < flops / 1e9 < row.giga + 1


@pytest.mark.slow
def test_horfpn_saves_what_its_structure_says():
    plain, seven, filtered = (
        count("UPerNet", build("UPerNet", "small", "7x7", pyramid=kind), (512, 2048))
        for kind in ("fpn", "horfpn_7x7", "horfpn_gf")
    )
    # 3x3 from 2048 to 512 channels, against 2048 -> 1024, 7x7 on 768, 256 -> 512 and 512 -> 512, each with its biases.
    convolution = 9 * 2048 * 512
    gnconv = 2048 * 1024 + 1024 + 768 * 49 + 768 + 256 * 512 + 512 + 512 * 512 + 512
    assert plain[0] - seven[0] == convolution - gnconv
    assert plain[1] - seven[1] == (convolution - gnconv) * 128 * 512
    # 3x3 on half of 768, a filter of 32 x 17 complex numbers on the other half, two norms of 768.
    spatial = 9 * 384 + 384 * 32 * 17 * 2 + 4 * 768
    assert filtered[0] - seven[0] == spatial - (768 * 49 + 768)


@pytest.mark.slow
def test_mask_rcnn_counts_as_torchvisions_has_one_more_class_of_boxes_and_masks():
    parameters, _ = count("Mask R-CNN", build("Mask R-CNN", "small", "7x7"), COCO_SIZE)
    assert parameters == pytest.approx(69.035e6 + 4 * 1025 + 257, abs=500)
