"""`launch --supervise`: preemption, exit code 75, failures of the program and of gcloud, other terminals."""

import os
import signal
import subprocess

import pytest

from tests.run_tpu.world import MAIN, PROGRAM, git

SUPERVISE = ["launch", "--supervise", *PROGRAM]


def test_supervision_ends_with_the_program(world):
    world.plan(created=["WAITING_FOR_RESOURCES", "ACTIVE"])
    text = world.run(*SUPERVISE)
    assert "without --mount the workdir is lost" in text
    assert "ended with exit code 0" in text and "slice still costs money" in text
    assert len(world.calls("create")) == 1 and not world.calls("delete")
    assert "without --mount" not in world.run(*SUPERVISE[:2], "--mount=bucket", "--delete-when-done", *PROGRAM)
    assert len(world.calls("create")) == len(world.calls("delete")) == 1


def test_a_preempted_slice_is_made_again_with_the_same_commit(world, repository):
    world.program("run", "0")
    process = world.start("launch", "--supervise", "--spot", "--mount=bucket", *PROGRAM)
    world.launched()
    try:  # the branch moves on meanwhile
        (repository / "main.py").write_text(MAIN.replace("VERSION", "second"))
        git(repository, "commit", "--quiet", "--all", "--message=second")
        (world.folder / "preempt").touch()
        text = world.finish(process)
    finally:
        git(repository, "reset", "--quiet", "--hard", "HEAD~1")
    assert "slice is SUSPENDED; creating it again" in text
    assert len(world.calls("create")) == 2 and world.calls("create")[0] == world.calls("create")[1]
    assert len(world.calls("delete")) == 1 and "gcsfuse" in world.text(0, "system")
    assert f"first launch 1 {PROGRAM[1:]}" in world.text(0, "run_tpu/log")


def test_a_node_that_is_gone_before_its_request_is_made_again(world):
    world.plan(gone=[2])
    world.program("run", "0")
    text = world.run(*SUPERVISE)
    assert "looking again" in text and "the hosts of slice are preempted; creating it again" in text
    assert len(world.calls("create")) == 2 and len(world.calls("delete")) == 1


def test_a_slice_that_was_suspended_before_is_made_again(world):
    (world.folder / "state").write_text("SUSPENDED")
    world.run(*SUPERVISE)
    assert len(world.calls("create")) == len(world.calls("delete")) == 1


def test_exit_code_75_is_launched_again_on_the_same_slice(world):
    world.program("75", "75", "0")
    text = world.run(*SUPERVISE)
    assert text.count("launching it again") == 2
    assert len(world.calls("create")) == len(world.calls("scp")) == 1
    assert [line for line in world.text(1, "run_tpu/log").splitlines() if "bye" in line] == ["bye 75"] * 2 + ["bye 0"]


def test_a_launch_that_reaches_some_hosts_only_is_done_again(world):
    world.plan(alone=[2, 3])
    world.program("75", "run/0", "run/0")
    process = world.start(*SUPERVISE)
    world.until(lambda: (world.folder / "launches_1").exists() and (world.folder / "launches_1").read_text() == "2")
    assert (world.folder / "launches_0").read_text() == "2"  # the first host's was left alone
    world.run("stop")
    text = world.finish(process, 75)
    assert text.count("trying again") == 2 and text.count("launching it again") == 1


def test_a_program_that_fails_for_want_of_hosts_that_were_not_reached_is_launched_again(world):
    world.plan(alone=[2])
    world.program("75", "134/0", "0")
    assert "ended with exit code 0" in world.run(*SUPERVISE)
    assert "launch 2" in world.text(0, "run_tpu/log") and "launch 1" in world.text(1, "run_tpu/log")


def test_a_failure_of_the_program_ends_the_supervision(world):
    world.program("run/4")  # host 0 waits for its peer
    text = world.run(*SUPERVISE, GRACE="1", code=3)
    assert "failed on host-w-1 with exit code 4" in text and "bye 4" in text and "slice still costs money" in text
    assert world.slept() == [1], "between the two looks"
    assert len(world.calls("create")) == 1 and world.states() == [["stopped", "75"], ["exited", "4"]]


