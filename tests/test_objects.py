"""Objects drawn over images: labels beside their boxes, never over other objects, and a list where there is no room."""

import itertools

import numpy as np
import pytest
import torch

from involution.pictures.objects import colour, draw_objects, place_labels

SIZE = (40.0, 12.0)


def rectangle(place, size=SIZE):
    return place[0], place[1], place[0] + size[0], place[1] + size[1]


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


@pytest.mark.parametrize(
    ("box", "place"),
    [
        ((50, 50, 90, 80), (50, 38)),  # above
        ((50, 5, 90, 60), (50, 61)),  # no room above: below
        ((0, 0, 50, 99), (51, 0)),  # none above and below: at the right
        ((70, 0, 100, 99), (30, 0)),  # at the left
        ((0, 0, 100, 100), (0, 0)),  # large enough to be written in
    ],
)
def test_a_label_lies_beside_its_box_where_there_is_room(box, place):
    assert place_labels(torch.tensor([box], dtype=torch.float32), [SIZE], (100, 100)) == [place]


def test_a_label_without_room_is_left_out():
    box = torch.tensor([[0.0, 0, 60, 40]])
    assert place_labels(box, [SIZE], (60, 40)) == [None]
    assert place_labels(box, [(0.0, 0.0)], (200, 200)) == [None]


def test_labels_hide_no_object_and_no_other_label():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 260
    boxes = torch.cat([corner, corner + 12 + 30 * torch.rand(60, 2, generator=generator)], 1)
    places = place_labels(boxes, [SIZE] * 60, (320, 320))
    found = {i: rectangle(place) for i, place in enumerate(places) if place is not None}
    assert 0 < len(found) < 60
    for one, other in itertools.combinations(found.values(), 2):
        assert overlap(one, other) == 0
    for i, label in found.items():
        assert label[0] >= 0 and label[1] >= 0 and label[2] <= 320 and label[3] <= 320
        for j, box in enumerate(boxes.tolist()):
            assert overlap(label, box) <= (0.12 if i == j else 0.03) * area(box)


def grid(count):
    """Return boxes of 20 pixels side by side, as cells lie under a microscope."""
    corners = torch.cartesian_prod(torch.arange(count), torch.arange(count)).flip(1) * 20.0
    return torch.cat([corners, corners + 20], 1)


def test_dense_objects_stay_visible_and_their_classes_are_listed():
    boxes = grid(8)
    labels = [i % 2 for i in range(64)]
    image = torch.full((3, 160, 160), 77, dtype=torch.uint8)
    picture = np.asarray(draw_objects(image, boxes, labels, ["cell 0.99"] * 64, None, 0.5, ["red", "white"]))
    # Nothing but outlines lies over the objects, and the list is beside them.
    for x1, y1, x2, y2 in boxes.int().tolist():
        assert (picture[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3] == 77).all()
    assert picture.shape[0] >= 160 and picture.shape[1] > 160
    beside = picture[:, 160:].reshape(-1, 3)
    for label in (0, 1):
        assert (beside == colour(label)).all(1).any()


def test_few_objects_are_labelled_on_a_picture_of_the_same_size():
    image = torch.zeros(3, 100, 200, dtype=torch.uint8)
    picture = draw_objects(image, torch.tensor([[20.0, 40, 60, 80]]), [3], ["cat 0.9"], None, 0.5, ["cat"] * 4)
    assert picture.size == (200, 100)
    written = np.asarray(picture)[20:39, 20:60].reshape(-1, 3)
    assert (written == colour(3)).all(1).sum() > 100 and (written == 0).all(1).any()
    plain = draw_objects(image, torch.tensor([[20.0, 40, 60, 80]]), [3], [""], None, 0.5, ["cat"] * 4)
    assert plain.size == (200, 100)
    assert not np.asarray(plain)[20:39].any()


def test_masks_tint_what_they_cover():
    image = torch.full((3, 50, 50), 100, dtype=torch.uint8)
    mask = torch.zeros(1, 50, 50, dtype=torch.bool)
    mask[:, 10:20, 10:20] = True
    picture = np.asarray(draw_objects(image, torch.tensor([[8.0, 8, 30, 30]]), [0], [""], mask, opacity=0.5))
    expected = (100 + np.array(colour(0))) / 2
    assert np.abs(picture[15, 15] - expected).max() <= 1
    assert (picture[25, 25] == 100).all()


def test_instances_have_colours_of_their_own():
    image = torch.zeros(3, 50, 50, dtype=torch.uint8)
    boxes = torch.tensor([[2.0, 2, 20, 20], [25.0, 25, 45, 45]])
    picture = np.asarray(draw_objects(image, boxes, [0, 0], ["", ""], None, 0.5, ["cat"], range(2)))
    assert tuple(picture[2, 10]) == colour(0) and tuple(picture[25, 35]) == colour(1)
    crowd = draw_objects(
        torch.zeros(3, 160, 160, dtype=torch.uint8), grid(8), [0] * 64, ["cat"] * 64, None, 0.5, ["cat"], range(64)
    )
    assert crowd.size == (160, 160), "colours of instances say nothing of classes, which are not listed then"
