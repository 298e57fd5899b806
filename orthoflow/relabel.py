"""Another rule for the instances of an output: its labels are made again, without a network.

The rule in force is the run's own until `orthoflow/labels.json` names another one.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from orthoflow.errors import BadInput
from orthoflow.geometry.facts import VolumeFacts
from orthoflow.labeljob import AnyRule
from orthoflow.options import RULE_OPTIONS, Options, names_given
from orthoflow.plan.labels import end_rule_of, rule_of, solid_rule_of
from orthoflow.reduce.ends import EndRule
from orthoflow.reduce.engine import Rule
from orthoflow.reduce.solidengine import SolidRule
from orthoflow.stores.ledger import Outline
from orthoflow.stores.markers import Kind, list_marker_names, remove_marker
from orthoflow.stores.ome import has_record, read_record, remove_record, write_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orthoflow.driver import Drive

_RECORD = "labels"
# Options that each kind of rule knows.
_KNOWN = {
    "ends": frozenset({"min_size", "min_extent", "fill_holes"}),
    "classes": frozenset({"instances", "min_size", "min_extent", "fill_holes", "connectivity"})
    | {"watershed_depth", "watershed_radius"},
    "planes": RULE_OPTIONS - {"connectivity", "watershed_depth", "watershed_radius"},
}
_MADE_OF = {"ends": "a flow field, or middles", "classes": "classes", "planes": "planes"}
# What a rule calls otherwise than the options.
_RENAMED = {"kind": "instances", "depth": "watershed_depth", "radius": "watershed_radius"}


def rule_in_force(drive: Drive) -> AnyRule:
    """The rule by which an output's labels are made.

    Raises
    ------
    BadInput
        If the records, which come from the output, name none.
    """
    try:
        facts = drive.record["labels"]
        kind, rule = facts["kind"], facts["rule"]
        if has_record(drive.output, _RECORD, drive.options.storage_option):
            rule = read_record(drive.output, _RECORD, drive.options.storage_option)["rule"]
        made: AnyRule = {"ends": EndRule, "classes": SolidRule, "planes": Rule}[kind](**rule)
        return made
    except (KeyError, TypeError) as error:
        raise BadInput(f"the record of output {drive.output} names no rule: {error}") from error


def change_rule(drive: Drive, given: Mapping[str, Any]) -> bool:
    """Put the rule of some options in force, if it is another one; whether it is.

    What was made by the rule before is no longer said to be done. Whoever is stopped here leaves
    labels of one rule or none.

    Raises
    ------
    BadInput
        If the output has no instances, or the options cannot be meant.
    """
    wanted = {name: value for name, value in names_given(given).items() if name in RULE_OPTIONS}
    if not wanted:
        return False
    if "labels" not in drive.record:
        raise BadInput(
            f"{', '.join(sorted(wanted))}: output {drive.output} holds no instances; they are made "
            "by a panoptic or a flow network"
        )
    before = rule_in_force(drive)
    after = _changed(drive, before, wanted)
    if after == before:
        return False
    storage = drive.options.storage_option
    remove_record(drive.output, "report", storage)
    kinds: tuple[Kind, ...] = ("levels", "labels")
    for kind in kinds:
        for name in list_marker_names(drive.output, drive.fingerprint, storage, kind=kind):
            remove_marker(drive.output, drive.fingerprint, name, storage)
    write_record(drive.output, _RECORD, {"rule": asdict(after)}, storage)
    return True


def _changed(drive: Drive, before: AnyRule, wanted: dict[str, Any]) -> AnyRule:
    outline = Outline.of(drive.record)
    spec = outline.output
    facts = VolumeFacts(
        str(drive.output), outline.region.shape, "uint8", voxel_size=spec.voxel_size, unit=spec.unit
    )
    kind = drive.record["labels"]["kind"]
    foreign = sorted(set(wanted) - _KNOWN[kind])
    if foreign:
        raise BadInput(
            f"{', '.join(foreign)}: the objects of this output are made of {_MADE_OF[kind]}, and "
            "depend on "
            f"{', '.join(sorted(_KNOWN[kind]))} alone"
        )
    # Sizes are text among options, where they may have a unit.
    own = {_RENAMED.get(name, name): str(value) for name, value in asdict(before).items()}
    by_class = "label_divisor" in wanted or own.pop("by_class", "") == str(True)
    own.pop("by_class", None)
    options = Options.from_mapping(own | wanted)
    if kind == "ends":
        return end_rule_of(options, facts)
    if kind == "classes":
        if options.instances not in ("cc", "watershed"):
            raise BadInput(
                f"instances {options.instances}: the objects of this output are made of classes; "
                "use cc or watershed"
            )
        return solid_rule_of(options, facts)
    labels = drive.record["labels"]
    if "label_divisor" in wanted and labels["sources"] is not None:
        raise BadInput(
            "label_divisor says which classes labels of planes have, and these were looked at; "
            "leave it out, or make another output"
        )
    rule = rule_of(options, facts, views=len(labels["orientations"]))
    return replace(rule, by_class=by_class and rule.instances != "planes")
