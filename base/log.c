/* log.c: one line a message, to stderr with the level's name, or to syslog. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>

#include "base/lock.h"
#include "base/printable.h"

static struct {
	enum log_level level;
	bool to_syslog;
	struct mutex lock;
	char last_error[512]; /* guarded by lock */
} state = {.level = LOG_LEVEL_INFO, .lock = {PTHREAD_MUTEX_INITIALIZER}};

void log_setup(enum log_level level, bool to_syslog)
{
	state.level = level;
	state.to_syslog = to_syslog;
	if (to_syslog)
		openlog("clawfs", LOG_PID, LOG_DAEMON);
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	static const int priorities[] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};
	char line[1024];
	va_list ap;

	if (level > state.level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	make_printable(line); /* it may name a file, and whoever made that chose the name */
	if (level == LOG_LEVEL_ERROR) {
		mutex_lock(&state.lock);
		snprintf(state.last_error, sizeof(state.last_error), "%.511s", line);
		make_printable(state.last_error); /* a character may be cut off */
		mutex_unlock(&state.lock);
	}
	if (state.to_syslog)
		syslog(priorities[level], "%s", line);
	else
		fprintf(stderr, "clawfs: %s: %s\n", names[level], line);
}

void log_last_error(char *ret_text, size_t cap)
{
	mutex_lock(&state.lock);
	snprintf(ret_text, cap, "%s", state.last_error);
	mutex_unlock(&state.lock);
}
