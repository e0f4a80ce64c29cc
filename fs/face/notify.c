/*
 * notify.c: tells the kernel of a follower's mount what changed, so that its caches are ended and not outlived.
 *
 * The volume calls watch() for each change it applied.  Changes to what the kernel does not know are dropped at once; the others
 * wait in one of two lanes, each with a thread that holds no lock while it tells the kernel:
 *
 *     inodes   attributes and ranges of data.  The kernel waits for reads of those pages that are under way, which workers
 *              answer without waiting for anything here.
 *     entries  names.  The kernel takes the directory's lock, which any program may hold for long: setting an attribute of the
 *              root, clawfs.wait say, holds it until that is answered.  So this lane must not hold up the other one.
 *
 * Changes to the same inode, or the same name, that wait are one.  A full lane of inodes makes the volume wait, which no request
 * depends on.  A full lane of names, or no memory, gives up telling single changes and ends everything instead: all inodes known,
 * or all names at once (FUSE_NOTIFY_INC_EPOCH, Linux 6.16; before that names end by their timeout, a second).
 *
 * An answer that promises what is visible (clawfs.pos, clawfs.wait) goes through the lanes behind the changes it promises.  That
 * of clawfs.wait must not wait for the lane of names, which may wait for that very request: it ends all names instead.
 */
#include "fs/face/face_internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "base/lock.h"
#include "base/log.h"

#define LANE_NOTICES_MAX 4096u
#define LANE_BUCKETS     4096u
#define TO_THE_END       UINT64_MAX
#define NO_DATA          UINT64_MAX /* as `off`: attributes only */
#define NOTIFY_INC_EPOCH 8          /* FUSE_NOTIFY_INC_EPOCH, younger than some <linux/fuse.h> */

struct notice {
	struct notice *next, *next_in_bucket;
	uint64_t ino, off, end;
	fuse_req_t req; /* not NULL: no change, but a request to answer with `text` */
	size_t len;
	char text[]; /* terminated: a name in directory `ino`; empty for the inode itself */
};

struct lane {
	struct notifier *notifier;
	void (*tell)(struct notifier *n, struct notice *what); /* takes it */
	void (*tell_all)(struct notifier *n);
	bool waits; /* when full; else tells all */
	pthread_t thread;
	bool started;
	struct mutex lock;
	struct cond wake, room;
	/* guarded by lock */
	struct notice *first, **last;
	struct notice *bucket[LANE_BUCKETS];
	uint32_t n;
	bool all; /* tell_all() is due, before what is queued */
	bool stop;
};

struct notifier {
	struct face *face;
	struct lane inodes, entries;
};

static struct notice **bucket_of(struct lane *l, uint64_t ino, const void *name, size_t len) REQUIRES(l->lock)
{
	uint64_t h = ino * UINT64_C(0x9e3779b97f4a7c15);

	for (size_t i = 0; i < len; i++)
		h = (h ^ ((const uint8_t *)name)[i]) * UINT64_C(0x100000001b3);
	return &l->bucket[(h >> 32) % LANE_BUCKETS];
}

static struct notice *lane_find(struct lane *l, uint64_t ino, const void *name, size_t len) REQUIRES(l->lock)
{
	struct notice *k = *bucket_of(l, ino, name, len);

	while (k && (k->ino != ino || k->len != len || memcmp(k->text, name, len) != 0))
		k = k->next_in_bucket;
	return k;
}

static void lane_append(struct lane *l, struct notice *k) REQUIRES(l->lock)
{
	k->next = NULL;
	*l->last = k;
	l->last = &k->next;
	if (!k->req) {
		struct notice **bucket = bucket_of(l, k->ino, k->text, k->len);

		k->next_in_bucket = *bucket;
		*bucket = k;
		l->n++;
	}
	cond_signal(&l->wake);
}

static struct notice *lane_remove_first(struct lane *l) REQUIRES(l->lock)
{
	struct notice *k = l->first;

	l->first = k->next;
	if (!l->first)
		l->last = &l->first;
	if (!k->req) {
		struct notice **at = bucket_of(l, k->ino, k->text, k->len);

		while (*at != k)
			at = &(*at)->next_in_bucket;
		*at = k->next_in_bucket;
		l->n--;
		cond_signal(&l->room);
	}
	return k;
}

