/* log.c: one line a message, to stderr with the level's name and the journal's mark, or to syslog. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

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

/* Asked for each line: stderr may have become a file since the last one. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;
	char end;

	return stream && sscanf(stream, "%20llu:%20llu%c", &device, &inode, &end) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       device == st.st_dev && inode == st.st_ino;
}

const char *log_mark(enum log_level level)
{
	static const char *const marks[] = {"<3>", "<4>", "<6>", "<7>"}; /* LOG_ERR to LOG_DEBUG */

	return stderr_is_journal() ? marks[level] : "";
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
		fprintf(stderr, "%sclawfs: %s: %s\n", log_mark(level), names[level], line);
}

void log_last_error(char *ret_text, size_t cap)
{
	mutex_lock(&state.lock);
	snprintf(ret_text, cap, "%s", state.last_error);
	mutex_unlock(&state.lock);
}
