"""test_package: the Debian package: built, installed into a root of its own, and used from there.

This machine's packages stay as they are: dpkg works with --root, and what has to lie in /usr does so in a mount namespace where an
overlay puts the package over it.  $CLAWFS_PACKAGE_WORK keeps what was compiled, for the next run.
"""

import contextlib
import glob
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from clawfs_env import EXIT_FAILURE, EXIT_MOUNT, EXIT_OK, EXIT_USAGE, ROOT, SMALL, is_mounted, wait_for

UNIT = "usr/lib/systemd/system/clawfs@.service"
SCRUB_UNITS = ("usr/lib/systemd/system/clawfs-scrub@.service", "usr/lib/systemd/system/clawfs-scrub@.timer")
DRILL_UNITS = ("usr/lib/systemd/system/clawfs-drill@.service", "usr/lib/systemd/system/clawfs-drill@.timer")
SNAPSHOT_UNITS = ("usr/lib/systemd/system/clawfs-snapshot@.service", "usr/lib/systemd/system/clawfs-snapshot@.timer")
HELPERS = ("usr/sbin/mount.clawfs", "usr/sbin/umount.fuse.clawfs")
BASH_COMPLETION = "usr/share/bash-completion/completions/clawfs"
ZSH_COMPLETION = "usr/share/zsh/vendor-completions/_clawfs"
PAGES = {"clawfs.1": "man1", "clawfs.5": "man5", "mount.clawfs.8": "man8"}
FORMAT = [word for key, value in SMALL.items() for word in ("--" + key.replace("_", "-"), value)]
# Options that no command has to itself.
GENERAL = {"help", "version", "table"}
# Whatever gives a service a mount namespace of its own, by systemd.exec(5): a mount made in there is seen nowhere else.
OWN_NAMESPACE = re.compile(r"(Protect|Private|ReadOnly|ReadWrite|Inaccessible|NoExecPaths|ExecPaths|Bind|TemporaryFileSystem|Root|Mount|"
                           r"Extension|DynamicUser|ProcSubset|LoadCredential|SetCredential|ImportCredential|NetworkNamespacePath)")

built = {}  # "deb": its path, "root": where it is installed


def run(*args, check=EXIT_OK, timeout=120, **kwargs):
    r = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=timeout, **kwargs)
    if check is not None and r.returncode != check:
        raise AssertionError("%s: exit %d, expected %d\n%s%s" % (shlex.join(map(str, args)), r.returncode, check, r.stdout, r.stderr))
    return r


def dpkg(*args, **kwargs):
    return run("dpkg", "--root=" + built["root"], "--force-depends", *args, **kwargs)


def setUpModule():
    """Builds the package and installs it."""
    top = os.path.realpath(tempfile.mkdtemp(prefix="clawfs-test-", dir=os.environ.get("CLAWFS_TEST_DIR")))
    unittest.addModuleCleanup(shutil.rmtree, top, ignore_errors=True)
    work = os.environ.get("CLAWFS_PACKAGE_WORK") or os.path.join(top, "work")
    options = "parallel=2 noautodbgsym nocheck"
    r = run(os.path.join(ROOT, "packaging", "build-deb"), "--work", work, top, check=None, timeout=900,
            env={**os.environ, "DEB_BUILD_OPTIONS": options})
    if r.returncode:
        raise AssertionError("build-deb: exit %d\n%s" % (r.returncode, (r.stdout + r.stderr)[-6000:]))
    built["deb"], = glob.glob(os.path.join(top, "clawfs_*.deb"))
    built["root"] = os.path.join(top, "root")
    for name in ("info", "updates", "triggers"):
        os.makedirs(os.path.join(built["root"], "var/lib/dpkg", name))
    open(os.path.join(built["root"], "var/lib/dpkg/status"), "w").close()
    dpkg("--install", built["deb"])


def path(*names):
    return os.path.join(built["root"], *names)


def program():
    return path("usr/bin/clawfs")


def field(name):
    return run("dpkg-deb", "--field", built["deb"], name).stdout.strip()


def table():
    """{kind: [fields]} of `clawfs help --table`."""
    found = {"verb": [], "option": [], "act": [], "word": [], "ignored": []}
    for line in run(program(), "help", "--table").stdout.splitlines():
        kind, *fields = line.split("\t")
        found[kind].append(fields)
    return found


