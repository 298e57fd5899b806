"""Following flows: voxel by voxel, the same however the volume is cut, and cells that are found."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from orthoflow.geometry.box import Box
from orthoflow.geometry.following import CAPTURE, FlowRule, flow_halo, smoothing_halo
from orthoflow.geometry.orientations import ORIENTATIONS
from orthoflow.kernels import flows
from orthoflow.kernels.fields import (
    Field,
    combine_flows,
    plane_flows,
    smooth_flows,
)
from orthoflow.kernels.flows import (
    count_ends,
    flow_labels,
    follow,
    label_ends,
)
from orthoflow.reduce.sinks import sinks_of
from tests.kernels import cells

ALL = (0, 1, 2)
RULE = FlowRule(scale=0.2, threshold=0.0, steps=200, reach=20, axes=ALL)
shapes = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14))
moving = st.sampled_from([ALL, (1, 2)])


def rough(shape, seed, *, strength=5.0, smooth=1.0):
    """A field of noise: sinks, cycles, faces, everything."""
    rng = np.random.default_rng(seed)
    flow = rng.normal(size=(3, *shape)).astype(np.float32)
    flow = ndimage.gaussian_filter(flow, (0, smooth, smooth, smooth)) if smooth else flow
    flow *= strength / max(flow.std(), 1e-6)
    logit = rng.normal(1, 1, shape).astype(np.float32)
    return Field(Box.whole(shape), torch.from_numpy(flow), torch.from_numpy(logit))


def field_of(labels, flow, **_):
    logit = np.where(labels > 0, 4, -4).astype(np.float32)
    return Field(Box.whole(labels.shape), torch.from_numpy(flow * 5), torch.from_numpy(logit))


def crop(field, box):
    here = box.within(field.box)
    return Field(box, field.flow[(slice(None), *here)], field.logit[here])


def grown(box, halo, shape, axes):
    lo = [max(a - halo, 0) if i in axes else a for i, a in enumerate(box.start)]
    hi = [min(b + halo, shape[i]) if i in axes else b for i, b in enumerate(box.stop)]
    return Box(tuple(lo), tuple(hi))


def any_box(data, shape):
    spans = []
    for size in shape:
        a = data.draw(st.integers(0, size - 1))
        spans.append((a, data.draw(st.integers(a + 1, size))))
    return Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))


# ---------------------------------------------------------------------------------------- oracles


def interpolated(flow, axis, at, axes):
    """One component at a place, in float32, along the last axis first."""
    cell = [int(c) // flows.UNIT for c in at]
    share = [np.float32((int(c) % flows.UNIT) / flows.UNIT) for c in at]
    values = []
    for by in itertools.product(*((0, 1) if i in axes else (0,) for i in range(3))):
        # Behind the last voxel: its share is zero.
        there = [min(c + b, n - 1) for c, b, n in zip(cell, by, flow.shape[1:], strict=True)]
        values.append(flow[(axis, *there)])
    for i in reversed(axes):
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [low + np.float32((high - low) * share[i]) for low, high in pairs]
    return values[0]


def walked(field, rule):
    """Start, end and fate of every foreground voxel, one after the other."""
    shape = field.box.shape
    inside = field.logit.numpy() > rule.threshold
    flow = np.clip(field.flow.numpy() * np.float32(rule.scale), -flows.MOST, flows.MOST)
    flow = np.where(inside, np.round(flow * np.float32(flows.STEEP)), 0).astype(np.float32)
    result = []
    for start in np.argwhere(inside):
        at = start * flows.UNIT
        gain, before, stopped = dict.fromkeys(rule.axes, 1.0), dict.fromkeys(rule.axes, 0.0), False
        for _ in range(rule.steps):
            there = at.copy()
            now = {axis: interpolated(flow, axis, at, rule.axes) for axis in rule.axes}
            for axis in rule.axes:
                turned = now[axis] * before[axis] < 0
                gain[axis] = gain[axis] / 2 if turned else min(gain[axis] * 2, 1.0)
                step = now[axis] * np.float32(gain[axis] * flows.UNIT / flows.STEEP)
                there[axis] += int(np.round(step))
                there[axis] = min(max(there[axis], 0), (shape[axis] - 1) * flows.UNIT)
            before = now
            if (abs(there - start * flows.UNIT) > rule.reach * flows.UNIT).any():
                stopped = True
                break
            if (there == at).all():
                break
            at = there
        end = (at + flows.UNIT // 2) // flows.UNIT
        result.append((*(int(np.ravel_multi_index(v, shape)) for v in (start, end)), stopped))
    return result


def slow_sinks(count, axes):
    """Which sink each voxel belongs to, by looking around every voxel of a dense histogram."""
    shape = count.shape
    peaks = []
    for at in np.argwhere(count > 10):
        near = [
            range(max(a - 2, 0), min(a + 3, n)) if i in axes else (a,)
            for i, (a, n) in enumerate(zip(at, shape, strict=True))
        ]
        others = [(-count[v], v) for v in itertools.product(*near)]
        if min(others)[1] == tuple(at):
            peaks.append(tuple(int(a) for a in at))
    owner = np.zeros(shape, np.int64)
    peaks.sort(key=lambda v: (count[v], [-a for a in v]))
    around = np.ones([3 if i in axes else 1 for i in range(3)], bool)
    for peak in peaks:
        grown_ = np.zeros(shape, bool)
        grown_[peak] = True
        for _ in range(5):
            grown_ = ndimage.binary_dilation(grown_, around) & (count > 2)
        first = 0 if 0 in axes else peak[0] * shape[1] * shape[2]
        owner[grown_] = 1 + np.ravel_multi_index(peak, shape) - first
    return owner


# ----------------------------------------------------------------------------------------- follow


@settings(max_examples=25)
@given(
    shapes,
    moving,
    st.integers(0, 99),
    st.sampled_from([0.0, 1.0]),
    st.integers(0, 6),
    st.sampled_from([1, 7, 60]),
)
def test_voxels_go_where_one_after_the_other_goes(shape, axes, seed, smooth, reach, steps):
    shape = tuple(min(n, 7) for n in shape)
    field = rough(shape, seed, smooth=smooth)
    rule = FlowRule(0.2, 0.0, steps, reach, axes)
    ends = follow(field, Box.whole(shape), shape, rule)
    found = list(zip(ends.start.tolist(), ends.end.tolist(), ends.stopped.tolist(), strict=True))
    assert found == walked(field, rule)


@given(shapes, moving, st.integers(0, 99), st.integers(0, 5), st.data())
def test_the_box_does_not_show_in_the_way(shape, axes, seed, reach, data):
    field = rough(shape, seed)
    rule = FlowRule(0.2, 0.0, 100, reach, axes)
    everywhere = follow(field, Box.whole(shape), shape, rule)
    ends = dict(zip(everywhere.start.tolist(), everywhere.end.tolist(), strict=True))
    stopped = set(everywhere.start[everywhere.stopped].tolist())
    box = any_box(data, shape)
    part = follow(crop(field, grown(box, reach, shape, axes)), box, shape, rule)
    for start, end in zip(part.start.tolist(), part.end.tolist(), strict=True):
        assert ends[start] == end
    assert set(part.start[part.stopped].tolist()) == stopped & set(part.start.tolist())


@given(shapes, moving, st.integers(0, 99), st.integers(0, 4), st.data())
def test_labels_of_a_box_are_those_of_the_volume(shape, axes, seed, reach, data):
    shape = (shape[0], 2 * shape[1], 2 * shape[2])
    field = rough(shape, seed, strength=8)
    rule = FlowRule(0.2, 0.0, 60, reach, axes)
    whole, _ = flow_labels(field, Box.whole(shape), shape, rule)
    assert whole.dtype == torch.int64
    box = any_box(data, shape)
    halo = flow_halo(rule, once=True)
    part, _ = flow_labels(crop(field, grown(box, halo, shape, axes)), box, shape, rule)
    assert torch.equal(part, whole[box.slices])


def test_cutting_tests_are_not_about_empty_volumes():
    shape = (8, 40, 40)
    for axes in (ALL, (1, 2)):
        labels, _ = flow_labels(
            rough(shape, 3, strength=8), Box.whole(shape), shape, FlowRule(0.2, 0.0, 60, 4, axes)
        )
        assert len(labels.unique()) > 5


@settings(max_examples=25)
@given(shapes, st.integers(0, 9), st.data())
def test_ends_of_boxes_add_up_and_label_in_two_passes(shape, seed, data):
    field = rough(shape, seed, strength=8)
    rule = FlowRule(0.2, 0.0, 60, 3, ALL)
    once, found = flow_labels(field, Box.whole(shape), shape, rule)
    cuts = [sorted({0, n, data.draw(st.integers(0, n))}) for n in shape]
    spans = itertools.product(*(itertools.pairwise(cut) for cut in cuts))
    boxes = [Box(*zip(*span, strict=True)) for span in spans]
    ends = [follow(crop(field, grown(box, 3, shape, ALL)), box, shape, rule) for box in boxes]
    index, number = (np.concatenate(part) for part in zip(*map(count_ends, ends), strict=True))
    index, where = np.unique(index, return_inverse=True)
    sinks = sinks_of(index, np.bincount(where, number).astype(np.int64), shape, ALL)
    labels, total = torch.zeros(shape, dtype=torch.int64), np.zeros(2, int)
    for box, part in zip(boxes, ends, strict=True):
        labels[box.slices] = label_ends(part, sinks, box, shape)
        total += len(part.start), int(part.stopped.sum())
    assert torch.equal(labels, once)
    assert tuple(total) == (len(found.start), int(found.stopped.sum()))


def test_a_field_without_enough_around_it_is_refused():
    field = rough((9, 9, 9), 0)
    box, rule = Box((4, 4, 4), (5, 5, 5)), FlowRule(0.2, 0.0, 10, 3, ALL)
    with pytest.raises(ValueError, match=r"axis 2, 1:8 is needed; read a wider halo"):
        follow(crop(field, Box((1, 1, 2), (8, 8, 8))), box, (9, 9, 9), rule)


def test_chunks_and_rounds_do_not_show(monkeypatch):
    field, whole = rough((5, 9, 9), 1), Box.whole((5, 9, 9))
    once = follow(field, whole, whole.shape, RULE)
    monkeypatch.setattr(flows, "_CHUNK", {"cpu": 7})
    monkeypatch.setattr(flows, "_ROUNDS", (1, 2, 90))
    again = follow(field, whole, whole.shape, RULE)
    assert torch.equal(again.end, once.end)
    assert torch.equal(again.stopped, once.stopped)


# ------------------------------------------------------------------------------------------ sinks


@given(
    st.tuples(st.integers(1, 8), st.integers(1, 14), st.integers(1, 14)),
    moving,
    st.sampled_from([0.05, 0.3, 1.0]),
    st.sampled_from([4, 14, 40]),
    st.integers(0, 99),
)
def test_sinks_by_looking_around_every_voxel(shape, axes, density, most, seed):
    rng = np.random.default_rng(seed)
    count = rng.integers(0, most, shape) * (rng.random(shape) < density)
    index = count.ravel().nonzero()[0]
    sinks = sinks_of(index, count.ravel()[index], shape, axes)
    assert sinks.index.dtype == sinks.label.dtype == np.int64
    assert (np.diff(sinks.index) > 0).all()
    found = np.zeros(count.size, np.int64)
    found[sinks.index] = sinks.label
    np.testing.assert_array_equal(found.reshape(shape), slow_sinks(count, axes))


@pytest.mark.parametrize("seed", range(6))
def test_sinks_of_a_box_need_ends_within_ten_voxels(seed):
    shape, span = (1, 1, 400), (150, 220)
    rng = np.random.default_rng(seed)
    count = (rng.integers(0, 40, shape) * (rng.random(shape) < 0.9)).ravel()
    index = count.nonzero()[0]
    whole = sinks_of(index, count[index], shape, ALL)

    def differences(halo):
        total = 0
        for first in range(*span):
            near = index[(index >= first - halo) & (index < first + 1 + halo)]
            part = sinks_of(near, count[near], shape, ALL)
            here = [table.label[table.index == first].tolist() for table in (whole, part)]
            total += here[0] != here[1]
        return total

    assert differences(2 * CAPTURE) == 0
    if seed == 0:  # and fewer would not do
        assert differences(CAPTURE) > 0


def test_of_equal_sinks_the_first_has_what_both_reach():
    count = np.zeros((1, 1, 9), np.int64)
    count[0, 0] = [0, 12, 3, 3, 3, 3, 3, 12, 0]
    index = count.ravel().nonzero()[0]
    sinks = sinks_of(index, count.ravel()[index], count.shape, ALL)
    assert sinks.label.tolist() == [2, 2, 2, 2, 2, 2, 8]
    count[0, 0, 7] = 13
    sinks = sinks_of(index, count.ravel()[index], count.shape, ALL)
    assert sinks.label.tolist() == [2, 8, 8, 8, 8, 8, 8]


# -------------------------------------------------------------------------------------- the field


@given(shapes, st.integers(0, 9), st.sampled_from(["mean", "sum"]))
def test_orientations_are_added_axis_by_axis(shape, seed, rule):
    rng = np.random.default_rng(seed)
    views = {
        name: torch.from_numpy(rng.normal(size=(3, *shape)).astype(np.float32))
        for name in ("yz", "xy", "xz")
    }
    weights = {"xy": 1.0, "xz": 2.0, "yz": 0.5}
    field = combine_flows(views, weights, Box.whole(shape), rule=rule)
    for axis in range(3):
        total, whole = 0, 0
        for name, view in views.items():
            if axis in ORIENTATIONS[name].plane:
                weight = weights[name] if rule == "mean" else 1
                total = total + view[ORIENTATIONS[name].plane.index(axis)].double() * weight
                whole += weight
        expected = total / whole if rule == "mean" else total
        torch.testing.assert_close(field.flow[axis].double(), expected, atol=1e-6, rtol=1e-5)
    share = weights if rule == "mean" else dict.fromkeys(weights, 1)
    expected = sum(view[2].double() * share[name] for name, view in views.items())
    expected = expected / sum(share.values()) if rule == "mean" else expected
    torch.testing.assert_close(field.logit.double(), expected, atol=1e-6, rtol=1e-5)


def test_one_orientation_is_not_enough_for_three_axes():
    views = {"xy": torch.zeros(3, 2, 2, 2)}
    with pytest.raises(ValueError, match="gives z; three-dimensional flows need two"):
        combine_flows(views, {"xy": 1.0}, Box.whole((2, 2, 2)), rule="mean")


@given(shapes, st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 1.7])] * 3), st.data())
def test_smoothing_is_scipys_and_does_not_see_the_box(shape, sigma, data):
    field = rough(shape, 5, smooth=0)
    whole = smooth_flows(field, sigma, Box.whole(shape), shape)
    expected = ndimage.gaussian_filter(field.flow.double().numpy(), (0, *sigma), mode="nearest")
    np.testing.assert_allclose(whole.flow, expected, atol=2e-5)
    box = any_box(data, shape)
    lo = [max(a - smoothing_halo(s), 0) for a, s in zip(box.start, sigma, strict=True)]
    hi = [min(b + smoothing_halo(s), n) for b, s, n in zip(box.stop, sigma, shape, strict=True)]
    part = smooth_flows(crop(field, Box(tuple(lo), tuple(hi))), sigma, box, shape)
    assert torch.equal(part.flow, whole.flow[(slice(None), *box.slices)])
    assert torch.equal(part.logit, field.logit[box.slices])


# ------------------------------------------------------------------------------------------ cells


@pytest.mark.slow
@pytest.mark.parametrize("flow", [cells.pointing, cells.diffused])
def test_touching_cells_are_found(flow):
    truth = cells.touching_cells((64, 128, 128), 200, radius=6.5)
    touching = sum(
        ((a != b) & (a > 0) & (b > 0)).sum()
        for a, b in ((truth[1:], truth[:-1]), (truth[:, 1:], truth[:, :-1]))
    )
    assert touching > 1000
    shape = truth.shape
    labels, ends = flow_labels(field_of(truth, flow(truth)), Box.whole(shape), shape, RULE)
    assert cells.found_at(truth, labels.numpy()) >= 199
    assert not ends.stopped.any()
    assert int((labels > 0).sum()) > 0.999 * len(ends.start)


def test_cells_of_planes_have_the_planes_own_labels():
    plane = cells.touching_cells((80, 80), 20, radius=8)
    truth = np.stack([plane, plane[::-1], np.zeros_like(plane)])
    none = np.zeros((2, *plane.shape))
    flow = np.stack([cells.diffused(one) if one.any() else none for one in truth], 1)
    view = np.concatenate([5 * flow, np.where(truth > 0, 4, -4)[None]]).astype(np.float32)
    box = Box.whole(truth.shape)
    rule = FlowRule(0.2, 0.0, 200, 16, (1, 2))
    labels, _ = flow_labels(plane_flows(torch.from_numpy(view), box), box, truth.shape, rule)
    for found, expected in zip(labels.numpy(), truth, strict=True):
        assert cells.found_at(expected, found) == expected.max()
        assert found.max() <= plane.size
    # Each label is the place of a voxel of its own cell.
    for number in np.unique(labels[0])[1:]:
        assert labels[0].flatten()[number - 1] == number


def test_cells_larger_than_the_reach_are_reported():
    truth = cells.touching_cells((40, 40, 40), 1, radius=16)
    field = field_of(truth, cells.pointing(truth))
    small = FlowRule(0.2, 0.0, 200, 8, ALL)
    _, ends = flow_labels(field, Box.whole(truth.shape), truth.shape, small)
    assert ends.stopped.sum() > 0.3 * len(ends.start)
    _, ends = flow_labels(field, Box.whole(truth.shape), truth.shape, RULE)
    assert not ends.stopped.any()


def test_nothing_to_follow():
    field = Field(Box.whole((3, 4, 5)), torch.ones(3, 3, 4, 5), torch.full((3, 4, 5), -1.0))
    labels, ends = flow_labels(field, field.box, (3, 4, 5), RULE)
    assert not labels.any()
    assert not len(ends.start)


@pytest.mark.gpu
@pytest.mark.parametrize("axes", [ALL, (1, 2)])
def test_a_gpu_finds_the_same(axes):
    shape = (20, 60, 60)
    field, rule = rough(shape, 4, strength=8), FlowRule(0.2, 0.0, 200, 12, axes)
    there = Field(field.box, field.flow.cuda(), field.logit.cuda())
    ours, theirs = (flow_labels(one, one.box, shape, rule) for one in (field, there))
    assert torch.equal(ours[0], theirs[0].cpu())
    assert ours[1] == theirs[1]
