/*
 * read.c: the leaves of a file and their data, on their way into packs.
 *
 * A chunk is read under the file's stripe, held shared, 1 MiB at most; what is cold of it is fetched.  While one chunk is packed,
 * a thread reads the next one, so that disk and processor work at the same time: packing is what a fast store waits for.  Small
 * files have one chunk, which is read by who asks for it.
 *
 * The thread starts with the first chunk that is asked for ahead; without it chunk_next() reads.
 */
#include <errno.h>
#include <stdlib.h>

#include "fs/core/tier/ageing/impl.h"

#define MISSES_MAX 64u /* recalls for one read: each brings what the one before did not */

struct reader {
	struct fs *fs;
	struct chunk chunk[2];
	unsigned now; /* the packer has this one; the other is read meanwhile */
	bool threads;
	bool started;
	pthread_t thread;
	struct mutex lock;
	struct cond asked, done;
	/* guarded by lock */
	enum { READER_IDLE, READER_ASKED, READER_DONE } state;
	bool stop;
	uint64_t ino, leaf;
	int result;
};

/* ---- a chunk ---- */

static int add_leaf(void *ctx, uint64_t leaf, const struct leaf *l)
{
	struct chunk *c = ctx;

	c->leaf[c->n] = leaf;
	c->l[c->n] = *l;
	c->wanted[c->n] = leaf_data(l) & (uint16_t)~leaf_tiered(l);
	return ++c->n == FILL_LEAVES;
}

/* Runs of wanted leaves, each with one read. */
static int read_wanted(struct fs *fs, uint64_t ino, const struct chunk *c)
{
	int r = 0;

	for (unsigned i = 0, run; r == 0 && i < c->n; i += run) {
		for (run = 0; i + run < c->n && c->wanted[i + run] && c->leaf[i + run] == c->leaf[i] + run; run++)
			;
		if (run)
			r = extent_read(fs, ino, c->leaf[i] * LEAF_SLOTS, run * LEAF_SLOTS, c->data + (size_t)i * LEAF_BYTES);
		else
			run = 1;
	}
	return r;
}

static int read_chunk(struct fs *fs, uint64_t ino, uint64_t from, struct chunk *c)
{
	struct inode *in;
	int r = icache_rdlock_get(fs->icache, ino, &in);

	c->n = 0;
	if (r < 0)
		return r;
	r = in->nlink ? extent_each(fs, in, from, add_leaf, c) : -ENOENT;
	if (r >= 0)
		r = read_wanted(fs, ino, c);
	icache_rdunlock(fs->icache, ino);
	return r;
}

/* The same, with what is cold fetched. */
static int read_all_of_chunk(struct fs *fs, uint64_t ino, uint64_t from, struct chunk *c)
{
	int r = read_chunk(fs, ino, from, c);

	for (unsigned i = 0; r == -EINPROGRESS && i < MISSES_MAX; i++) {
		struct tier_miss m = tier_take_miss();

		r = m.n_leaves ? recall_leaves(fs, m.ino, m.leaf, m.n_leaves, OBJECT_BACKGROUND) : m.n_bad ? -EBADMSG : -EIO;
		if (r == 0)
			r = read_chunk(fs, ino, from, c);
	}
	return r == -EINPROGRESS ? -EIO : r;
}

/* ---- the thread ---- */

static void *reader_main(void *arg)
{
	struct reader *rd = arg;

	pthread_setname_np(pthread_self(), "tier-read");
	mutex_lock(&rd->lock);
	while (!rd->stop) {
		if (rd->state != READER_ASKED) {
			cond_wait(&rd->asked, &rd->lock);
			continue;
		}
		uint64_t ino = rd->ino, leaf = rd->leaf;

		mutex_unlock(&rd->lock);
		int r = read_all_of_chunk(rd->fs, ino, leaf, &rd->chunk[!rd->now]);
		mutex_lock(&rd->lock);
		rd->result = r;
		rd->state = READER_DONE;
		cond_signal(&rd->done);
	}
	mutex_unlock(&rd->lock);
	return NULL;
}

int chunk_first(struct reader *rd, uint64_t ino, struct chunk **ret)
{
	*ret = &rd->chunk[rd->now];
	return read_all_of_chunk(rd->fs, ino, 0, *ret);
}

void chunk_ask(struct reader *rd, uint64_t ino, uint64_t leaf)
{
	if (rd->threads && !rd->started)
		rd->started = pthread_create(&rd->thread, NULL, reader_main, rd) == 0;
	mutex_lock(&rd->lock);
	rd->ino = ino;
	rd->leaf = leaf;
	rd->state = READER_ASKED;
	cond_signal(&rd->asked);
	mutex_unlock(&rd->lock);
}

int chunk_next(struct reader *rd, struct chunk **ret)
{
	mutex_lock(&rd->lock);
	if (!rd->started) {
		uint64_t ino = rd->ino, leaf = rd->leaf;

		mutex_unlock(&rd->lock);
		int e = read_all_of_chunk(rd->fs, ino, leaf, &rd->chunk[!rd->now]);
		mutex_lock(&rd->lock);
		rd->result = e;
		rd->state = READER_DONE;
	}
	while (rd->state != READER_DONE)
		cond_wait(&rd->done, &rd->lock);
	rd->state = READER_IDLE;
	int r = rd->result;
	mutex_unlock(&rd->lock);
	rd->now = !rd->now;
	*ret = &rd->chunk[rd->now];
	return r;
}

/* ---- life ---- */

int reader_new(struct fs *fs, bool threads, struct reader **ret)
{
	struct reader *rd = calloc(1, sizeof(*rd));
	void *data[2] = {NULL, NULL};

	for (unsigned i = 0; rd && i < ARRAY_SIZE(data); i++)
		if (posix_memalign(&data[i], DISK_BLOCK, FILL_LEAVES * LEAF_BYTES)) {
			free(data[0]);
			free(rd);
			rd = NULL;
		}
	if (!rd)
		return -ENOMEM;
	rd->fs = fs;
	rd->threads = threads;
	mutex_init(&rd->lock);
	cond_init(&rd->asked);
	cond_init(&rd->done);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		rd->chunk[i].data = data[i];
	*ret = rd;
	return 0;
}

struct reader *reader_free(struct reader *rd)
{
	if (!rd)
		return NULL;
	mutex_lock(&rd->lock);
	rd->stop = true;
	cond_signal(&rd->asked);
	mutex_unlock(&rd->lock);
	if (rd->started)
		pthread_join(rd->thread, NULL);
	cond_destroy(&rd->done);
	cond_destroy(&rd->asked);
	mutex_destroy(&rd->lock);
	for (unsigned i = 0; i < ARRAY_SIZE(rd->chunk); i++)
		free(rd->chunk[i].data);
	free(rd);
	return NULL;
}