static struct notice *notice_new(uint64_t ino, const void *text, size_t len)
{
	struct notice *k = malloc(sizeof(*k) + len + 1);

	if (!k)
		return NULL;
	*k = (struct notice){.ino = ino, .len = len};
	if (len)
		memcpy(k->text, text, len);
	k->text[len] = '\0';
	return k;
}

static void lane_tell_all(struct lane *l)
{
	mutex_lock(&l->lock);
	l->all = true;
	cond_signal(&l->wake);
	mutex_unlock(&l->lock);
}

/* The range of both; NO_DATA is none. */
static void range_add(struct notice *k, uint64_t off, uint64_t end)
{
	if (off == NO_DATA)
		return;
	k->end = k->off == NO_DATA ? end : max_u64(k->end, end);
	k->off = min_u64(k->off, off);
}

static void lane_put_locked(struct lane *l, uint64_t ino, uint64_t off, uint64_t end, struct slice name) REQUIRES(l->lock)
{
	struct notice *k;

	while (!(k = lane_find(l, ino, name.p, name.len)) && l->n >= LANE_NOTICES_MAX && l->waits && !l->all && !l->stop)
		cond_wait(&l->room, &l->lock);
	if (l->all || l->stop)
		return; /* told with all the rest, or to nobody */
	if (k) {
		range_add(k, off, end);
		return;
	}
	k = l->n < LANE_NOTICES_MAX ? notice_new(ino, name.p, name.len) : NULL;
	if (!k) {
		l->all = true;
		cond_signal(&l->wake);
		return;
	}
	k->off = off;
	k->end = end;
	lane_append(l, k);
}

static void lane_put(struct lane *l, uint64_t ino, uint64_t off, uint64_t end, struct slice name)
{
	mutex_lock(&l->lock);
	lane_put_locked(l, ino, off, end, name);
	mutex_unlock(&l->lock);
}

/* For fs_set_watcher(). */
static void watch(void *ctx, const struct fs_change *c)
{
	const struct slice none = {"", 0};
	struct notifier *n = ctx;

	if (c->kind == CHANGE_SOON)
		return;
	if (c->kind == CHANGE_ALL) {
		lane_tell_all(&n->inodes);
		lane_tell_all(&n->entries);
		return;
	}
	if (!fs_is_known(n->face->fs, c->ino))
		return;
	if (c->kind == CHANGE_DATA)
		lane_put(&n->inodes, c->ino, c->off, c->len ? c->off + c->len : TO_THE_END, none);
	else
		lane_put(&n->inodes, c->ino, NO_DATA, 0, none);
	if (c->kind == CHANGE_ENTRY)
		lane_put(&n->entries, c->ino, NO_DATA, 0, c->name);
}

/* -ENOENT: the kernel dropped it by itself, or has not seen the reply that names it yet; then it learns the new state. */
static void inode_ended(struct face *f, uint64_t ino, off_t off, off_t len)
{
	int r = fuse_lowlevel_notify_inval_inode(f->session, ino, off, len);

	if (r < 0 && r != -ENOENT)
		log_debug("inode %llu: telling the kernel of a change: %s", (unsigned long long)ino, strerror(-r));
}

static void one_inode_ended(void *ctx, uint64_t ino)
{
	inode_ended(ctx, ino, 0, 0);
}

void kernel_end_inodes(struct face *f)
{
	int r = fs_known_each(f->fs, one_inode_ended, f);

	if (r < 0)
		log_warn("telling the kernel that everything changed: %s; it may show old data for a while", strerror(-r));
}

int kernel_end_names(struct face *f)
{
	const struct fuse_out_header epoch = {.len = sizeof(epoch), .error = NOTIFY_INC_EPOCH};

	return write(f->fd, &epoch, sizeof(epoch)) < 0 ? -errno : 0;
}

static void tell_all_inodes(struct notifier *n)
{
	kernel_end_inodes(n->face);
}

static void tell_all_entries(struct notifier *n)
{
	int r = kernel_end_names(n->face);

	(void)r; /* an older kernel: names end by their timeout */
}

static void answer(struct notice *k)
{
	if (k->len)
		reply_bytes(k->req, 0, k->text, k->len);
	else
		reply_err(k->req, 0);
	free(k);
}

