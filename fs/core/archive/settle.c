/*
 * settle.c: the end of a mount: what is durable and still waits for others to share its object goes to the archive's store, for
 * as long as the caller is ready to wait.  What does not get there is in the journal, and is archived by the next mount.
 */
#include <errno.h>

#include "fs/core/archive/impl.h"

struct settling {
	struct journal_waiter w;
	struct mutex lock;
	struct cond told;
	/* guarded by lock */
	bool done;
	int result;
};

static void settled(struct journal_waiter *w, int result)
{
	struct settling *s = container_of(w, struct settling, w);

	mutex_lock(&s->lock);
	s->result = result;
	s->done = true;
	cond_broadcast(&s->told);
	mutex_unlock(&s->lock);
}

/* Out of the list: false when somebody is about to answer it, or has. */
static bool forget(struct archiver *a, const struct journal_waiter *w)
{
	struct archive_waiter *found = NULL;

	mutex_lock(&a->lock);
	for (struct archive_waiter **at = &a->waiters; *at && !found; at = &(*at)->next)
		if ((*at)->w == w) {
			found = *at;
			*at = found->next;
			break;
		}
	mutex_unlock(&a->lock);
	free(found);
	return found != NULL;
}

static int wait_for(struct fs *fs, struct settling *s, int64_t wait_ns) EXCLUDES(s->lock)
{
	int64_t end_ns = clock_mono_ns(fs->clock) + wait_ns, left_ns = wait_ns;

	mutex_lock(&s->lock);
	while (!s->done && left_ns > 0) {
		cond_wait_ns(&s->told, &s->lock, left_ns);
		left_ns = end_ns - clock_mono_ns(fs->clock);
	}
	bool late = !s->done;
	mutex_unlock(&s->lock);
	late = late && forget(fs->archiver, &s->w);
	mutex_lock(&s->lock);
	while (!late && !s->done)
		cond_wait(&s->told, &s->lock);
	int r = late ? -ETIMEDOUT : s->result;
	mutex_unlock(&s->lock);
	return r;
}

static bool has_policy(struct fs *fs)
{
	char text[FS_POLICY_MAX + 1];

	return fs_get_policy(fs, FS_ROOT_INO, "archive", false, text) == 0;
}

int fs_archive_settle(struct fs *fs, int64_t wait_ns, uint64_t *ret_behind)
{
	struct archiver *a = fs->archiver;
	struct settling s = {.w.done = settled};
	struct journal_status js;

	*ret_behind = 0;
	if (!a->started || !fs_takes_changes(fs) || !has_policy(fs))
		return 0;
	int r = -ETIMEDOUT;
	if (wait_ns > 0) {
		mutex_init(&s.lock);
		cond_init(&s.told);
		fs_archive_now(fs, &s.w);
		r = wait_for(fs, &s, wait_ns);
		cond_destroy(&s.told);
		mutex_destroy(&s.lock);
	}
	journal_get_status(fs->journal, &js);
	mutex_lock(&a->lock);
	*ret_behind = js.durable_seq - min_u64(js.durable_seq, a->view.archived_seq);
	mutex_unlock(&a->lock);
	return *ret_behind ? r : 0;
}
