/*
 * program.h: another program, run to its end.
 *
 * Threads: any.  Errors: -errno of the host; what the program says of its end is for the caller to judge.
 */
#pragma once

#include "base/util.h"

/* Runs argv[0], as PATH finds it, in this process's environment; *ret_status as of waitpid(2). */
MUST_CHECK int program_run(const char *const argv[], int *ret_status);
