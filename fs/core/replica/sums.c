/*
 * sums.c: what each batch left in the inodes it names, so that two nodes can tell whether they still are the same.
 *
 * After a record was applied, the inodes it names are hashed as they are now, under their stripes, and the hashes of a
 * batch's records are added up.  Records that share an inode are applied in the order of the journal, everywhere; the others may
 * be applied in any order, and a sum does not see it.  So the sum of a batch is the same on every node that was the same before
 * it.
 *
 * What a node may have alone is left out: the times of an inode without a name, which the kernel may set without a record.
 *
 * Sums are kept for as many batches as a follower's answer can be late, in a ring.  A record of a batch that the ring has
 * passed is dropped: that batch has no sum, rather than another one a wrong sum.
 */
#include <errno.h>
#include <xxhash.h>

#include "fs/core/core.h"

#define N_BATCHES   4096u
#define INODE_WORDS 12u

struct batch_sum {
	uint64_t seq, sum;
	uint32_t n_added, n_records; /* n_records 0: not known yet */
};
struct state_sums {
	struct mutex lock;
	/* guarded by lock */
	uint64_t after;                    /* older batches have no sums */
	struct batch_sum batch[N_BATCHES]; /* batch seq at seq % N_BATCHES */
};

int sums_new(struct state_sums **ret)
{
	struct state_sums *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	*ret = s;
	return 0;
}

struct state_sums *sums_free(struct state_sums *s)
{
	if (!s)
		return NULL;
	mutex_destroy(&s->lock);
	free(s);
	return NULL;
}

void sums_begin_after(struct fs *fs, uint64_t seq)
{
	struct state_sums *s = fs->sums;

	mutex_lock(&s->lock);
	s->after = seq;
	for (unsigned i = 0; i < N_BATCHES; i++)
		s->batch[i] = (struct batch_sum){0};
	mutex_unlock(&s->lock);
}

/* The batch's place, taken over from an older one; NULL when a newer one has it, or it is too old. */
static struct batch_sum *place(struct state_sums *s, uint64_t seq) REQUIRES(s->lock)
{
	struct batch_sum *b = &s->batch[seq % N_BATCHES];

	if (seq <= s->after)
		return NULL;
	if (b->seq < seq)
		*b = (struct batch_sum){.seq = seq};
	return b->seq == seq ? b : NULL;
}

/* An inode as words; one that is gone is its number alone. */
static uint32_t put_inode(const struct inode *in, uint64_t *to)
{
	bool named = in->nlink > 0;
	const uint64_t words[INODE_WORDS] = {(uint64_t)in->mode << 32 | in->nlink,
					     (uint64_t)in->uid << 32 | in->gid,
					     in->n_xattr,
					     in->size,
					     in->blocks,
					     named ? (uint64_t)in->atime_ns : 0,
					     named ? (uint64_t)in->mtime_ns : 0,
					     named ? (uint64_t)in->ctime_ns : 0,
					     (uint64_t)in->btime_ns,
					     in->rdev,
					     in->parent ^ in->cookie << 20,
					     in->next_cookie};

	for (unsigned i = 0; i < INODE_WORDS; i++)
		to[i] = words[i];
	return INODE_WORDS;
}

static bool removes_its_inode(const struct record *r)
{
	return r->type == RECORD_REAP && r->reap.from_leaf == 0;
}

static uint64_t hash_record(struct fs *fs, const struct record *r)
{
	uint64_t words[1 + RECORD_INODES_MAX * (1 + INODE_WORDS)], inos[RECORD_INODES_MAX];
	uint32_t n_inos = record_inodes(r, inos), n = 0;

	words[n++] = r->type;
	for (uint32_t i = 0; i < n_inos; i++) {
		struct inode *in;

		words[n++] = inos[i];
		if (!removes_its_inode(r) && icache_get(fs->icache, inos[i], &in) == 0)
			n += put_inode(in, words + n);
	}
	return XXH64(words, n * sizeof(*words), 0);
}

void sums_add(struct fs *fs, uint64_t seq, const struct record *r)
{
	struct state_sums *s = fs->sums;
	uint64_t hash = hash_record(fs, r);

	mutex_lock(&s->lock);
	struct batch_sum *b = place(s, seq);
	if (b) {
		b->sum += hash;
		b->n_added++;
	}
	mutex_unlock(&s->lock);
}

void sums_expect(struct fs *fs, uint64_t seq, uint32_t n_records)
{
	struct state_sums *s = fs->sums;

	mutex_lock(&s->lock);
	struct batch_sum *b = place(s, seq);
	if (b)
		b->n_records = n_records;
	mutex_unlock(&s->lock);
}

void sums_restart(struct fs *fs, uint64_t seq, uint32_t n_records)
{
	struct state_sums *s = fs->sums;

	mutex_lock(&s->lock);
	s->batch[seq % N_BATCHES] = (struct batch_sum){.seq = seq, .n_records = n_records};
	s->after = min_u64(s->after, seq - 1);
	mutex_unlock(&s->lock);
}

int sums_get(struct fs *fs, uint64_t seq, uint64_t *ret_sum)
{
	struct state_sums *s = fs->sums;

	mutex_lock(&s->lock);
	const struct batch_sum *b = &s->batch[seq % N_BATCHES];
	int r = b->seq != seq || b->n_records == 0 ? -ENOENT : b->n_added < b->n_records ? -EAGAIN : 0;
	*ret_sum = b->sum;
	mutex_unlock(&s->lock);
	return r;
}
