"""Resident memory of the daemon with many files in use: what it holds after each step of making, listing and forgetting them."""

import json
import os
import subprocess

import rows
import sides

BOUND_MIB = 512  # what the project promises with default options
FILES_PER_DIRECTORY = 1000
FIELDS = ("VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem")


def daemon_memory(pid):
    """Fields of /proc/PID/status, in MiB."""
    found = {}
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            name, _, value = line.partition(":")
            if name in FIELDS:
                found[name] = int(value.split()[0]) / 1024
    return found


def measure(side, tools, n_files, say):
    directory = os.path.join(side.root, "files")
    os.mkdir(directory)
    tool = os.path.join(tools, "bench-files")
    shape = [directory, "--count", str(n_files), "--per-directory", str(FILES_PER_DIRECTORY)]
    pid = side.daemon_pid()
    steps = []

    def step(name, action):
        say(f"memory: {name}")
        action()
        steps.append({"step": name, **daemon_memory(pid)})

    step("mounted", lambda: None)
    step(f"{n_files:,} files created", lambda: rows.run([tool, "create", *shape]))
    step("stat of each", lambda: rows.run([tool, "stat", *shape]))
    step("caches dropped", lambda: (side.settle(), sides.drop_caches()))
    step("ls -lR of all, cold", lambda: list_all(directory))
    step("stat of each again", lambda: rows.run([tool, "stat", *shape]))
    peak = max(s["VmHWM"] for s in steps)
    print_steps(steps)
    print(f"peak {peak:.0f} MiB, bound {BOUND_MIB} MiB: {'met' if peak <= BOUND_MIB else 'NOT MET'}")
    status = side.status()
    if "memory" in status:
        print(f"what the daemon says of its memory: {json.dumps(status['memory'])}")
    return {"files": n_files, "bound_mib": BOUND_MIB, "peak_mib": peak, "met": peak <= BOUND_MIB, "steps": steps,
            "status": status}


def list_all(directory):
    with open(os.devnull, "w") as null:
        subprocess.run(["ls", "--color=never", "-lR", directory], stdout=null, check=True)


def print_steps(steps):
    width = max(len(s["step"]) for s in steps)
    print(f"{'MiB':{width}}" + "".join(f"{field:>10}" for field in FIELDS))
    for s in steps:
        print(f"{s['step']:{width}}" + "".join(f"{s[field]:>10.1f}" for field in FIELDS))
