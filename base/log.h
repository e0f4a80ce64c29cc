/*
 * log.h: messages for an admin, one line each and printable (printable.h), to stderr or syslog.
 *
 * Where stderr is a stream of the systemd journal, each line begins with its priority, as sd-daemon(3) has it, so that
 * `journalctl -p err` finds the errors.
 *
 * The layer that knows inode, seq, segment or object logs, once; lower layers return -errno.
 * Threads: any.  Errors: none; a line that cannot be written is dropped.
 */
#pragma once

#include "base/util.h"

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines above `level` are dropped; with to_syslog they go to syslog(3) instead of stderr. */
void log_setup(enum log_level level, bool to_syslog);
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/*
 * What a line of that level on stderr has to begin with: "<3>" and the like where it goes to the journal, else nothing.  That is
 * so when $JOURNAL_STREAM has device and inode of stderr (systemd.exec(5)); a program started by a service with its output
 * elsewhere has the variable, too.  Static.
 */
const char *log_mark(enum log_level level);
/* The last error line (empty when none), for status. */
void log_last_error(char *ret_text, size_t cap);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