def test_the_first_host_to_fail_is_the_one_shown(world):
    world.program("4/3")  # 4 comes later, and is listed first
    text = world.run(*SUPERVISE, POLL="1", code=3)
    assert "failed on host-w-1 with exit code 3" in text and "bye 3" in text and "bye 4" not in text


def test_hosts_that_fail_while_the_slice_is_taken_away_do_not_count(world):
    world.plan(created=["ACTIVE"] * 4 + ["SUSPENDED"])  # create, setup, launch, a survey; then the next finds it out
    world.program("3", "0")
    text = world.run(*SUPERVISE, POLL="1")  # by then both have failed
    assert "looking again" in text and "slice is SUSPENDED; creating it again" in text


def test_supervision_ends_when_the_program_is_stopped_by_hand(world):
    world.program("run")
    process = world.start(*SUPERVISE)
    world.launched()
    world.run("stop")
    text = world.finish(process, 75)
    assert "stopped by hand; slice still costs money; run: ./run_tpu.sh delete" in text


def test_supervision_does_not_undo_a_deletion(world):
    world.program("run")
    process = world.start(*SUPERVISE)
    world.launched()
    world.until(lambda: len(world.calls("ssh")) > 3)  # it has seen the program run
    world.run("delete")
    assert "was deleted by someone else" in world.finish(process, 4)
    assert len(world.calls("create")) == 1


def test_supervision_takes_over_a_running_program(world):
    world.ready("run")
    world.run("launch", *PROGRAM)
    assert "another command runs" in world.run("launch", "--supervise", "--", "--config=other.py", code=2)
    before = len(world.calls("ssh"))
    process = world.start(*SUPERVISE)
    world.until(lambda: len(world.calls("ssh")) > before + 4)
    process.send_signal(signal.SIGINT)
    assert "already running" in world.finish(process, 130)
    assert world.states() == [["running"]] * 2 and len(world.calls("scp")) == 1


def test_passing_faults_of_gcloud_are_outlived(world):
    faults = 5 * ["ERROR: no route to host", "ERROR: no route to host", ""]  # of more than --failures attempts in a row
    world.plan(fail={"ssh": ["", "", *faults]})
    world.program("run")
    process = world.start(*SUPERVISE)
    world.until(lambda: len(world.calls("ssh")) > 2 + len(faults))
    assert process.poll() is None
    world.run("stop")
    assert world.finish(process, 75).count("no route to host") == 10
    assert len(world.calls("create")) == len(world.calls("scp")) == 1


def test_a_signal_ends_the_supervision_at_once_whatever_it_does(world):
    world.plan(hang=["scp"])
    process = world.start(*SUPERVISE)
    world.until(lambda: world.calls("scp"))
    process.terminate()
    world.finish(process, 130)
    world.until(lambda: not world.alive())


def test_supervision_gives_up_in_the_end(world):
    world.plan(fail={"create": ["", *["ERROR: RESOURCE_EXHAUSTED: quota"] * 9]}, preempt=[2])
    world.program("run")
    text = world.run(*SUPERVISE, code=1)
    assert "gave up on slice after 4 attempts in a row" in text
    assert len(world.calls("create")) == 1 + 3 and text.count("quota") == 3


def test_supervision_ends_where_the_first_attempt_fails(world):
    world.plan(fail={"create": ["ERROR: INVALID_ARGUMENT: no such type"]})
    assert "no such type" in world.run(*SUPERVISE, code=1)
    assert len(world.calls("create")) == 1


@pytest.mark.parametrize("fail", [
    {"describe": ["", "", "ERROR: no route to host"]}, {"scp": ["ERROR: connect to host port 22: Connection refused"]},
    {"ssh": ["tar: Error is not recoverable: exiting now"]}])  # code 2, as for words that gcloud does not take
