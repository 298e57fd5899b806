"""Independent jobs that share a run: any number, any order, killed, started twice."""

from __future__ import annotations

import random
import signal

import pytest

from tests.faults import traps
from tests.faults.fleet import wait_until
from tests.faults.scene import TILES, assert_same, both_kinds


@both_kinds
def test_jobs_in_any_order_give_the_bytes_of_one_run(scene, expected, clean):
    order = random.Random(1).sample(range(5), 5)
    for nth, part in enumerate(order):
        driver = scene.drive(num_parts=5, part_id=part)
        assert driver.wait() == 0, driver.said
        assert driver.report["part"] == [5, part]
        last = nth == 4
        assert driver.report["complete"] is last
        assert ("orthoflow/report.json" in scene.files()) is last
        assert any("/1/c/" in name for name in scene.objects()) is last
    assert_same(scene.objects(), expected)
    counts = ("blocks", "voxels", "patches", "tiles", "network_pixels", "bytes_written")
    report = clean({"tile": scene.tile, **scene.kind}, scene.shape)[1]
    if scene.kind.get("part") == 1:
        assert {n: scene.record()[n] for n in counts} == {n: report[n] for n in counts}
    assert scene.record()["complete"]


@pytest.mark.slow
def test_jobs_that_start_at_once_and_are_killed(scene, expected):
    """They race for the creation of the output; two die; started again they do what is left."""
    traps.slow_down(scene.traps, 0.003)
    for value in (202, 222):
        scene.order(value, "kill")
    jobs = {part: scene.drive(num_parts=4, part_id=part) for part in range(4)}
    codes = {part: job.wait() for part, job in jobs.items()}
    assert sorted(codes.values()) == [-signal.SIGKILL, -signal.SIGKILL, 0, 0]
    assert "orthoflow/report.json" not in scene.files()
    again = [scene.drive(num_parts=4, part_id=part) for part, code in codes.items() if code]
    assert [job.wait() for job in again] == [0, 0], [job.said for job in again]
    assert_same(scene.objects(), expected)
    assert scene.record()["complete"]
    assert scene.tiles <= (scene.blocks + 2) * TILES
    assert scene.partials() == []


def test_a_job_that_is_at_work_is_not_started_twice(scene, expected):
    scene.order(201, "wait", "always")
    first = scene.drive(num_parts=2, part_id=0)
    wait_until(lambda: scene.tiles)
    second = scene.drive(num_parts=2, part_id=0)
    assert second.wait() == 2
    assert str(first.pid) in second.said
    other = scene.drive(num_parts=2, part_id=1)
    assert other.wait() == 0, other.said
    traps.let_go(scene.traps)
    assert first.wait() == 0, first.said
    assert_same(scene.objects(), expected)


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"])
def test_a_job_learns_its_number_from_its_batch_system(scene, name):
    scene.environment = {name: "2"}
    driver = scene.drive(num_parts=3)
    assert driver.wait() == 0, driver.said
    assert driver.report["part"] == [3, 2]
    assert driver.report["blocks_left"] == scene.blocks - len(scene.done())


def test_what_the_last_job_left_open_is_finished_by_hand(scene, expected):
    """It is killed when all blocks are done and the pyramid is not."""
    for part in (0, 1):
        driver = scene.drive(num_parts=2, part_id=part, patches={"orthoflow.resume:complete": None})
        code = driver.wait()
    assert code != 0
    assert len(scene.done()) == scene.blocks
    assert "orthoflow/report.json" not in scene.files()
    tiles = scene.tiles
    driver = scene.command(["finalize", scene.output, "--json"])
    assert driver.wait() == 0, driver.said
    assert driver.report["complete"]
    assert scene.tiles == tiles
    assert_same(scene.objects(), expected)


def test_holes_stay_holes_only_if_one_says_so(scene, expected):
    scene.order(222, "raise", "always")
    assert scene.drive(retries=0).wait() == 3
    driver = scene.command(["finalize", scene.output])
    assert driver.wait() == 2
    assert f"1 of {scene.blocks} blocks are not done" in driver.said
    driver = scene.command(["finalize", scene.output, "--despite-failed"])
    assert driver.wait() in {0, 3}, driver.said
    assert any("/1/c/" in name for name in scene.objects())
    traps.withdraw(scene.traps)
    assert scene.drive(retry_failed=True).wait() == 0
    assert_same(scene.objects(), expected)
