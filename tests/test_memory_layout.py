"""Which maps and kernel fields count as channels_last, and how those that are allocated lie."""

import pytest
import torch

from involution.memory_layout import (
    empty_field,
    empty_map,
    is_channels_last,
    is_field_channels_last,
    pixels_first,
    taps_first,
)

SIZES = [(2, 4, 7), (2, 4, 5, 6), (2, 4, 3, 5, 6)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_in_the_order_of_their_pixels_are_channels_last(size):
    ordinary, last = torch.empty(size), torch.empty(size).movedim(1, -1).contiguous().movedim(-1, 1)
    assert is_channels_last(last) and not is_channels_last(ordinary)
    # A part of a larger map has gaps between its rows, and all channels of a pixel still lie together.
    assert is_channels_last(last[..., 1:-1]) and is_channels_last(last[:, 1:]) and not is_channels_last(last[:, ::2])
    assert not is_channels_last(last[:1, :, ..., :1].expand(size)), "one pixel in the place of many"
    if len(size) > 3:
        assert not is_channels_last(last.transpose(-1, -2))
    assert not is_channels_last(torch.empty(3, 4)) and not is_channels_last(torch.empty(4))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_are_allocated_as_they_are_asked_for(size):
    like = torch.empty(1, dtype=torch.float64)
    for channels_last in (False, True):
        made = empty_map(like, size, channels_last)
        assert made.shape == size and made.dtype == torch.float64 and not made._is_view()
        assert is_channels_last(made) == channels_last
        assert made.untyped_storage().nbytes() == 8 * made.numel()


@pytest.mark.parametrize("size", [(2, 3, 5, 7), (2, 3, 5, 4, 6, 7), (2, 3, 3, 2, 3, 4, 5, 6)], ids=str)
def test_fields_are_allocated_with_the_weights_of_a_pixel_together(size):
    dims = (len(size) - 2) // 2
    ordinary, last = (empty_field(torch.empty(1), size, channels_last) for channels_last in (False, True))
    assert is_field_channels_last(last) and not is_field_channels_last(ordinary)
    assert last.shape == size and not last._is_view() and last.untyped_storage().nbytes() == 4 * last.numel()
    assert pixels_first(last).is_contiguous() and pixels_first(last).shape == (
        size[0],
        *size[2 + dims :],
        *size[1 : 2 + dims],
    )
    numbered = last.copy_(torch.arange(last.numel()).view(size))
    assert torch.equal(taps_first(pixels_first(numbered)), numbered)
    assert is_field_channels_last(last[..., 1:]), "a part of the pixels"
    assert not is_field_channels_last(last[:, :, :1].expand(size)), "one weight in the place of many"
    assert not is_field_channels_last(last[:, ::2]) or size[1] < 2
    assert not is_field_channels_last(
        pixels_first(last)
        .repeat_interleave(2, -1)[..., ::2]
        .permute(0, *range(1 + dims, 2 + 2 * dims), *range(1, 1 + dims))
    ), "gaps between the weights"
