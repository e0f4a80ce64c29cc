/*
 * options.h: the table of options.c, for what is parsed and what is said of it.
 *
 * Threads: any; it is constant.
 */
#pragma once

#include "fs/cli/cli.h"

enum kind {
	KIND_FLAG,
	KIND_TEXT,
	KIND_NAME,    /* of a node */
	KIND_ADDRESS, /* host:port */
	KIND_CHOICE,  /* a word of `arg`, with | between them */
	KIND_SIZE,
	KIND_SECONDS,
	KIND_COUNT,
	KIND_KEEP, /* a size or, in days, an age, for which there is a member of its own */
	KIND_LIST,
	KIND_IGNORED,
	KIND_IGNORED_VALUE
};

struct option_row {
	uint64_t verbs;
	const char *name; /* words separated by -, in -o by _ */
	char letter;
	enum kind kind;
	size_t offset;   /* of the value in struct args: bool, const char * or uint64_t by kind */
	const char *arg; /* what --help calls the value */
	uint64_t min, max;
	const char *help;
};
extern const struct option_row option_rows[];
extern const size_t n_option_rows;

/* Words of -o that mean what clawfs does anyway, or that mount(8) and systemd keep for themselves. */
extern const char *const ignored_words[];
extern const size_t n_ignored_words;