def test_faults_before_the_first_launch_are_outlived(world, fail):
    world.plan(fail=fail, created=["WAITING_FOR_RESOURCES"] * 3 + ["ACTIVE"])
    text = world.run(*SUPERVISE)
    assert "ended with exit code 0" in text and text.count("error: ") == 1 and len(world.calls("create")) == 1


@pytest.mark.parametrize("states", [["PROVISIONING", "ACTIVE", "ACTIVE", "SUSPENDED"], ["PROVISIONING", "SUSPENDED"]])
def test_a_slice_that_is_taken_before_the_first_launch_is_made_again(world, states):
    (world.folder / "state").write_text("WAITING_FOR_RESOURCES")  # of an earlier `create`
    (world.folder / "upcoming").write_text("\n".join(states))
    text = world.run(*SUPERVISE)
    assert "slice is SUSPENDED; creating it again" in text and "ended with exit code 0" in text
    assert len(world.calls("create")) == len(world.calls("delete")) == 1


def test_a_restarted_supervision_outlives_a_fault_too(world):
    world.ready("run")
    world.run("launch", *PROGRAM)
    world.launched()
    world.plan(fail={"ssh": [""] * len(world.calls("ssh")) + ["ERROR: no route to host"]})
    process = world.start(*SUPERVISE)
    world.until(lambda: len(world.calls("ssh")) > 8)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert "already running" in world.finish(process, 130)


def test_a_request_that_is_not_granted_at_first_ends_the_supervision(world):
    world.plan(created=["PROVISIONING", "FAILED"], reason="no capacity in this zone")
    assert "slice is FAILED: no capacity in this zone" in world.run(*SUPERVISE, code=4)
    assert len(world.calls("create")) == 1


def test_supervision_does_not_undo_a_deletion_while_it_waits(world):
    world.plan(created=["WAITING_FOR_RESOURCES", "DELETING", "MISSING"])
    assert "was deleted by someone else" in world.run(*SUPERVISE, code=4)
    assert len(world.calls("create")) == 1


def test_supervision_does_not_undo_a_deletion_while_a_new_slice_is_waited_for(world):
    world.program("run")
    process = world.start(*SUPERVISE)
    world.launched()
    world.plan(created=["WAITING_FOR_RESOURCES"])
    (world.folder / "preempt").touch()
    world.until(lambda: len(world.calls("create")) == 2)
    before = len(world.calls("describe"))
    world.until(lambda: len(world.calls("describe")) > before + 1)
    world.run("delete")
    assert "was deleted by someone else" in world.finish(process, 4)
    assert len(world.calls("create")) == 2


def test_supervision_looks_again_after_a_pause(world):
    """A person has made the slice again meanwhile."""
    world.ready("run")
    world.run("launch", *PROGRAM)
    world.launched()
    before = len(world.calls("ssh"))
    process = world.start(*SUPERVISE, BACKOFF="1")
    world.until(lambda: len(world.calls("ssh")) > before + 2)
    world.plan(fail={"delete": ["ERROR: UNAVAILABLE: try again later"]})
    (world.folder / "state").write_text("SUSPENDED")
    world.until(world.slept)
    (world.folder / "state").write_text("ACTIVE")
    before = len(world.calls("ssh"))
    world.until(lambda: len(world.calls("ssh")) > before + 3)
    process.terminate()
    assert "slice is SUSPENDED; creating it again" in world.finish(process, 130)
    assert len(world.calls("delete")) == 1 and world.states() == [["running"]] * 2


def test_pauses_grow_while_nothing_comes_of_it(world):
    world.plan(fail={"scp": ["ERROR: no route to host"] * 9})
    text = world.run(*SUPERVISE, BACKOFF="1", FAILURES="2", code=1)
    assert world.slept() == [1, 2] and "trying again in 2 s" in text and "after 2 attempts in a row" in text


