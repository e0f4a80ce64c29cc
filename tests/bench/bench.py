#!/usr/bin/env python3
"""Benchmarks: clawfs and the plain host directory beside it, the same work on both in one run.

  bench.py --clawfs BUILD/fs/cli/clawfs --dir DIR             all rows, about 10 minutes
  bench.py --clawfs ... --dir DIR --quick                     smaller, about 3 minutes
  bench.py --clawfs ... --dir DIR --rows untar,rm-rf          only these (names: --list)
  bench.py --clawfs ... --dir DIR --memory                    resident memory with a million files in use
  bench.py --against OTHER --dir DIR                          two plain directories: the noise of this machine

DIR, on the disk to be measured, gets a new directory with host/ (plain), volume/ and mount/ (clawfs, default options), removed
at the end.  Each row runs alternately on the host and on clawfs; the table shows medians and their ratio, --json FILE keeps
every sample and the facts of the machine.  Rates are "more is better" throughout, so a ratio above 1 is clawfs ahead.

Must run as root: caches are dropped through /proc/sys/vm/drop_caches.  Exit status: 0 done (whether or not targets were met),
1 something failed, 2 usage.  docs/BENCHMARKS.md says what each row means.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import memory
import rows
import sides


def machine_facts(directory, clawfs):
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": first_value("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_kib": int(first_value("/proc/meminfo", "MemTotal").split()[0]),
        "load": os.getloadavg(),
        "filesystem": host_filesystem(directory),
        "disk": disk_facts(directory),
        "versions": {
            "clawfs": version([clawfs, "--version"]) if clawfs else None,
            "fio": version(["fio", "--version"]),
            "tar": version(["tar", "--version"]),
            "ls": version(["ls", "--version"]),
            "sqlite": sqlite3.sqlite_version,
            "python": platform.python_version(),
        },
    }


def first_value(path, key):
    with open(path) as f:
        for line in f:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def host_filesystem(directory):
    """Its type, options, and whether an ext4 has its journal, without which it does and promises much less."""
    best = ("", "", "")
    with open("/proc/self/mounts") as f:
        for line in f:
            _, point, kind, options = line.split()[:4]
            inside = directory == point or directory.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= len(best[0]):
                best = (point, kind, options)
    facts = {"type": best[1], "options": best[2]}
    if facts["type"] == "ext4":
        device = os.path.basename(os.path.realpath(sys_block(directory)))
        journals = os.listdir("/proc/fs/jbd2") if os.path.isdir("/proc/fs/jbd2") else []
        facts["journal"] = any(name.startswith(device + "-") for name in journals)
    return facts


def sys_block(directory):
    device = os.stat(directory).st_dev
    return f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"


def disk_facts(directory):
    """Queue settings of the block device below `directory`; empty where there is none (tmpfs, btrfs)."""
    queue = os.path.join(sys_block(directory), "queue")
    if not os.path.isdir(queue):
        queue = os.path.join(sys_block(directory), "..", "queue")  # of a partition: its disk's
    facts = {}
    for name in ("write_cache", "fua", "scheduler", "rotational", "read_ahead_kb"):
        try:
            with open(os.path.join(queue, name)) as f:
                facts[name] = f.read().strip()
        except OSError:
            pass
    return facts


def version(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def sample_group(group, both, n_runs, samples):
    """Adds to {row: {side: [sample, ...]}}, A B A B."""
    for side in both:
        group.prepare(side)
        side.settle()
    if type(group).sample is not rows.Group.sample:
        alternate(group.sample, type(group).__name__, both, n_runs, samples)
    for side in both:
        group.clean(side)
        side.settle()


def alternate(measure, what, both, n_runs, samples):
    for number in range(n_runs):
        for side in both:
            say(f"{what}: run {number + 1} of {n_runs} on {side.name}")
            for name, sample in measure(side, number).items():
                samples.setdefault(name, {}).setdefault(side.name, []).append(sample)
            side.settle()


def summarize(row, samples, both):
    host, other = (statistics.median(s["rate"] for s in samples[side.name]) for side in both)
    ratio = other / host
    return {
        "row": row.name,
        "title": row.title,
        "unit": row.unit,
        "host": host,
        "other": other,
        "ratio": ratio,
        "spread": max(spread(samples[side.name]) for side in both),
        "target": row.target,
        "met": None if row.target is None else ratio >= row.target,
        "samples": samples,
    }


def spread(samples):
    """Distance of the fastest run from the slowest, as a part of the median."""
    rates = [s["rate"] for s in samples]
    return (max(rates) - min(rates)) / statistics.median(rates)


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def print_facts(facts):
    host = facts["filesystem"]
    journal = "" if host.get("journal", True) else " without a journal"
    print(f"{facts['cores']} cores, {facts['cpu']}, Linux {facts['kernel']}, host {host['type']}{journal}, "
          f"load {facts['load'][0]:.1f} at the start")


def print_table(results, other_name):
    heads = ("row", "unit", "host", other_name, "ratio", "target", "", "spread")
    lines = [heads]
    for r in results:
        target = "" if r["target"] is None else f"{r['target']:.1f}"
        met = "" if r["met"] is None else "met" if r["met"] else "NOT MET"
        lines.append((r["row"], r["unit"], number(r["host"]), number(r["other"]), f"{r['ratio']:.2f}", target, met,
                      f"{r['spread'] * 100:.0f} %"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        cells = (cell.ljust(width) if i < 2 or i == 6 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths)))
        print("  ".join(cells).rstrip())


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def compare(options, both, work):
    wanted = set(options.rows or all_rows())
    sizes = rows.Sizes(options.quick)
    facts = machine_facts(work, options.clawfs)
    samples, start = {}, time.monotonic()
    with contextlib.ExitStack() as stack:
        groups = [make(sizes, options.tools) for make in rows.GROUPS if any(row.name in wanted for row in make.rows)]
        for group in groups:
            stack.callback(group.close)
        for group in groups:
            sample_group(group, both, options.runs, samples)
        for group in groups:
            if type(group).remove is not rows.Group.remove:
                alternate(group.remove, f"{type(group).__name__}, removing", both, options.runs, samples)
    results = [summarize(row, samples[row.name], both) for group in groups for row in group.rows if row.name in wanted]
    print_facts(facts)
    print_table(results, both[1].name)
    return {"facts": facts, "sizes": sizes.as_dict(), "runs": options.runs, "sides": [side.name for side in both],
            "seconds": time.monotonic() - start, "rows": results}


def make_sides(options, work):
    host = sides.PlainSide("host", os.path.join(work, "host"))
    if options.against:
        return host, sides.PlainSide("against", tempfile.mkdtemp(prefix="clawfs-bench-", dir=options.against))
    return host, sides.ClawfsSide(options.clawfs, work)


def all_rows():
    return [row.name for group in rows.GROUPS for row in group.rows]


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clawfs", metavar="PROGRAM", help="the clawfs program")
    parser.add_argument("--against", metavar="OTHER", help="compare with this directory instead of a clawfs volume")
    parser.add_argument("--dir", metavar="DIR", help="where to work: on the disk to be measured")
    parser.add_argument("--tools", metavar="DIR", help="directory of bench-files (default: found from the clawfs program)")
    parser.add_argument("--rows", metavar="A,B", type=lambda text: text.split(","), help="only these rows")
    parser.add_argument("--runs", metavar="N", type=int, help="samples a row and side (default 3, with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="less data, shorter samples: a first look, not a result")
    parser.add_argument("--memory", action="store_true", help="measure resident memory instead")
    parser.add_argument("--files", metavar="N", type=int, default=1_000_000, help="files for --memory (default 1,000,000)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured to FILE")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    options = parser.parse_args()
    if not options.list:
        check_options(parser, options)
    return options


def check_options(parser, options):
    if not options.dir:
        parser.error("--dir is needed")
    if bool(options.clawfs) == bool(options.against):
        parser.error("one of --clawfs and --against is needed")
    if options.memory and not options.clawfs:
        parser.error("--memory needs --clawfs")
    unknown = set(options.rows or ()) - set(all_rows())
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))} (see --list)")
    if options.runs is None:
        options.runs = 2 if options.quick else 3
    if options.runs < 1 or options.files < 1:
        parser.error("--runs and --files are at least 1")
    if os.geteuid() != 0:
        parser.error("must run as root: it drops caches and mounts")
    if options.clawfs:
        options.clawfs = os.path.abspath(options.clawfs)
    options.tools = os.path.abspath(options.tools or find_tools(options.clawfs or "") or ".")
    if not os.path.exists(os.path.join(options.tools, "bench-files")):
        parser.error("bench-files not found: build it (ninja) and name its directory with --tools")
    if not shutil.which("fio"):
        parser.error("fio not found: apt install fio")


def find_tools(clawfs):
    """tests/bench of the build directory that holds the program `clawfs`."""
    directory = os.path.dirname(clawfs)
    while directory not in ("", "/"):
        tools = os.path.join(directory, "tests", "bench")
        if os.path.exists(os.path.join(tools, "bench-files")):
            return tools
        directory = os.path.dirname(directory)
    return None


def main():
    options = parse_options()
    if options.list:
        for group in rows.GROUPS:
            for row in group.rows:
                print(f"{row.name:26}{row.title}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the mount goes too
    os.makedirs(options.dir, exist_ok=True)
    work = tempfile.mkdtemp(prefix="clawfs-bench-", dir=os.path.abspath(options.dir))
    both = make_sides(options, work)
    try:
        if options.memory:
            both[1].start()
            result = memory.measure(both[1], options.tools, options.files, say)
            result["facts"] = machine_facts(work, options.clawfs)
        else:
            for side in both:
                side.start()
            result = compare(options, both, work)
    except (RuntimeError, OSError) as e:
        say(f"failed: {e}")
        return 1
    finally:
        for side in both:
            side.stop()
        shutil.rmtree(work, ignore_errors=True)
    if options.json:
        with open(options.json, "w") as f:
            json.dump(result, f, indent=1)
            f.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
