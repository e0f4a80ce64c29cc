#!/usr/bin/env python3
"""embed.py OUT FILE...: C source with the bytes of each page.SUFFIX as page_SUFFIX[] and page_SUFFIX_len (page.h)."""

import sys

with open(sys.argv[1], "w", encoding="ascii") as out:
    out.write('#include "fs/metrics/page.h"\n')
    for path in sys.argv[2:]:
        name = "page_" + path.rsplit(".", 1)[1]
        with open(path, "rb") as f:
            data = f.read()
        out.write("const unsigned char %s[] = {\n" % name)
        for at in range(0, len(data), 24):
            out.write("".join("%d," % b for b in data[at:at + 24]) + "\n")
        out.write("};\nconst size_t %s_len = %d;\n" % (name, len(data)))
