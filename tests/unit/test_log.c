/* test_log.c: what a line on stderr begins with: the priority where systemd's journal reads it, and nothing anywhere else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static const enum log_level levels[] = {LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG};

/* stderr is a pipe while a line is written; its words come back. */
static void line_written(enum log_level level, const char *stream_fmt, char *ret_line, size_t cap)
{
	int fds[2], kept = dup(STDERR_FILENO);
	char stream[128];
	struct stat st;

	assert_true(kept >= 0 && pipe(fds) == 0 && dup2(fds[1], STDERR_FILENO) >= 0 && fstat(STDERR_FILENO, &st) == 0);
	unsetenv("JOURNAL_STREAM");
	if (stream_fmt) {
		snprintf(stream, sizeof(stream), stream_fmt, (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
		assert_int_equal(setenv("JOURNAL_STREAM", stream, 1), 0);
	}
	log_line(level, "words");
	fflush(stderr);
	assert_true(dup2(kept, STDERR_FILENO) >= 0);
	close(kept);
	close(fds[1]);
	ssize_t n = read(fds[0], ret_line, cap - 1);
	assert_true(n > 0);
	ret_line[n] = '\0';
	close(fds[0]);
}

static void the_journal_gets_the_priority(void **state)
{
	static const char *const wanted[] = {"<3>clawfs: error: words\n", "<4>clawfs: warning: words\n",
					     "<6>clawfs: info: words\n", "<7>clawfs: debug: words\n"};
	char line[256];

	(void)state;
	log_setup(LOG_LEVEL_DEBUG, false);
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		line_written(levels[i], "%llu:%llu", line, sizeof(line));
		assert_string_equal(line, wanted[i]);
	}
}

/* Another stream than stderr, and what is no stream at all. */
static void others_get_the_words_alone(void **state)
{
	static const char *const streams[] = {
	    NULL,         "",           ":",          "%llu",       "%llu:",     "%llu:%llu0",
	    "1%llu:%llu", "%llu:%llux", "%llu:%llu:", "x%llu:%llu", "%llu %llu", "99999999999999999999999%llu:%llu",
	};
	char line[256];

	(void)state;
	log_setup(LOG_LEVEL_DEBUG, false);
	for (size_t i = 0; i < ARRAY_SIZE(streams); i++) {
		line_written(LOG_LEVEL_ERROR, streams[i], line, sizeof(line));
		assert_string_equal(line, "clawfs: error: words\n");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_journal_gets_the_priority),
	    cmocka_unit_test(others_get_the_words_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