static void tell_inode(struct notifier *n, struct notice *k)
{
	if (k->req && k->len) {
		mutex_lock(&n->entries.lock);
		lane_append(&n->entries, k);
		mutex_unlock(&n->entries.lock);
	} else if (k->req) {
		tell_all_entries(n);
		answer(k);
	} else {
		bool data = k->off != NO_DATA;

		inode_ended(n->face, k->ino, data ? (off_t)k->off : -1,
			    data && k->end != TO_THE_END ? (off_t)(k->end - k->off) : 0);
		free(k);
	}
}

static void tell_entry(struct notifier *n, struct notice *k)
{
	if (k->req) {
		answer(k);
		return;
	}
	int r = fuse_lowlevel_notify_inval_entry(n->face->session, k->ino, k->text, k->len);

	if (r < 0 && r != -ENOENT && r != -ENOTDIR)
		log_debug("a name in inode %llu: telling the kernel of a change: %s", (unsigned long long)k->ino, strerror(-r));
	free(k);
}

/* What is next: all (*ret NULL), or one notice; false at the end, when no request waits for its answer any more. */
static bool lane_take(struct lane *l, struct notice **ret)
{
	mutex_lock(&l->lock);
	while (!l->all && !l->first && !l->stop)
		cond_wait(&l->wake, &l->lock);
	bool some = l->all || l->first;

	*ret = l->all || !l->first ? NULL : lane_remove_first(l);
	if (l->all)
		cond_broadcast(&l->room);
	l->all = false;
	mutex_unlock(&l->lock);
	return some;
}

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	struct notice *k;

	while (lane_take(l, &k)) {
		if (k)
			l->tell(l->notifier, k);
		else
			l->tell_all(l->notifier);
	}
	return NULL;
}

static void lane_init(struct lane *l)
{
	mutex_init(&l->lock);
	cond_init(&l->wake);
	cond_init(&l->room);
	l->last = &l->first;
}

static void lane_destroy(struct lane *l)
{
	cond_destroy(&l->room);
	cond_destroy(&l->wake);
	mutex_destroy(&l->lock);
}

static int lane_start(struct lane *l)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&l->thread, NULL, lane_main, l);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	l->started = r == 0;
	return -r;
}

/* From here on nobody waits for room; what is queued is still told. */
static void lane_close(struct lane *l)
{
	mutex_lock(&l->lock);
	l->stop = true;
	cond_broadcast(&l->room);
	cond_signal(&l->wake);
	mutex_unlock(&l->lock);
}

static void lane_join(struct lane *l)
{
	lane_close(l);
	if (l->started)
		pthread_join(l->thread, NULL);
	l->started = false;
}

int notifier_start(struct face *f, struct notifier **ret_notifier)
{
	struct notifier *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->face = f;
	n->inodes = (struct lane){.notifier = n, .tell = tell_inode, .tell_all = tell_all_inodes, .waits = true};
	n->entries = (struct lane){.notifier = n, .tell = tell_entry, .tell_all = tell_all_entries};
	lane_init(&n->inodes);
	lane_init(&n->entries);
	int r = lane_start(&n->inodes);
	if (r == 0)
		r = lane_start(&n->entries);
	if (r < 0) {
		lane_join(&n->inodes);
		notifier_free(n);
		return r;
	}
	fs_set_watcher(f->fs, watch, n);
	*ret_notifier = n;
	return 0;
}

void notifier_stop(struct notifier *n)
{
	lane_close(&n->inodes); /* a call of watch() that waits for room ends */
	fs_set_watcher(n->face->fs, NULL, NULL);
	lane_join(&n->inodes); /* it hands answers on to the other */
	lane_join(&n->entries);
}

struct notifier *notifier_free(struct notifier *n)
{
	if (!n)
		return NULL;
	lane_destroy(&n->inodes);
	lane_destroy(&n->entries);
	free(n);
	return NULL;
}

void notifier_answer(struct notifier *n, fuse_req_t req, const void *value, size_t len)
{
	struct notice *k = notice_new(0, value, len);

	if (!k) {
		reply_err(req, -ENOMEM);
		return;
	}
	k->req = req;
	mutex_lock(&n->inodes.lock);
	bool taken = !n->inodes.stop;
	if (taken)
		lane_append(&n->inodes, k);
	mutex_unlock(&n->inodes.lock);
	if (!taken)
		answer(k);
}
