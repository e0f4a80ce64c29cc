/*
 * failure.c: the sticky failure, after which a volume changes no more, and damage that was met.
 *
 * The first failure counts; whoever waits for something that cannot come any more is told.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/core.h"

void fs_fail(struct fs *fs, int error, const char *fmt, ...)
{
	char what[192];
	va_list ap;
	int none = 0;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	if (!atomic_compare_exchange_strong(&fs->failed, &none, error))
		return;
	mutex_lock(&fs->failure_lock);
	snprintf(fs->failure, sizeof(fs->failure), "%s: %s", what, strerror(-error));
	mutex_unlock(&fs->failure_lock);
	durability_failed(fs);
	positions_reached(fs);
	log_error("the volume is read-only now: %s: %s; what was synced is safe: check the store, then mount again", what,
		  strerror(-error));
}

void fs_failure(struct fs *fs, char *ret_text, size_t cap)
{
	mutex_lock(&fs->failure_lock);
	snprintf(ret_text, cap, "%s", fs->failure);
	mutex_unlock(&fs->failure_lock);
}

int fs_damaged(struct fs *fs, uint64_t ino, uint64_t off, const char *what)
{
	char path[256], line[sizeof(fs->damage)];

	fs_path(fs, ino, path, sizeof(path));
	snprintf(line, sizeof(line), "%s at byte %llu of %s (inode %llu)", what, (unsigned long long)off, path,
		 (unsigned long long)ino);
	atomic_fetch_add(&fs->damaged_reads, 1);
	mutex_lock(&fs->failure_lock);
	bool repeated = strcmp(fs->damage, line) == 0;
	memcpy(fs->damage, line, sizeof(fs->damage));
	mutex_unlock(&fs->failure_lock);
	if (!repeated)
		log_error("damaged: %s", line);
	return -EBADMSG;
}