def test_words_that_gcloud_does_not_take_end_the_supervision(world):
    world.plan(fail={"scp": ["ERROR: (gcloud.compute.tpus.tpu-vm.scp) unrecognized arguments: --nonsense"]})
    text = world.run(*SUPERVISE, "--ssh-args=--nonsense", code=2)
    assert "does not accept these arguments" in text and "trying again" not in text


def test_a_stop_between_two_programs_ends_the_supervision(world):
    world.program("75")
    process = world.start(*SUPERVISE, BACKOFF="3")
    world.launched()
    world.until(lambda: world.states() == [["exited", "75"]] * 2)
    assert "2 host(s) ran nothing" in world.run("stop")
    assert "stopped by hand" in world.finish(process, 75)
    assert (world.folder / "launches_0").read_text() == "1"


def test_what_saved_as_its_host_went_down_is_set_up_again(world):
    world.program("75", "0")
    process = world.start("launch", "--supervise", "--mount=bucket", *PROGRAM, BACKOFF="3")
    world.launched()
    world.until(lambda: world.states() == [["exited", "75"]] * 2)
    for host in (0, 1):
        (world.folder / "hosts" / str(host) / "run_tpu" / "process").write_text("1 another-boot\n")
    assert world.states() == [["lost"]] * 2
    assert "came back without the program" in world.finish(process)
    assert len(world.calls("create")) == 1 and len(world.calls("scp")) == 2


def test_the_deletion_at_the_end_is_tried_again(world):
    world.plan(fail={"delete": ["ERROR: UNAVAILABLE: try again later"]})
    text = world.run(*SUPERVISE[:2], "--delete-when-done", *PROGRAM)
    assert "ended with exit code 0" in text and "trying again" in text
    assert len(world.calls("delete")) == 2 and not (world.folder / "state").exists()


def test_a_deletion_that_comes_to_nothing_is_tried_again(world):
    world.plan(preempt=[1], deleted=["DELETING", "SUSPENDED"])
    world.program("run")
    text = world.run(*SUPERVISE, code=1)
    assert "the deletion had no effect: slice is SUSPENDED" in text and "gave up on slice after 4 attempts" in text
    assert len(world.calls("delete")) > 1


def test_what_supervision_stops_for_a_new_start_was_not_stopped_by_hand(world):
    """One host boots, one program fails, the third still runs and is stopped; then the installation fails once."""
    world.plan(hosts=3)
    world.program("run", "0")
    process = world.start(*SUPERVISE, POLL="1")
    homes = [world.folder / "hosts" / str(host) / "run_tpu" for host in range(3)]
    world.until(lambda: all((world.folder / f"launches_{host}").exists() for host in range(3)))
    world.plan(fail={"scp": ["", "ERROR: no route to host"]})
    numbers = [int((home / "process").read_text().split()[0]) for home in homes]
    (homes[1] / "exit_code").write_text("76\n")
    (homes[0] / "process").write_text(f"{numbers[0]} another-boot\n")
    for number in numbers[:2]:
        os.killpg(number, signal.SIGKILL)
    text = world.finish(process)
    assert "came back without the program" in text and "ended with exit code 0" in text
    assert (homes[2] / "log").read_text().count("exit code 75") == 1


def test_a_host_that_came_back_without_the_program_is_set_up_again(world):
    world.program("run", "0")
    process = world.start("launch", "--supervise", "--mount=bucket", *PROGRAM)
    world.launched()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        for host in (0, 1):  # a boot later the program is gone and its number is another's
            path = world.folder / "hosts" / str(host) / "run_tpu" / "process"
            number = int(path.read_text().split()[0])
            path.write_text(f"{other.pid} another-boot\n")
            os.killpg(number, signal.SIGKILL)
        try:
            assert "came back without the program" in world.finish(process)
        finally:
            other.kill()
    assert len(world.calls("create")) == 1 and len(world.calls("scp")) == 2
