"""The queued resource: created, waited for, deleted; and calls of gcloud that fail, hang or are interrupted."""

import re
import signal
import time

import pytest

from tests.run_tpu.world import PROGRAM


@pytest.mark.parametrize("kind, software", [
    ("v5litepod-16", "v2-alpha-tpuv5-lite"), ("v5p-64", "v2-alpha-tpuv5"), ("v6e-64", "v2-alpha-tpuv6e"),
    ("v4-32", "tpu-ubuntu2204-base")])
def test_create_waits_until_the_slice_is_there(world, kind, software):
    world.plan(created=["ACCEPTED", "PROVISIONING", "PROVISIONING", "ACTIVE"])
    text = world.run("create", f"--accelerator-type={kind}")
    assert re.findall(r"is ([A-Z]+)", text) == ["ACCEPTED", "PROVISIONING", "ACTIVE"]
    assert world.calls("create") == [[
        "compute", "tpus", "queued-resources", "create", "slice", "--node-id=slice", "--zone=us-west4-a",
        f"--accelerator-type={kind}", f"--runtime-version={software}", "--quiet"]]


def test_create_and_delete_may_be_repeated(world):
    world.run("create", SPOT="0")
    assert "--spot" not in world.calls("create")[0]
    assert "exists already" in world.run("create")
    assert "slice is MISSING" in world.run("delete")
    assert "there is no slice in us-west4-a" in world.run("delete")
    assert len(world.calls("create")) == len(world.calls("delete")) == 1
    assert world.calls("delete")[0][4:] == ["slice", "--zone=us-west4-a", "--force", "--async", "--quiet"]
    world.run("create", SPOT="1")
    assert "--spot" in world.calls("create")[1]


def test_create_goes_on_waiting_for_an_earlier_request(world):
    (world.folder / "state").write_text("PROVISIONING")
    (world.folder / "upcoming").write_text("PROVISIONING\nPROVISIONING\nACTIVE")
    assert "exists already" in world.run("create")
    assert not world.calls("create") and len(world.calls("describe")) == 3


def test_delete_goes_on_waiting_for_an_earlier_one(world):
    (world.folder / "state").write_text("DELETING")
    (world.folder / "upcoming").write_text("DELETING\nDELETING\nMISSING")
    world.run("delete")
    assert not world.calls("delete") and len(world.calls("describe")) == 3


def test_a_deletion_that_never_shows_comes_to_nothing(world):
    world.run("create")
    world.plan(deleted=["ACTIVE"])
    assert "the deletion had no effect: slice is ACTIVE; slice may still cost money" in world.run("delete", code=1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_who_leaves_a_request_is_told_that_it_may_cost_money(world, number):
    world.plan(created=["WAITING_FOR_RESOURCES"])
    process = world.start("create")
    world.until(lambda: len(world.calls("describe")) > 2)
    process.send_signal(number)
    assert world.finish(process, 130).count("slice may still cost money; run: ./run_tpu.sh delete") == 1


def test_a_request_that_fails_says_why(world):
    world.plan(created=["PROVISIONING", "FAILED"], reason="no capacity in this zone")
    assert "slice is FAILED: no capacity in this zone; run: ./run_tpu.sh delete" in world.run("create", code=4)
    assert "slice is FAILED" in world.run("create", code=4)
    assert "slice is FAILED: no capacity" in world.run("status")
    assert len(world.calls("create")) == 1


@pytest.mark.parametrize("state, part", [
    ("MISSING", "there is no slice in us-west4-a; run: ./run_tpu.sh create"),
    ("PROVISIONING", "not ACTIVE; run: ./run_tpu.sh create, which waits"),
    ("SUSPENDED", "run: ./run_tpu.sh delete, then create")])
def test_commands_say_what_to_do_without_a_slice(world, state, part):
    if state != "MISSING":
        (world.folder / "state").write_text(state)
    for command in ("setup", "launch", "logs"):
        assert part in world.run(command, *(PROGRAM if command == "launch" else []), code=4)
    assert "nothing runs there" in world.run("stop")
    assert f"slice is {state}" in world.run("status")
    assert not world.calls("ssh") and not world.calls("scp")


@pytest.mark.parametrize("verb, command", [
    ("describe", "create"), ("create", "create"), ("scp", "setup"), ("ssh", "setup"), ("ssh", "status"),
    ("ssh", "launch"), ("ssh", "stop"), ("ssh", "logs"), ("delete", "delete")])
def test_what_gcloud_refuses_is_one_line(world, verb, command):
    if command != "create":
        world.run("create")
    line = f"ERROR: (gcloud.{verb}) RESOURCE_EXHAUSTED: quota"
    world.plan(fail={verb: [""] * len(world.calls(verb)) + [line]})  # from the next call on
    text = world.run(command, *(PROGRAM if command == "launch" else []), code=1)
    assert f" {verb} failed: {line}" in text and text.count("error: ") == 1


@pytest.mark.parametrize("verb, command", [
    ("describe", "status"), ("create", "create"), ("scp", "setup"), ("ssh", "status")])
def test_a_call_that_hangs_is_ended_with_its_children(world, verb, command):
    if command != "create":
        world.run("create")
    world.plan(hang=[verb])
    assert "did not answer in 1 s" in world.run(command, "--call-limit=1", "--ssh-limit=1", "--setup-limit=1", code=124)
    assert not world.alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_call_at_once(world, number):
    world.plan(hang=["create"])
    process = world.start("create")
    world.until(lambda: world.calls("create"))
    began = time.monotonic()
    process.send_signal(number)
    world.finish(process, 130)
    assert time.monotonic() - began < 30, "the call ran to its limit"
    world.until(lambda: not world.alive())