def packages_of(text):
    """Names in a list of dependencies."""
    return {re.match(r"\s*([a-z0-9.+-]+)", one)[1] for alternatives in text.split(",") for one in alternatives.split("|") if one.strip()}


class Contents(unittest.TestCase):
    def test_the_version_is_the_projects(self):
        with open(os.path.join(ROOT, "meson.build"), encoding="utf-8") as f:
            version = re.search(r"version: '([^']+)'", f.read())[1]
        self.assertEqual(field("Version"), version)
        self.assertEqual(run(program(), "--version").stdout, "clawfs %s\n" % version)

    def test_it_holds_what_it_should_and_nothing_else(self):
        files = {p for p in dpkg("--listfiles", "clawfs").stdout.split() if not os.path.isdir(path(p[1:]))}
        docs = {p for p in files if p.startswith("/usr/share/doc/clawfs/")}
        expected = {"/usr/bin/clawfs", *("/" + h for h in HELPERS), "/" + UNIT,
                    *("/" + u for u in SCRUB_UNITS + DRILL_UNITS + SNAPSHOT_UNITS),
                    "/" + BASH_COMPLETION, "/" + ZSH_COMPLETION, "/usr/share/lintian/overrides/clawfs", "/usr/share/clawfs/prometheus/clawfs.rules.yml",
                    "/usr/share/clawfs/grafana/clawfs.json"}
        expected |= {"/usr/share/man/%s/%s.gz" % (d, page) for page, d in PAGES.items()}
        expected.add("/usr/share/man/man8/umount.fuse.clawfs.8.gz")
        self.assertEqual(files - docs, expected)
        self.assertLessEqual({"/usr/share/doc/clawfs/" + n for n in ("copyright", "changelog.gz", "examples/volume.conf")}, docs)
        for helper in HELPERS:
            self.assertEqual(os.readlink(path(helper)), "../bin/clawfs")
        self.assertTrue(os.path.isdir(path("etc/clawfs")))
        self.assertEqual(os.stat(program()).st_mode & 0o7777, 0o755)
        self.assertEqual(dpkg("--verify", "clawfs").stdout, "")

    def test_it_depends_on_the_packages_of_its_libraries(self):
        needed = re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", program()).stdout)
        self.assertGreater(len(needed), 5)
        depends = packages_of(field("Depends"))
        for lib in needed:
            owners = {line.split(":")[0] for line in run("dpkg", "--search", "*/" + lib).stdout.splitlines()}
            self.assertTrue(owners & depends, "%s is in %s, Depends: %s" % (lib, owners, sorted(depends)))
        self.assertIn("fuse3", depends)

    def test_it_is_built_from_what_quickstart_installs(self):
        with open(os.path.join(ROOT, "packaging/debian/control"), encoding="utf-8") as f:
            text = re.search(r"(?m)^Build-Depends:((?:.*\n)(?:[ \t].*\n)*)", f.read())[1]
        listed = packages_of(re.sub(r"[(\[][^)\]]*[)\]]", "", text.replace(":any", "")))
        wanted = set(run(os.path.join(ROOT, "quickstart"), "--packages").stdout.split())
        # Every Debian builder has the first, meson brings the second; others are for running.
        running = packages_of(field("Depends")) | packages_of(field("Recommends"))
        self.assertEqual(wanted - listed - running, {"build-essential", "ninja-build"})

    def test_lintian_finds_nothing(self):
        if not shutil.which("lintian"):
            self.skipTest("needs lintian")
        user = [] if os.geteuid() else ["--allow-root"]
        r = run("lintian", *user, "--no-cfg", "--fail-on", "error,warning", built["deb"], check=None)
        self.assertEqual((r.returncode, r.stdout), (EXIT_OK, ""))

    def test_it_can_be_removed_without_a_trace(self):
        root = built["root"]
        dpkg("--purge", "clawfs")
        try:
            left = [os.path.join(d, f) for d, _, names in os.walk(root) for f in names if not d.startswith(path("var/lib/dpkg"))]
            self.assertEqual(left, [])
            self.assertFalse(os.path.exists(path("etc/clawfs")))
        finally:
            dpkg("--install", built["deb"])


