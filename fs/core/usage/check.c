/*
 * check.c: for fsck: what directories say is below them, against what is.
 *
 * A directory's totals are those of the files that count in it, and of the directories in it with their totals.  When that holds
 * for each, all are right; so no directory has to be remembered while the walk goes on.  The newest change must not be older
 * than anything there is; it may be newer, of something that is gone.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fs/core/usage/usage_impl.h"

void usage_check_begin(struct usage_check *c, const struct inode *dir)
{
	*c = (struct usage_check){.ino = dir->ino, .ctime_ns = dir->ctime_ns};
}

static void add_dir(struct fs *fs, struct usage_check *c, const struct inode *child)
{
	struct usage_sum sum;
	uint64_t parent;

	if (usage_row_get(fs->kv, child->ino, &sum, &parent) < 0 || parent != c->ino) {
		c->wrong = "a directory in it has no total, or is counted elsewhere";
		return;
	}
	c->bytes += sum.bytes;
	c->files += sum.files;
	c->subdirs += sum.subdirs + 1;
	c->ctime_ns = c->ctime_ns > sum.ctime_ns ? c->ctime_ns : sum.ctime_ns;
}

void usage_check_entry(struct fs *fs, struct usage_check *c, const struct inode *child, uint64_t cookie)
{
	bool primary = child->parent == c->ino && child->cookie == cookie, have = true;

	if (S_ISDIR(child->mode)) {
		add_dir(fs, c, child);
		return;
	}
	if (child->nlink == 1 && !primary)
		c->wrong = "a file in it says that its name is elsewhere";
	if (child->nlink > 1 && (names_have(fs, child->ino, c->ino, cookie, &have) < 0 || !have))
		c->wrong = "a name in it is not known to its file";
	if (!primary)
		return;
	c->bytes += (int64_t)child->size;
	c->files++;
	c->ctime_ns = c->ctime_ns > child->ctime_ns ? c->ctime_ns : child->ctime_ns;
}

void usage_check_end(struct fs *fs, struct usage_check *c)
{
	struct usage_sum sum;
	uint64_t parent;

	if (c->wrong)
		return;
	if (usage_row_get(fs->kv, c->ino, &sum, &parent) < 0)
		c->wrong = "it has no total";
	else if (sum.bytes != c->bytes)
		c->wrong = "its total of bytes is wrong";
	else if (sum.files != c->files || sum.subdirs != c->subdirs)
		c->wrong = "its total of files and directories is wrong";
	else if (sum.ctime_ns < c->ctime_ns)
		c->wrong = "something in it is newer than its newest change";
}

const char *usage_check_names(struct fs *fs, const struct inode *in)
{
	bool have = false;
	uint64_t n;

	if (S_ISDIR(in->mode))
		return NULL;
	if (names_count(fs, in->ino, &n) < 0 || n != (in->nlink > 1 ? in->nlink : 0))
		return "the rows of its names are not as many as its names";
	if (n > 0 && (names_have(fs, in->ino, in->parent, in->cookie, &have) < 0 || !have))
		return "its primary name is none of its names";
	return NULL;
}
