"""Cells of panoptic networks: by looking at every centre, and the same however a plane is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthoflow.geometry.cells import CellRule, Window, cells_needed, no_center
from orthoflow.kernels.centers import Heads, harden, label_cells
from orthoflow.kernels.medians import recursive_median

COARSE = CellRule(center_threshold=0.1, center_distance=3, reach=12, step=4, zoom=1)


def rules(step=None):
    step = st.sampled_from([1, 2, 4]) if step is None else st.just(step)
    return step.flatmap(
        lambda pixels: st.builds(
            CellRule,
            center_threshold=st.just(0.1),
            center_distance=st.integers(1, 5),
            reach=st.integers(0, 24),
            step=st.just(pixels),
            zoom=st.sampled_from([n for n in (1, 2, 4) if pixels % n == 0]),
        )
    )


def network(plane, step, *, planes=2, classes=2, seed=0, plateaus=False):
    """Outputs of a network on whole planes: classes, heat, offsets."""
    rng = np.random.default_rng(seed)
    cells = [-(-n // step) for n in plane]
    heat = rng.random((planes, *cells), np.float32) * rng.random((planes, 1, 1), np.float32)
    offsets = rng.normal(0, 6, (2, planes, *cells)).astype(np.float32)
    if plateaus:  # equal heat, votes half way between cells: ties everywhere
        heat = np.round(heat * 3) / 3
        offsets = np.round(offsets / 2) * 2
    kinds = rng.integers(0, classes + 1, (planes, *plane)).astype(np.uint8)
    kinds[rng.random(kinds.shape) < 0.3] = 0
    return (
        torch.from_numpy(kinds),
        torch.from_numpy(heat.astype(np.float32)),
        torch.from_numpy(offsets),
    )


def whole(plane):
    return Window(plane, (0, plane[0]), (0, plane[1]))


def cut(outputs, window, rule, *, wider=0):
    """What the wanted pixels of a window need, and no more (or `wider` cells more)."""
    kinds, heat, offsets = outputs
    spans = [
        (max(a - wider, 0), min(b + wider, n))
        for (a, b), n in zip(cells_needed(window, rule), heat.shape[1:], strict=True)
    ]
    rows, columns = (slice(*span) for span in spans)
    heads = Heads(heat[:, rows, columns], offsets[:, :, rows, columns], (rows.start, columns.start))
    return kinds[:, slice(*window.rows), slice(*window.columns)], heads


def labelled(outputs, window, rule, *, things=(1,), wider=0):
    return label_cells(*cut(outputs, window, rule, wider=wider), window, rule, things=things)


# ------------------------------------------------------------------------------------ the oracle


def finer(values, zoom):
    """Bilinear, the ends of both grids coincide; (rows, columns)."""
    if zoom == 1:
        return values
    out = values
    for axis in (0, 1):
        n = out.shape[axis]
        whole = max(zoom * n - 1, 1)
        rows = []
        for place in range(zoom * n):
            low, rest = divmod(place * (n - 1), whole)
            a, b = out.take(low, axis), out.take(min(low + 1, n - 1), axis)
            rows.append(a + (b - a) * np.float32(rest / whole))
        out = np.stack(rows, axis)
    return out


def centers_of(heat, threshold, size):
    """Rows and columns of the centres of a plane: one cell after the other."""
    found = []
    for y, x in np.ndindex(*heat.shape):
        y0, x0 = y - size // 2, x - size // 2
        window = heat[max(y0, 0) : y0 + size, max(x0, 0) : x0 + size]
        if heat[y, x] > threshold and heat[y, x] == window.max():
            found.append((y, x))
    return found


def slowly(outputs, plane, rule, things):
    """Labels of whole planes: every pixel looks at every centre, in integers."""
    kinds, heat, offsets = (array.numpy() for array in outputs)
    pixels = rule.step // rule.zoom
    labels = np.zeros(kinds.shape, np.int64)
    for k in range(len(kinds)):
        rows, columns = (-(-n // pixels) for n in plane)
        warm = finer(heat[k], rule.zoom)[:rows, :columns]
        dy, dx = (finer(offsets[i, k], rule.zoom) for i in (0, 1))
        centers = centers_of(warm, rule.center_threshold, rule.center_distance)
        for y, x in zip(*kinds[k].nonzero(), strict=True):
            klass = int(kinds[k, y, x])
            labels[k, y, x] = no_center(plane, klass)
            cy, cx = y // pixels, x // pixels
            vy = 256 * pixels * int(cy) + round(float(dy[cy, cx]) * 256)
            vx = 256 * pixels * int(cx) + round(float(dx[cy, cx]) * 256)
            best = None
            for a, b in centers if klass in things else ():
                if max(abs(a - cy), abs(b - cx)) * pixels > rule.reach:
                    continue
                far = (256 * pixels * a - vy) ** 2 + (256 * pixels * b - vx) ** 2
                if best is None or far < best:
                    best = far
                    labels[k, y, x] = 1 + a * pixels * plane[1] + b * pixels
    return labels


planes_and_rules = st.tuples(st.tuples(st.integers(1, 30), st.integers(1, 30)), rules())


@given(planes_and_rules, st.booleans(), st.integers(0, 99))
def test_every_pixel_finds_what_looking_at_every_centre_finds(case, plateaus, seed):
    plane, rule = case
    outputs = network(plane, rule.step, seed=seed, plateaus=plateaus)
    expected = slowly(outputs, plane, rule, things=(1,))
    found = labelled(outputs, whole(plane), rule)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), expected)


@given(planes_and_rules, st.booleans(), st.integers(0, 99), st.data())
def test_the_cut_does_not_show(case, plateaus, seed, data):
    plane, rule = case
    outputs = network(plane, rule.step, seed=seed, plateaus=plateaus)
    everywhere = labelled(outputs, whole(plane), rule)
    for _ in range(3):
        spans = []
        for size in plane:
            a = data.draw(st.integers(0, size - 1))
            spans.append((a, data.draw(st.integers(a + 1, size))))
        window = Window(plane, *spans)
        found = labelled(outputs, window, rule, wider=data.draw(st.integers(0, 2)))
        inside = everywhere[:, slice(*spans[0]), slice(*spans[1])]
        assert torch.equal(found, inside)


@pytest.mark.parametrize("center_distance", [1, 2, 3, 4, 7])
def test_even_windows_have_one_cell_more_before_than_behind(center_distance):
    rule = CellRule(0.1, center_distance, reach=40, step=1, zoom=1)
    heat = torch.zeros(1, 1, 20)
    heat[0, 0, 10] = 1
    for place in range(20):
        heat[0, 0, place] = 0.5 if place != 10 else 1.0
        kinds = torch.ones((1, 1, 20), dtype=torch.uint8)
        outputs = (kinds, heat, torch.zeros(2, 1, 1, 20))
        expected = slowly(outputs, (1, 20), rule, (1,))
        np.testing.assert_array_equal(labelled(outputs, whole((1, 20)), rule), expected)
        if place != 10:
            heat[0, 0, place] = 0


def test_a_centre_must_exceed_the_threshold_and_plateaus_give_several():
    kinds = torch.ones((1, 8, 8), dtype=torch.uint8)
    heat = torch.zeros(1, 2, 2)
    offsets = torch.zeros(2, 1, 2, 2)
    heat[:] = 0.1
    rule = CellRule(float(np.float32(0.1)), 3, reach=12, step=4, zoom=1)
    assert (labelled((kinds, heat, offsets), whole((8, 8)), rule) == no_center((8, 8), 1)).all()
    heat[:] = 0.2
    found = labelled((kinds, heat, offsets), whole((8, 8)), rule)
    assert found.unique().tolist() == [1, 5, 33, 37]


def test_equally_near_centres_give_the_first_one():
    kinds = torch.ones((1, 1, 9), dtype=torch.uint8)
    heat = torch.zeros(1, 1, 9)
    heat[0, 0, [2, 6]] = 1
    rule = CellRule(0.1, 3, reach=8, step=1, zoom=1)
    found = labelled((kinds, heat, torch.zeros(2, 1, 1, 9)), whole((1, 9)), rule)
    assert found[0, 0].tolist() == [3] * 5 + [7] * 4


def test_stuff_and_things_out_of_reach_have_labels_of_their_own():
    kinds = torch.tensor([[[1, 1, 2, 0, 3, 1]]], dtype=torch.uint8)
    heat = torch.zeros(1, 1, 6)
    heat[0, 0, 0] = 1
    rule = CellRule(0.1, 3, reach=2, step=1, zoom=1)
    found = labelled((kinds, heat, torch.zeros(2, 1, 1, 6)), whole((1, 6)), rule, things=(1, 2))
    assert found.tolist() == [[[1, 1, 1, 0, no_center((1, 6), 3), no_center((1, 6), 1)]]]
    assert no_center((1, 6), 1) > 6


def test_a_box_without_enough_around_it_is_refused():
    outputs = network((32, 32), 4)
    window = Window((32, 32), (8, 16), (8, 16))
    kinds, heads = cut(outputs, window, COARSE)
    short = Heads(heads.heat[:, 1:], heads.offsets[:, :, 1:], (heads.start[0] + 1, heads.start[1]))
    with pytest.raises(ValueError, match=r"heads cover cells .* are needed; read a wider halo"):
        label_cells(kinds, short, window, COARSE, things=(1,))
    with pytest.raises(ValueError, match="do not belong to wanted pixels"):
        label_cells(kinds[:, 1:], heads, window, COARSE, things=(1,))


@given(st.integers(1, 60), st.integers(0, 40), rules())
def test_the_halo_is_no_larger_than_promised(size, first, rule):
    window = Window((200, 200), (first, first + size), (0, 200))
    (low, high), _ = cells_needed(window, rule)
    pixels = rule.step // rule.zoom
    most = rule.reach + (rule.center_distance // 2 + 1) * pixels + 2 * rule.step
    assert low * rule.step >= max(0, first - most)
    assert (high - 1) * rule.step < first + size + most


# ---------------------------------------------------------------------------------- as empanada


def as_the_peer(outputs, plane, threshold, size, step, zoom):
    """The published formulas on one plane after the other; labels by order of the centres."""
    kinds, heat, offsets = outputs
    result = []
    for k in range(len(kinds)):
        maps = [heat[k][None, None], offsets[:, k][None]]
        if zoom > 1:
            maps = [
                torch.nn.functional.interpolate(
                    part, scale_factor=zoom, mode="bilinear", align_corners=True
                )
                for part in maps
            ]
        maps = torch.cat(maps, 1)
        pixels = step // zoom
        warm = torch.where(maps[:, 0] > threshold, maps[:, 0], -1)
        pool = torch.nn.functional.max_pool2d(warm, size, 1, size // 2)
        pool = pool[:, : warm.shape[1], : warm.shape[2]]
        centers = ((warm == pool) & (warm > 0))[0].nonzero()
        if not len(centers):
            result.append(torch.zeros(plane, dtype=torch.int64))
            continue
        grid = torch.stack(
            torch.meshgrid(*(torch.arange(n) for n in warm.shape[1:]), indexing="ij")
        )
        place = (pixels * grid.float() + maps[0, 1:]).flatten(1).T
        far = torch.norm((pixels * centers.float())[:, None] - place[None], dim=-1)
        first = torch.from_numpy(far.numpy().argmin(0))  # of equals, as documented
        cell = first.reshape(warm.shape[1:]) + 1
        cell = cell.repeat_interleave(pixels, 0).repeat_interleave(pixels, 1)
        result.append(cell[: plane[0], : plane[1]] * (kinds[k] == 1))
    return torch.stack(result)


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 6),
    st.sampled_from([(4, 1), (4, 4), (1, 1), (8, 1), (8, 4)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_without_a_reach_as_the_published_formulas(cells, size, scale, plateaus, seed):
    step, zoom = scale
    plane = tuple(step * n for n in cells)
    outputs = network(plane, step, classes=1, seed=seed, plateaus=plateaus)
    rule = CellRule(0.4, size, reach=None, step=step, zoom=zoom)
    found = labelled(outputs, whole(plane), rule)
    expected = as_the_peer(outputs, plane, 0.4, size, step, zoom)
    for ours, theirs in zip(found, expected, strict=True):
        # Same pixels, same cells, and our labels ascend with the order of the centres.
        pairs = torch.stack([ours.flatten(), theirs.flatten()]).unique(dim=1)
        assert (pairs[:, 1:] > pairs[:, :-1]).all()


# ----------------------------------------------------------------------------------------- parts


@given(st.integers(1, 4), st.floats(0.05, 0.95), st.integers(0, 99))
def test_classes_of_probabilities_and_logits(channels, threshold, seed):
    values = np.random.default_rng(seed).normal(size=(channels, 2, 5, 6)).astype(np.float32)
    values = np.round(values * 4) / 4
    found = harden(torch.from_numpy(values), threshold=threshold)
    assert found.dtype == torch.uint8
    if channels > 1:
        expected = values.argmax(0)
    else:
        expected = values[0] >= math.log(threshold / (1 - threshold))
        shares = torch.from_numpy(values).sigmoid()
        again = harden(shares, threshold=threshold, probabilities=True)
        assert torch.equal(again, (shares[0] >= threshold).to(torch.uint8))
    np.testing.assert_array_equal(found, expected)


@given(st.integers(1, 12), st.sampled_from([1, 3, 5, 7, 11]), st.integers(0, 99))
def test_the_recursive_median_by_the_book(planes, size, seed):
    values = np.random.default_rng(seed).random((2, planes, 3, 4), np.float32)
    expected, half = values.copy(), size // 2
    for k in range(half, planes - half):
        window = [expected[:, k - half : k], values[:, k : k + half + 1]]
        expected[:, k] = np.median(np.concatenate(window, 1), axis=1)
    found = recursive_median(torch.from_numpy(values), size)
    np.testing.assert_array_equal(found, expected)


def test_a_median_has_a_middle():
    with pytest.raises(ValueError, match="use an odd number"):
        recursive_median(torch.zeros(1, 5, 2, 2), 4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"center_threshold": -0.1}, "is negative"),
        ({"center_distance": 0}, "must be at least 1"),
        ({"zoom": 3}, "does not divide"),
        ({"reach": -1}, "reach -1 is negative"),
    ],
)
def test_rules_that_cannot_be(wrong, message):
    fields = {"center_threshold": 0.1, "center_distance": 3, "reach": 8, "step": 4, "zoom": 1}
    with pytest.raises(ValueError, match=message):
        CellRule(**{**fields, **wrong})


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [(4, 1), (4, 4), (1, 1)])
@pytest.mark.parametrize("plateaus", [False, True])
def test_a_gpu_finds_the_same(scale, plateaus):
    step, zoom = scale
    plane = (203, 150)
    outputs = network(plane, step, planes=4, plateaus=plateaus)
    rule = CellRule(0.1, 3, reach=24, step=step, zoom=zoom)
    there = tuple(array.cuda() for array in outputs)
    assert torch.equal(
        labelled(there, whole(plane), rule).cpu(), labelled(outputs, whole(plane), rule)
    )
