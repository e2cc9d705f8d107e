"""A stand-in for gcloud with one queued resource. It runs ssh commands in folders that stand for the hosts.

The folder that the environment variable WORLD names holds all of it:
    calls       one JSON list of arguments a line
    state       of the queued resource; no file: there is none
    upcoming    states that the next descriptions move it to, one a line
    plan.json   created, deleted: the states after a creation and a deletion; reason: of the state FAILED
                hosts: how many a creation makes (2)
                fail: {verb: a line of stderr for each call, '' lets it through}; hang: verbs that never answer
                preempt: numbers of the surveys (`host.sh state`) that find the slice taken away
                gone: the same, but only the node says so and the queued resource stays ACTIVE
                alone: numbers of the launches that reach the first host only
    preempt     a file: the next survey finds the slice taken away
    hosts/N     the home of a host
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

WORLD = pathlib.Path(os.environ["WORLD"])
HOSTS = WORLD / "hosts"


def main():
    arguments, plan = sys.argv[1:], json.loads((WORLD / "plan.json").read_text())
    verb = arguments[3]
    with (WORLD / "lock").open("w") as lock:  # one call at a time, except on the hosts
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (WORLD / "calls").open("a") as calls:
            calls.write(json.dumps(arguments) + "\n")
        lines = plan.get("fail", {}).get(verb, [])
        if (number := count(verb)) <= len(lines) and lines[number - 1]:
            fail(lines[number - 1])
        if verb not in plan.get("hang", []):
            verbs = {"describe": describe, "create": create, "delete": delete, "scp": scp, "ssh": preempt}
            verbs[verb](arguments, plan)
    if verb in plan.get("hang", []):
        subprocess.run(["sleep", "60"])  # a child, as ssh is one of gcloud
    elif verb == "ssh":
        ssh(arguments, plan)


def describe(arguments, plan):
    upcoming = WORLD / "upcoming"
    states = upcoming.read_text().split() if upcoming.exists() else []
    if states:
        set_state(states[0])
        put(upcoming, "\n".join(states[1:]))
    if not (WORLD / "state").exists():
        fail("ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource 'x' was not found")
    state = (WORLD / "state").read_text()
    print(state, plan.get("reason", "") if state == "FAILED" else "", sep="\t")


def create(arguments, plan):
    if (WORLD / "state").exists():
        fail("ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: Resource 'x' already exists")
    set_state("WAITING_FOR_RESOURCES")
    put(WORLD / "upcoming", "\n".join(plan.get("created", ["ACTIVE"])))
    for number in range(plan.get("hosts", 2)):
        (HOSTS / str(number)).mkdir(parents=True)


def delete(arguments, plan):
    if "--force" not in arguments:
        fail("ERROR: (gcloud.compute.tpus.queued-resources.delete) FAILED_PRECONDITION: it has nodes")
    set_state("DELETING")
    put(WORLD / "upcoming", "\n".join(plan.get("deleted", ["DELETING", "MISSING"])))
    kill_hosts()


def scp(arguments, plan):
    source, target = arguments[4:6]
    for home in workers(arguments):
        shutil.copy(source, home / target.split(":")[1])


def preempt(arguments, plan):
    if not arguments[-2].endswith("host.sh state"):
        return
    survey = count("survey")
    if survey in plan.get("preempt", []) or (WORLD / "preempt").exists():
        (WORLD / "preempt").unlink(missing_ok=True)
        set_state("SUSPENDED")
        kill_hosts()
        fail("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [255] ssh: connect to host port 22: Connection refused")
    if survey in plan.get("gone", []):
        kill_hosts()


def ssh(arguments, plan):
    command = next(a for a in arguments if a.startswith("--command=")).removeprefix("--command=")
    running, homes = [], workers(arguments)
    alone = "host.sh launch" in command and count("launch") in plan.get("alone", [])
    for home in homes[:1] if alone else homes:
        environment = os.environ | {"HOME": str(home), "FAKE_HOST": f"host-w-{home.name}"}
        running.append(subprocess.Popen(["bash", "-c", command], cwd=home, env=environment))
        if command.endswith("state"):
            running[-1].wait()  # in the order of the hosts
    codes = [process.wait() for process in running]
    if alone:
        fail("ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [255] ssh: connect to host port 22: Connection refused")
    sys.exit(next((code for code in codes if code), 0))


def workers(arguments):
    worker = next(a for a in arguments if a.startswith("--worker=")).removeprefix("--worker=")
    if not HOSTS.exists():
        fail('ERROR: (gcloud.compute.tpus.tpu-vm.ssh) This TPU has terminal state "PREEMPTED", so it cannot be used '
             "anymore.")
    return sorted(HOSTS.iterdir()) if worker == "all" else [HOSTS / worker]


def kill_hosts():
    for process in HOSTS.glob("*/run_tpu/process"):
        try:
            os.killpg(int(process.read_text().split()[0]), signal.SIGKILL)
        except ProcessLookupError:
            pass
    shutil.rmtree(HOSTS, ignore_errors=True)


def set_state(state):
    if state == "MISSING":
        (WORLD / "state").unlink(missing_ok=True)
    else:
        put(WORLD / "state", state)


def count(name):
    path = WORLD / f"count_{name}"
    number = int(path.read_text()) + 1 if path.exists() else 1
    put(path, str(number))
    return number


def put(path, text):
    """Writes all or nothing: a call may be killed at any time."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


def fail(line):
    sys.stderr.write("Using ssh batch size of 2.\n" + line + "\n")
    sys.exit(2 if "unrecognized arguments" in line or line.startswith("tar: ") else 1)


main()
