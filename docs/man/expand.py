#!/usr/bin/env python3
"""expand.py CLAWFS TEMPLATE: the source of a man page, with what the program says of itself in place of its marks.

A line of a template that is one of these marks becomes text made from `clawfs help --table`:

    @VERBS@      each verb, how it is called, what it does, its options
    @WORDS@      each mount option, as a word of -o
    @IGNORED@    the words of -o that are ignored
    @HELPER@     the options of mount.clawfs

@VERSION@ anywhere is the version.  The output is for scdoc.
"""

import re
import subprocess
import sys


def rows(clawfs):
    """{kind: [fields]} of the table, newlines restored."""
    text = subprocess.run([clawfs, "help", "--table"], stdout=subprocess.PIPE, check=True, text=True).stdout
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split("\t")
        found.setdefault(kind, []).append([f.replace("\\n", "\n") for f in fields])
    return found


def plain(text):
    """Text in which nothing means anything to scdoc."""
    return re.sub(r"([^\w\s])", r"\\\1", text).replace("_", r"\_")


def sentence(text):
    text = text[:1].upper() + text[1:]
    return plain(text if text.endswith(".") else text + ".")


def usage(operands):
    """What is to be replaced is underlined, alternatives together."""
    return re.sub(r"[A-Z|]+", lambda m: "_%s_" % plain(m[0]), operands)


def value(name):
    return "=_%s_" % plain(name) if name else ""


def option(fields, indent):
    _, name, letter, arg, text = fields
    names = ("*-%s*, " % letter if letter else "") + "*--%s*%s" % (name, value(arg))
    return "%s%s\n%s\t%s\n" % (indent, names, indent, sentence(text))


def verbs(table):
    out = []
    for name, operands, summary, details in table["verb"]:
        if name == "mount.clawfs":
            continue
        out.append("*clawfs %s* [_OPTIONS_] %s\n\t%s\n" % (name, usage(operands), sentence(summary)))
        if details:
            out.append("\t%s\n" % plain(" ".join(details.split())))
        out += [option(f, "\t") for f in table["option"] if f[0] == name and f[1] != "help"]
    return "\n".join(out)


def words(table):
    return "\n".join("*%s*%s\n\t%s\n" % (plain(name), value(arg), sentence(text)) for name, arg, text in table["word"])


def ignored(table):
    return " ".join("*%s*" % plain(f[0]) for f in table["ignored"])


def helper(table):
    return "\n".join(option(f, "") for f in table["option"] if f[0] == "mount.clawfs" and f[1] != "help")


def main():
    clawfs, template = sys.argv[1:]
    version = subprocess.run([clawfs, "--version"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()[1]
    marks = {"@VERBS@": verbs, "@WORDS@": words, "@IGNORED@": ignored, "@HELPER@": helper}
    table = rows(clawfs)
    with open(template, encoding="utf-8") as f:
        for line in f.read().replace("@VERSION@", version).splitlines():
            print(marks[line](table).rstrip("\n") if line in marks else line)


main()
