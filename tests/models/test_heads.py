"""What outputs mean: heads of each task, their scale for blending, classes and things."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from orthoflow.errors import BadInput
from orthoflow.models.card import Card, format_card, parse_card
from orthoflow.models.contract import Model
from orthoflow.models.heads import (
    BLEND_FACTORS,
    blend_factors,
    channels_of,
    check_heads,
    class_count,
    thing_classes,
    vector_channels,
)
from orthoflow.models.load import load_model, save_model
from orthoflow.models.nets import UNet
from orthoflow.reduce.blend import LOGIT_LIMIT


def card(**facts):
    return Card("c", divisor=4, **facts)


PANOPTIC = card(outputs=6, task="panoptic")
FLOWS = card(outputs=3, task="flows")


def test_the_heads_of_a_task_need_not_be_written():
    assert PANOPTIC.heads == (("semantic", 3), ("center", 1), ("offsets", 2))
    assert FLOWS.heads == (("flows", 2), ("cellprob", 1))
    assert card(outputs=7, task="panoptic", ndim=3).heads[2] == ("offsets", 3)
    assert card(outputs=4, task="flows", ndim=3).heads[0] == ("flows", 3)
    assert card(outputs=5).heads == ()
    for one in (PANOPTIC, FLOWS):
        written = card(outputs=one.outputs, task=one.task, heads=one.heads)
        assert written == one
        assert written.digest_of("sha256:w") == one.digest_of("sha256:w")
        assert parse_card(format_card(one), where="card.yaml") == one


def test_the_task_is_part_of_the_digest():
    digests = {
        card(outputs=4, task=task, things=things).digest_of("sha256:w")
        for task, things in (("semantic", ()), ("panoptic", ()), ("panoptic", (1,)))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"outputs": 3, "task": "panoptic"}, "at least 4 channels together"),
        ({"outputs": 4, "task": "panoptic", "ndim": 3}, "at least 5 channels together"),
        ({"outputs": 2, "task": "flows"}, "heads are flows 2, cellprob 1, 3 channels together"),
        ({"outputs": 4, "task": "flows"}, "heads are flows 2, cellprob 1, 3 channels together"),
        (
            {"outputs": 3, "task": "flows", "heads": (("cellprob", 1), ("flows", 2))},
            "cellprob 1, flows 2 with outputs=3 are not those of task flows: flows 2, cellprob 1",
        ),
        (
            {"outputs": 4, "task": "panoptic", "heads": (("semantic", 2), ("offsets", 2))},
            "are not those of task panoptic: semantic 1, center 1, offsets 2, in this order",
        ),
        ({"outputs": 6, "task": "panoptic", "things": (3,)}, "numbers of classes, 1 to 2"),
        ({"outputs": 6, "task": "panoptic", "things": (0,)}, "numbers of classes, 1 to 2"),
        ({"outputs": 6, "task": "panoptic", "things": (2, 1)}, "must be ascending"),
        ({"outputs": 6, "task": "panoptic", "things": (1, 1)}, "must be ascending"),
        ({"outputs": 6, "task": "panoptic", "things": (True,)}, "must be ascending"),
        ({"outputs": 6, "task": "panoptic", "things": ("cell",)}, "must be ascending"),
        ({"outputs": 2, "things": (1,)}, "are for task panoptic, not semantic"),
        ({"outputs": 3, "task": "flows", "things": (1,)}, "are for task panoptic, not flows"),
        ({"outputs": 6, "task": "panoptic", "classes": ("a", "b")}, "names 2 classes"),
        ({"outputs": 3, "task": "flows", "classes": ("a",)}, "names 1 classes"),
    ],
)
def test_heads_and_classes_that_do_not_fit_are_refused(facts, message):
    with pytest.raises(BadInput) as caught:
        card(**facts)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_card_file_may_list_things():
    facts = {"name": "c", "outputs": 6, "divisor": 8, "task": "panoptic", "things": [1]}
    one = Card.from_dict(facts)
    assert one.things == (1,)
    assert one.to_dict()["things"] == [1]
    with pytest.raises(BadInput, match="things 1 must be a list"):
        Card.from_dict({**facts, "things": 1})


def test_channels_and_vectors():
    assert channels_of(PANOPTIC, "semantic") == slice(0, 3)
    assert channels_of(PANOPTIC, "center") == slice(3, 4)
    assert vector_channels(PANOPTIC) == channels_of(PANOPTIC, "offsets") == slice(4, 6)
    assert vector_channels(FLOWS) == slice(0, 2)
    assert channels_of(FLOWS, "cellprob") == slice(2, 3)
    assert vector_channels(card(outputs=2)) == slice(0, 0)
    with pytest.raises(BadInput, match="no head 'center'; its heads: flows, cellprob"):
        channels_of(FLOWS, "center")
    with pytest.raises(BadInput, match="its heads: none"):
        channels_of(card(outputs=2), "center")


def test_classes_and_things():
    assert (class_count(PANOPTIC), thing_classes(PANOPTIC)) == (3, (1, 2))
    assert thing_classes(PANOPTIC.replace(things=(2,))) == (2,)
    assert (class_count(card(outputs=4, task="panoptic")), class_count(FLOWS)) == (2, 2)
    assert thing_classes(FLOWS) == (1,)
    assert (class_count(card(outputs=1)), thing_classes(card(outputs=1))) == (2, ())
    assert class_count(card(outputs=5)) == 5


def test_what_is_blended_fits_into_the_fixed_point():
    assert blend_factors(PANOPTIC) == (1, 1, 1, 1, 1 / 16, 1 / 16)
    assert blend_factors(FLOWS) == (1, 1, 1)
    assert blend_factors(card(outputs=3, heads=(("semantic", 1), ("offsets", 2)))) == (1, 1, 1)
    # Objects of a thousand pixels, and no bit lost.
    assert LOGIT_LIMIT / BLEND_FACTORS["offsets"] == 1024
    assert all(math.frexp(factor)[0] == 0.5 for factor in BLEND_FACTORS.values())


def test_a_network_of_several_heads_is_built_saved_and_loaded(tmp_path):
    net = UNet(outputs=4, base=4, depth=2).eval()
    model = Model.from_torch(net, task="panoptic")
    assert model.card.heads == PANOPTIC.replace(outputs=4, heads=()).heads
    save_model(tmp_path / "net", model.module, model.card)
    tiles = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_model(tmp_path / "net")(tiles), model(tiles))
    with pytest.raises(BadInput, match="card outputs 4 cannot be those of task flows"):
        Model.from_torch(net, task="flows")


def test_unknown_tasks_are_refused():
    with pytest.raises(BadInput, match="use one of semantic, panoptic, flows"):
        card(outputs=2, task="dance")
    assert check_heads("semantic", (("any", 3),), outputs=3, ndim=2) == (("any", 3),)


def test_no_torch_is_needed():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from orthoflow.models.card import Card\n"
        "from orthoflow.models.heads import blend_factors\n"
        "print(len(blend_factors(Card('c', outputs=4, divisor=8, task='panoptic'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4"]
