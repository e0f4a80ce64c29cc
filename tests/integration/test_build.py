"""A C project configured and built inside the mount: clawfs itself, from a copy of this tree; then it must run."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import clawfs_env  # noqa: E402
from programs import ProgramTest, main, run  # noqa: E402

MAKEFILE = """OBJS := $(patsubst %,o/m%.o,$(shell seq 1 150))
prog: $(OBJS) o/main.o
\tcc -o $@ $^
o/%.o: %.c all.h | o
\tcc -O0 -c -o $@ $<
o:
\tmkdir -p o
"""


class Build(ProgramTest):
    def test_clawfs_builds_inside_a_mount_and_runs(self):
        place = self.place()
        source = place + "/source"
        os.mkdir(source)
        for name in ("base", "journal", "replicate", "tier", "packaging", "fs", "docs", "meson.build", "meson_options.txt"):
            if os.path.exists(os.path.join(clawfs_env.ROOT, name)):
                run("cp", "-a", os.path.join(clawfs_env.ROOT, name), source)
        run("meson", "setup", "-Dtests=false", "--buildtype=plain", "build", cwd=source)
        run("ninja", "-C", "build", cwd=source, timeout=900)
        self.assertEqual(run("ninja", "-C", "build", "-n", cwd=source).stdout.splitlines()[-1], "ninja: no work to do.")
        self.assertIn("format", run(source + "/build/fs/cli/clawfs", "--help").stdout)
        self.finish()

    def test_make_sees_what_is_newer(self):
        place = self.place()
        for i in range(1, 151):
            with open("%s/m%d.c" % (place, i), "w", encoding="ascii") as f:
                f.write('#include "all.h"\nint f%d(void) { return %d; }\n' % (i, i))
        with open(place + "/all.h", "w", encoding="ascii") as f:
            f.write("".join("int f%d(void);\n" % i for i in range(1, 151)))
        with open(place + "/main.c", "w", encoding="ascii") as f:
            f.write('#include "all.h"\nint main(void) { return (%s) != 11325; }\n' % " + ".join("f%d()" % i for i in range(1, 151)))
        with open(place + "/Makefile", "w", encoding="ascii") as f:
            f.write(MAKEFILE)
        run("make", "-j2", cwd=place)
        run(place + "/prog")
        self.assertIn("up to date", run("make", cwd=place).stdout)
        with open(place + "/m7.c", "a", encoding="ascii") as f:
            f.write("/* changed */\n")
        self.assertEqual(run("make", cwd=place).stdout.count("-O0"), 1)
        self.finish()


if __name__ == "__main__":
    main()