class Manual(unittest.TestCase):
    """The pages against the table they and --help are made from, read as people see them."""

    def page(self, name):
        env = {**os.environ, "MANWIDTH": "400", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
        r = run("man", "--warnings=w", "-P", "cat", "-l", path("usr/share/man", PAGES[name], name + ".gz"), env=env)
        self.assertEqual(r.stderr, "", "%s renders without warnings" % name)
        return re.sub(".\b", "", r.stdout).replace("\u2010", "-").replace("\u2212", "-")

    def section(self, text, title):
        return re.search(r"(?ms)^%s\n(.*?)(?=^\S)" % re.escape(title), text)[1]

    def test_each_page_names_itself(self):
        for name in PAGES:
            base, number = name.rsplit(".", 1)
            text = self.page(name)
            self.assertRegex(text, r"^%s\(%s\)" % (re.escape(base), number))
            self.assertRegex(self.section(text, "NAME"), r"^ +%s - \w" % re.escape(base))

    def test_every_verb_and_option_is_there_and_nothing_else(self):
        t = table()
        text = self.page("clawfs.1")
        found, verb = {}, None
        for line in self.section(text, "COMMANDS").splitlines():
            head = re.match(r" {7}clawfs (.+) \[OPTIONS\] (.+)$", line)
            option = re.match(r" {11}(?:-(\w), )?--([a-z-]+)(?:=(\S+))?$", line)
            if head:
                verb = head[1]
                found[verb] = (head[2], set())
            elif re.match(r" {7}\S", line):
                verb = None
            elif option and verb:
                found[verb][1].add((option[2], option[1] or "", option[3] or ""))
        expected = {v[0]: (v[1], {(o[1], o[2], o[3]) for o in t["option"] if o[0] == v[0] and o[1] != "help"})
                    for v in t["verb"] if v[0] != "mount.clawfs"}
        self.assertGreater(len(expected), 8)
        self.assertEqual(found, expected)
        for v in t["verb"]:
            if v[0] != "mount.clawfs":
                self.assertIn(" ".join(v[3].replace("\\n", " ").split()), " ".join(text.split()))

    def test_no_page_names_an_option_that_does_not_exist(self):
        known = {o[1] for o in table()["option"]} | GENERAL
        for name in PAGES:
            own = re.sub(r"(?m)^ *systemctl .*$", "", self.page(name))
            for option in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", own):
                self.assertIn(option, known, name)

    def test_every_mount_option_is_there_and_nothing_else(self):
        t = table()
        text = self.page("mount.clawfs.8")
        section = self.section(text, "MOUNT OPTIONS")
        found = re.findall(r"(?m)^ {7}([a-z_]+)(?:=(\S+))?$", section)
        self.assertEqual(sorted(found), sorted((w[0], w[1]) for w in t["word"]))
        ignored = re.search(r"(?s)Ignored, so that.*?:\s(.*?) subtype=", section)[1].split()
        self.assertEqual(ignored, [w[0] for w in t["ignored"]])
        options = re.findall(r"(?m)^ {7}(?:-(\w), )?--([a-z-]+)(?:=(\S+))?$", self.section(text, "OPTIONS"))
        expected = [(o[2], o[1], o[3]) for o in t["option"] if o[0] == "mount.clawfs"]
        self.assertEqual(sorted(options), sorted(expected))

    def test_every_attribute_is_there_and_nothing_else(self):
        names = set()
        for source in glob.glob(os.path.join(ROOT, "fs", "**", "*.c"), recursive=True):
            with open(source, encoding="utf-8") as f:
                text = f.read()
            names |= set(re.findall(r'\{"([a-z._-]+)",\s*SCOPE_', text))
            names |= set(re.findall(r'\{"([a-z._-]+)",\s*(?:NULL|get_\w+),\s*(?:NULL|set_\w+)\}', text))
        self.assertGreater(len(names), 15)
        heads = re.findall(r"(?m)^ {7}(clawfs\.\S+(?:, clawfs\.\S+)*)$", self.section(self.page("clawfs.5"), "ATTRIBUTES"))
        found = [name[len("clawfs."):] for head in heads for name in head.split(", ")]
        # clawfs.tier.store.NAME is the row "tier.store."
        self.assertEqual(sorted(re.sub(r"[A-Z].*", "", name) for name in found), sorted(names))


class Completion(unittest.TestCase):
    """Both shells, at every verb."""

    def bash(self, line):
        """What bash offers at the end of `line`."""
        script = 'source "$1"; COMP_LINE=$3 COMP_POINT=${#3}; _clawfs "$2"; printf "%s\\n" "${COMPREPLY[@]}"'
        out = run("bash", "-c", script, "bash", path(BASH_COMPLETION), program(), line, cwd=built["root"])
        self.assertEqual(out.stderr, "")
        return out.stdout.split()

    def zsh(self, *words):
        """What is handed to zsh's own functions, where the last of `words` is to be completed."""
        script = """_arguments() { print -rl -- "$@" }
                    _describe() { print -rl -- ${(P)2} }
                    _values() { shift 3; print -rl -- "$@" }
                    script=$1; shift; words=("$@"); CURRENT=$#; set --; source $script"""
        out = run("zsh", "-f", "-c", script, "zsh", path(ZSH_COMPLETION), program(), *words)
        self.assertEqual(out.stderr, "")
        return out.stdout.splitlines()

    def need_zsh(self):
        if not shutil.which("zsh"):
            self.skipTest("needs zsh")

    def verbs(self):
        return [v[0] for v in table()["verb"] if v[0] != "mount.clawfs"]

    def options_of(self, t, verb):
        return [o for o in t["option"] if o[0] == verb]

    def test_scripts_are_well_formed(self):
        run("bash", "-n", path(BASH_COMPLETION))
        self.need_zsh()
        run("zsh", "-n", path(ZSH_COMPLETION))

    def test_bash_offers_every_verb(self):
        verbs = self.verbs()
        self.assertEqual(sorted(self.bash("clawfs ")), sorted({v.split()[0] for v in verbs} | {"help", "--help", "--version"}))
        for first in {v.split()[0] for v in verbs if " " in v}:
            self.assertEqual(sorted(self.bash("clawfs %s " % first)), sorted(v.split()[1] for v in verbs if v.startswith(first + " ")))
        for verb in verbs:
            self.assertIn(verb.split()[-1], self.bash("clawfs " + verb[:-1]))

    def test_bash_offers_every_option_of_every_verb(self):
        t = table()
        for verb in self.verbs():
            expected = {"--" + o[1] for o in self.options_of(t, verb)}
            self.assertEqual(set(self.bash("clawfs %s --" % verb)), expected)
            expected |= {"-" + o[2] for o in self.options_of(t, verb) if o[2]}
            self.assertEqual(set(self.bash("clawfs %s -" % verb)), expected)
        words = {w[0] + ("=" if w[1] else "") for w in t["word"]}
        self.assertEqual(set(self.bash("clawfs mount -o ")), words)
        self.assertEqual(set(self.bash("clawfs mount -o noatime,")), {"noatime," + w for w in words})
        # readline parts words at =, so only what is behind it may be offered
        self.assertEqual(self.bash("clawfs mount -o commit=1,allow"), ["1,allow_other"])

    def test_bash_offers_files_where_an_operand_names_one(self):
        self.assertEqual(self.bash("clawfs format us"), ["usr"])
        self.assertEqual(self.bash("clawfs format --label us us"), ["usr"])
        self.assertEqual(self.bash("clawfs format --label us"), [])
        self.assertEqual(self.bash("clawfs mount -o ro us"), ["usr"])
        self.assertEqual(self.bash("clawfs mount usr e"), ["etc"])
        self.assertEqual(self.bash("clawfs durability usr/bin/cl"), ["usr/bin/clawfs"])
        self.assertEqual(self.bash("clawfs wait us"), [])
        self.assertEqual(self.bash("clawfs format usr us"), [], "one operand, and no more")

    def test_zsh_offers_every_verb(self):
        self.need_zsh()
        verbs = self.verbs()
        offered = {line.split(":")[0] for line in self.zsh("")}
        self.assertEqual(offered, {v.split()[0] for v in verbs} | {"help"})
        for first in {v.split()[0] for v in verbs if " " in v}:
            offered = [line.split(":")[0] for line in self.zsh(first, "")]
            self.assertEqual(sorted(offered), sorted(v.split()[1] for v in verbs if v.startswith(first + " ")))

    def test_zsh_offers_every_option_of_every_verb(self):
        self.need_zsh()
        t = table()
        for verb in self.verbs():
            lines = self.zsh(*verb.split(), "")
            found = sorted(re.match(r"(--?[\w-]+)", line)[1] for line in lines if line.startswith("-") and "[" in line)
            expected = [n for o in self.options_of(t, verb) for n in ["--" + o[1]] + (["-" + o[2]] if o[2] else [])]
            self.assertEqual(found, sorted(expected))
            operands = [line for line in lines if line.startswith(":")]
            row, = [v for v in t["verb"] if v[0] == verb]
            self.assertEqual([line.split(":")[1] for line in operands], row[1].split())


class Unit(unittest.TestCase):
    def settings(self):
        with open(path(UNIT), encoding="utf-8") as f:
            return [tuple(line.rstrip("\n").split("=", 1)) for line in f if re.match(r"[A-Z]\w*=", line)]

    def test_nothing_hides_the_mount(self):
        keys = [key for key, _ in self.settings()]
        self.assertIn("ExecStart", keys)
        self.assertEqual([key for key in keys if OWN_NAMESPACE.match(key)], [])

    def test_a_stop_that_took_the_mount_from_somebody_is_no_failure(self):
        """How the daemon ended is what counts: systemd takes a failed ExecStop for one of the service unless it begins with -."""
        self.assertEqual([value[0] for key, value in self.settings() if key.startswith("ExecStop")], ["-", "-"])

    def test_it_is_ordered_limited_and_notified(self):
        settings = self.settings()
        for wanted in (("Type", "notify"), ("Before", "remote-fs.target"), ("WantedBy", "remote-fs.target"), ("Restart", "on-failure"),
                       ("EnvironmentFile", "/etc/clawfs/%i.conf"), ("RestartPreventExitStatus", str(EXIT_USAGE))):
            self.assertIn(wanted, settings)
        self.assertLessEqual({"StartLimitIntervalSec", "StartLimitBurst"}, {key for key, _ in settings})

    def test_systemd_understands_it(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("needs systemd-analyze")
        r = in_package("systemd-analyze", "verify", "clawfs@volume.service", "/" + UNIT)
        self.assertEqual(r.stdout + r.stderr, "")
        r = in_package("systemd-analyze", "verify", "clawfs-scrub@volume.service", "clawfs-scrub@volume.timer")
        self.assertEqual(r.stdout + r.stderr, "")
        r = in_package("systemd-analyze", "verify", "clawfs-drill@volume.service", "clawfs-drill@volume.timer")
        self.assertEqual(r.stdout + r.stderr, "")
        r = in_package("systemd-analyze", "verify", "clawfs-snapshot@volume.service", "clawfs-snapshot@volume.timer")
        self.assertEqual(r.stdout + r.stderr, "")

    def test_the_scrub_reads_the_same_configuration_and_its_timer_catches_up(self):
        service, timer = (open(path(u), encoding="utf-8").read().splitlines() for u in SCRUB_UNITS)
        for wanted in ("Type=oneshot", "EnvironmentFile=/etc/clawfs/%i.conf", "TimeoutStartSec=infinity",
                       "ExecStart=/usr/bin/clawfs scrub start --wait -- ${MOUNTPOINT}"):
            self.assertIn(wanted, service)
        for wanted in ("OnCalendar=monthly", "Persistent=true", "WantedBy=timers.target"):
            self.assertIn(wanted, timer)


    def test_each_timer_has_a_service_that_reads_the_file_of_the_volume(self):
        for units, command in ((SCRUB_UNITS, "scrub"), (DRILL_UNITS, "drill"), (SNAPSHOT_UNITS, "snap rotate")):
            service, timer = (open(path(u), encoding="utf-8").read().splitlines() for u in units)
            self.assertTrue(any(line.startswith("ExecStart=/usr/bin/clawfs " + command) for line in service), units)
            for wanted in ("Type=oneshot", "EnvironmentFile=/etc/clawfs/%i.conf", "Requisite=clawfs@%i.service", "UMask=0077"):
                self.assertIn(wanted, service)
            for wanted in ("Persistent=true", "WantedBy=timers.target"):
                self.assertIn(wanted, timer)
            self.assertEqual(len([line for line in timer if line.startswith("OnCalendar=")]), 1)
            enabled = path("etc/systemd/system/timers.target.wants/" + os.path.basename(units[1]))
            self.assertFalse(os.path.lexists(enabled), "a timer is enabled by whoever wants it")


def in_package(*args, script='exec "$@"', **kwargs):
    """Runs a command where the package lies over /usr, in a mount namespace of its own; skips the test where that cannot be."""
    overlay = 'mount -t overlay overlay -o "lowerdir=$0:/usr" /usr || exit 222; ' + script
    r = run("unshare", "--mount", "--propagation", "private", "sh", "-ec", overlay, path("usr"), *args, check=None, **kwargs)
    if r.returncode == 222:
        raise unittest.SkipTest("no overlay filesystem here: " + r.stderr)
    if r.returncode:
        raise AssertionError("exit %d\n%s%s" % (r.returncode, r.stdout, r.stderr))
    return r


class Installed(unittest.TestCase):
    """A volume of the package's program."""

    def setUp(self):
        if os.geteuid():
            self.skipTest("needs root: mounts filesystems")
        self.tmp = os.path.realpath(tempfile.mkdtemp(prefix="clawfs-test-", dir=os.environ.get("CLAWFS_TEST_DIR")))
        self.addCleanup(shutil.rmtree, self.tmp, ignore_errors=True)
        # systemd hands over what is quoted as one word
        self.store, self.mnt = os.path.join(self.tmp, "a store"), os.path.join(self.tmp, "a mnt")
        os.mkdir(self.mnt)
        self.addCleanup(self.detach)
        run(program(), "format", *FORMAT, self.store)

    def detach(self):
        while is_mounted(self.mnt):
            subprocess.run(["umount", "-l", self.mnt], check=True)


class Smoke(Installed):
    def test_the_helper_mounts(self):
        helper = path("usr/sbin/mount.clawfs")
        run(helper, "-f", self.store, self.mnt)
        self.assertFalse(is_mounted(self.mnt))
        run(helper, self.store, self.mnt, "-o", "rw,nosuid,nodev,allow_other,_netdev,x-systemd.automount")
        self.assertTrue(is_mounted(self.mnt))
        with open(os.path.join(self.mnt, "f"), "wb") as f:
            f.write(b"x" * 100000)
        run(program(), "umount", self.mnt)
        run(program(), "fsck", self.store)
        run(helper, self.mnt, self.mnt, check=EXIT_MOUNT)
        run(helper, self.store, self.mnt, "-o", "nonsense", check=EXIT_MOUNT)

    def test_mount_8_finds_it_by_type_and_in_fstab(self):
        fstab = os.path.join(self.tmp, "fstab")
        with open(fstab, "w", encoding="utf-8") as f:
            f.write("%s %s clawfs defaults,allow_other,nofail,_netdev 0 0\n" % (self.store.replace(" ", "\\040"), self.mnt.replace(" ", "\\040")))
        script = """
            mount -t clawfs -o noatime "$1" "$2"
            findmnt -rno FSTYPE "$2" | grep -qx fuse.clawfs
            echo first >"$2/f"
            clawfs sync "$2"
            clawfs status "$2" >/dev/null
            clawfs umount "$2"
            mount -t fuse.clawfs "$1" "$2"
            [ "$(cat "$2/f")" = first ]
            clawfs umount "$2"
            mount -T "$3" "$2"
            [ "$(cat "$2/f")" = first ]
            clawfs umount "$2"
            mount -t clawfs "$1" "$2"
            umount -c "$2"
            clawfs fsck "$1" >/dev/null
            ! mount -t clawfs -o nonsense "$1" "$2" 2>/dev/null
            clawfs fsck "$1" >/dev/null
            clawfs upgrade --check "$1" >/dev/null
            echo done"""
        self.assertEqual(in_package(self.store, self.mnt, fstab, script=script).stdout, "done\n")

    def test_the_pages_are_found_by_name(self):
        out = in_package(script="for p in '1 clawfs' '5 clawfs' '8 mount.clawfs'; do man -w $p; done").stdout
        self.assertEqual(out.split(), ["/usr/share/man/%s/%s.gz" % (d, p) for p, d in PAGES.items()])


class Service(Installed):
    """What the unit says, done as systemd would do it."""

    def setUp(self):
        super().setUp()
        self.unit, self.environment = {}, {}
        with open(path(UNIT), encoding="utf-8") as f:
            for line in f:
                key, found, value = line.rstrip("\n").partition("=")
                if found and re.match(r"[A-Z]\w*$", key):
                    self.unit.setdefault(key, []).append(value)
        for setting in self.unit["Environment"]:
            name, _, value = setting.partition("=")
            self.environment[name] = value
        self.configure()
        self.log = os.path.join(self.tmp, "log")
        self.process = None
        self.manager = None
        self.addCleanup(self.end)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.manager:
            self.manager.close()

    def configure(self, **changes):
        """The example's lines with this volume's values, read as an EnvironmentFile= is; a value of None leaves a line out."""
        with open(path("usr/share/doc/clawfs/examples/volume.conf"), encoding="utf-8") as f:
            names = re.findall(r"(?m)^([A-Z]+)=", f.read())
        self.assertEqual(names, ["SOURCE", "MOUNTPOINT", "OPTIONS"])
        values = {**dict(zip(names, (self.store, self.mnt, ""))), **changes}
        text = "# a comment\n" + "".join('%s="%s"\n' % (k, v) for k, v in values.items() if v is not None)
        for line in text.splitlines():
            if not line.startswith("#"):
                name, _, value = line.partition("=")
                self.environment[name] = value[1:-1]

    def command(self, key):
        """Words of a command line: ${X} is the variable, whole; $$ is a dollar."""
        line, = self.unit[key]
        words = [re.sub(r"\$\{(\w+)\}", lambda m: self.environment[m[1]], w).replace("$$", "$") for w in shlex.split(line.lstrip("-"))]
        words[0] = program() if words[0] == "/usr/bin/clawfs" else words[0]
        return words

    def env(self, **more):
        return {**{k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"}, **self.environment, **more}

    def listen(self, address):
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind("\0" + address[1:] if address.startswith("@") else address)
        self.manager.settimeout(60)

    def start(self, address):
        self.listen(address)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command("ExecStart"), env=self.env(NOTIFY_SOCKET=address), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def messages(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return f.read()

    def words(self, until):
        """All that is said up to the first word that begins so."""
        said = []
        while not any(w.startswith(until) for w in said):
            said += self.manager.recv(4096).decode().split("\n")
        return said

    def stop(self):
        run(*self.command("ExecStop"), env=self.env())
        self.assertEqual(self.process.wait(60), EXIT_OK)
        self.process = None
        subprocess.run(self.command("ExecStopPost"), env=self.env(), check=False, stdout=subprocess.DEVNULL)

    def cycle(self, address):
        self.start(address)
        said = self.words("READY=1")
        self.assertTrue(said[0].startswith("STATUS="), said)
        self.assertTrue(is_mounted(self.mnt))
        with open(os.path.join(self.mnt, "f"), "a", encoding="utf-8") as f:
            f.write("x")
        self.stop()
        said = self.words("STOPPING=1")
        self.assertTrue(all(re.match(r"[A-Z]+=[^\n]+$", w) for w in said), said)
        self.assertFalse(is_mounted(self.mnt))
        self.manager.close()

    def test_it_is_ready_once_mounted_and_says_when_it_stops(self):
        self.cycle(os.path.join(self.tmp, "notify"))
        self.cycle("@clawfs-test-%d" % os.getpid())
        run(program(), "fsck", self.store)

    def test_options_are_handed_on(self):
        self.configure(OPTIONS="ro,fsname=from the unit")
        self.start(os.path.join(self.tmp, "notify"))
        self.words("READY=1")
        self.assertRegex(run("findmnt", "-rno", "OPTIONS", self.mnt).stdout, r"^ro,")
        self.assertEqual(run("findmnt", "-no", "SOURCE", self.mnt).stdout.strip(), "from the unit")
        self.stop()

    def test_options_may_be_left_out(self):
        self.environment.pop("OPTIONS")
        for setting in self.unit["Environment"]:
            name, _, value = setting.partition("=")
            self.environment[name] = value
        self.configure(OPTIONS=None)
        self.cycle(os.path.join(self.tmp, "notify"))

    def test_what_cannot_be_mounted_is_never_ready(self):
        for changes, code in (({"SOURCE": self.tmp}, EXIT_MOUNT), ({"OPTIONS": "nonsense"}, EXIT_USAGE), ({"MOUNTPOINT": ""}, EXIT_MOUNT)):
            self.configure(**changes)
            address = os.path.join(self.tmp, "notify-%d-%s" % (code, "-".join(changes)))
            self.start(address)
            self.assertEqual(self.process.wait(60), code, self.messages())
            self.process = None
            self.manager.setblocking(False)
            said = []
            try:
                while True:
                    said.append(self.manager.recv(4096).decode())
            except BlockingIOError:
                pass
            self.assertFalse([w for w in said if "READY" in w])
            self.manager.close()

    def test_a_daemon_is_not_the_service(self):
        address = os.path.join(self.tmp, "notify")
        self.listen(address)
        run(program(), "mount", self.store, self.mnt, env=self.env(NOTIFY_SOCKET=address))
        run(program(), "umount", self.mnt)
        self.manager.setblocking(False)
        self.assertRaises(BlockingIOError, self.manager.recv, 4096)

    def test_nobody_to_tell_is_no_failure(self):
        self.start(os.path.join(self.tmp, "notify"))
        os.unlink(os.path.join(self.tmp, "notify"))
        wait_for("the mount", lambda: is_mounted(self.mnt))
        self.stop()

    def test_it_can_be_started_again_after_a_crash_with_files_open(self):
        self.start(os.path.join(self.tmp, "notify"))
        self.words("READY=1")
        held = os.open(os.path.join(self.mnt, "held"), os.O_RDWR | os.O_CREAT)
        try:
            os.write(held, b"x")
            os.fsync(held)
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.assertTrue(is_mounted(self.mnt))
            run(*self.command("ExecStopPost"), env=self.env())
            self.assertFalse(is_mounted(self.mnt))
            self.manager.close()
            self.start(os.path.join(self.tmp, "notify-again"))
            self.words("READY=1")
            with open(os.path.join(self.mnt, "held"), "rb") as f:
                self.assertEqual(f.read(), b"x")
            self.stop()
        finally:
            with contextlib.suppress(OSError):  # its filesystem is gone
                os.close(held)

    def test_what_is_mounted_there_otherwise_stays(self):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.mnt], check=True)
        subprocess.run(self.command("ExecStopPost"), env=self.env(), check=True)
        self.assertTrue(is_mounted(self.mnt))

    def test_what_is_mounted_over_a_dead_volume_stays(self):
        self.start(os.path.join(self.tmp, "notify"))
        self.words("READY=1")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.mnt], check=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        subprocess.run(self.command("ExecStopPost"), env=self.env(), check=True)
        types = run("findmnt", "-rno", "FSTYPE", "--mountpoint", self.mnt).stdout.split()
        self.assertEqual(types, ["fuse.clawfs", "tmpfs"])
        subprocess.run(["umount", self.mnt], check=True)
        subprocess.run(self.command("ExecStopPost"), env=self.env(), check=True)
        self.assertFalse(is_mounted(self.mnt))

    def test_stopping_a_busy_volume_names_who_is_in_the_way(self):
        self.start(os.path.join(self.tmp, "notify"))
        self.words("READY=1")
        with open(os.path.join(self.mnt, "held"), "wb"):
            r = run(*self.command("ExecStop"), env=self.env(), check=EXIT_FAILURE)
            self.assertIn("process %d " % os.getpid(), r.stderr)
            self.process.send_signal(signal.SIGTERM)  # what systemd does next
            self.assertEqual(self.process.wait(60), EXIT_OK)
        self.process = None
        self.assertFalse(is_mounted(self.mnt))


if __name__ == "__main__":
    unittest.main(verbosity=2)
