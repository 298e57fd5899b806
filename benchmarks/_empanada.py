"""What empanada-napari 1.2.4 makes of outputs that are given; runs in its own environment.

Settings are the defaults of the plugin's 3-D widget, constants that it hides included.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from _simulated import VIEWS

MEDIAN = 3  # planes
MIN_SIZE, MIN_EXTENT = 500, 5  # voxels
LABEL_DIVISOR = 10_000
MERGE_IOU, MERGE_IOA, CLUSTER_IOU = 0.25, 0.25, 0.75

Labels = npt.NDArray[np.integer[Any]]


def planes(sem: Any, heat: Any, offsets: Any) -> Labels:
    """The peer's own engine, with a network that knows the answers."""
    import torch
    from empanada.inference.engines import PanopticDeepLabRenderEngine3d

    class Oracle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(1))  # the engine asks for its device
            self.plane = -1

        def forward(self, _image: Any, _steps: int, *, interpolate_ins: bool) -> dict[str, Any]:
            assert not interpolate_ins
            self.plane += 1
            k = self.plane
            heads = {"ctr_hmp": heat[k, None, None], "offsets": offsets[k, None]}
            return {"sem_logits": sem[k, None, None], **heads}

    engine = PanopticDeepLabRenderEngine3d(
        Oracle(),
        thing_list=[1],
        label_divisor=LABEL_DIVISOR,
        nms_threshold=0.1,
        nms_kernel=3,
        confidence_thr=0.5,
        median_kernel_size=MEDIAN,
        padding_factor=16,
        coarse_boundaries=True,
    )
    size = sem.shape[1:]
    image = torch.zeros(1, 1, *size)
    found = [engine(image, size) for _ in sem]
    found = [labels for labels in found if labels is not None] + engine.end()
    return np.stack([labels.squeeze().numpy() for labels in found])


def objects(views: dict[str, Labels], *, votes: int, one_view: bool) -> Labels:
    """What the plugin does behind the engine, in one process instead of two."""
    from empanada.inference import filters, patterns
    from empanada.inference.rle import pan_seg_to_rle_seg

    shape = next(iter(views.values())).shape
    trackers = patterns.create_axis_trackers(VIEWS, [1], LABEL_DIVISOR, shape)
    for view, axis in VIEWS.items():
        matchers = patterns.create_matchers([1], LABEL_DIVISOR, MERGE_IOU, MERGE_IOA)
        planes = np.ascontiguousarray(np.moveaxis(views[view], axis, 0))
        stack = [
            patterns.apply_matchers(
                pan_seg_to_rle_seg(plane, [1], LABEL_DIVISOR, [1], force_connected=True), matchers
            )
            for plane in planes
        ]
        for index, plane in patterns.backward_matching(stack, matchers, shape[axis]):
            patterns.update_trackers(plane, index, trackers[view])
        patterns.finish_tracking(trackers[view])
        for tracker in trackers[view]:
            filters.remove_small_objects(tracker, min_size=MIN_SIZE)
            filters.remove_pancakes(tracker, min_span=MIN_EXTENT)
    found = patterns.create_instance_consensus(
        patterns.get_axis_trackers_by_class(trackers, 1), votes, CLUSTER_IOU, one_view
    )
    filters.remove_small_objects(found, min_size=MIN_SIZE)
    filters.remove_pancakes(found, min_span=MIN_EXTENT)
    volume = np.zeros(shape, np.int32)
    patterns.fill_volume(volume, found.instances)
    return volume
