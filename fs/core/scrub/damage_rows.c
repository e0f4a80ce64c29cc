/*
 * damage_rows.c: table Z: what this node's scrub knows, in the index.  A checkpoint writes it with everything else of its moment,
 * so a block that was given another home and the old home in quarantine are either both there after a crash, or neither.
 *
 * The table is this node's own: neither logged nor compared in a resync.  A row that cannot be read is said and passed over: what
 * it knew the next pass finds again.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fs/core/index.h"
#include "fs/core/scrub/scrub_format.h"
#include "fs/core/scrub/tables.h"

/* ---- the pass ---- */

void scrub_row_encode(const struct scrub_pass *p, uint8_t *value)
{
	struct scrub_state_value v = {.version = 1,
				      .state = (uint8_t)p->state,
				      .phase = (uint8_t)p->phase,
				      .flags = p->cold,
				      .cursor_len = p->cursor_len,
				      .errors = le32_make(p->errors),
				      .rate = le64_make(p->rate),
				      .pass = le64_make(p->pass),
				      .started_ns = le64_make((uint64_t)p->started_ns),
				      .checked_bytes = le64_make(p->checked_bytes),
				      .total_bytes = le64_make(p->total_bytes),
				      .bad_blocks = le64_make(p->bad_blocks),
				      .repaired_blocks = le64_make(p->repaired_blocks),
				      .bad_rows = le64_make(p->bad_rows),
				      .next_ino = le64_make(p->next_ino),
				      .last_started_ns = le64_make((uint64_t)p->last_started_ns),
				      .last_ended_ns = le64_make((uint64_t)p->last_ended_ns),
				      .last_bad_blocks = le64_make(p->last_bad_blocks),
				      .last_repaired_blocks = le64_make(p->last_repaired_blocks),
				      .last_next_ino = le64_make(p->last_next_ino)};

	memcpy(v.cursor, p->cursor, p->cursor_len);
	memcpy(value, &v, sizeof(v));
}

int scrub_row_decode(struct slice value, struct scrub_pass *ret)
{
	struct scrub_state_value v;

	if (value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	if (v.version != 1 || v.state > SCRUB_DONE || v.phase >= PHASES || v.flags > 1 || v.cursor_len > sizeof(v.cursor) ||
	    v.zero[0] || v.zero[1] || v.zero[2])
		return -EUCLEAN;
	*ret = (struct scrub_pass){.state = (enum scrub_state)v.state,
				   .phase = (enum scrub_phase)v.phase,
				   .cold = v.flags,
				   .cursor_len = v.cursor_len,
				   .errors = le32_get(v.errors),
				   .rate = le64_get(v.rate),
				   .pass = le64_get(v.pass),
				   .started_ns = (int64_t)le64_get(v.started_ns),
				   .checked_bytes = le64_get(v.checked_bytes),
				   .total_bytes = le64_get(v.total_bytes),
				   .bad_blocks = le64_get(v.bad_blocks),
				   .repaired_blocks = le64_get(v.repaired_blocks),
				   .bad_rows = le64_get(v.bad_rows),
				   .next_ino = le64_get(v.next_ino),
				   .last_started_ns = (int64_t)le64_get(v.last_started_ns),
				   .last_ended_ns = (int64_t)le64_get(v.last_ended_ns),
				   .last_bad_blocks = le64_get(v.last_bad_blocks),
				   .last_repaired_blocks = le64_get(v.last_repaired_blocks),
				   .last_next_ino = le64_get(v.last_next_ino)};
	memcpy(ret->cursor, v.cursor, v.cursor_len);
	return 0;
}

int scrub_row_get(struct fs *fs, struct scrub_pass *ret)
{
	struct index_key k = key_pair(TABLE_SCRUB, 0, 0);
	uint8_t value[sizeof(struct scrub_state_value)];
	size_t len;
	int r = kv_get(fs->kv, key_slice(&k), value, sizeof(value), &len);

	return r == -ERANGE ? -EUCLEAN : r < 0 ? r : scrub_row_decode((struct slice){value, len}, ret);
}

/* ---- loading ---- */

static int load_damaged(struct fs *fs, uint64_t ino, uint64_t block, struct slice value)
{
	struct damaged_value v;

	if (value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	if (v.version != 1 || (v.state != DAMAGE_BAD && v.state != DAMAGE_REPAIRED))
		return -EUCLEAN;
	damage_load(fs, &(struct damaged_block){.ino = ino,
						.block = block,
						.state = (enum damage_state)v.state,
						.found_ns = (int64_t)le64_get(v.found_ns),
						.changed_ns = (int64_t)le64_get(v.changed_ns)});
	return 0;
}

static int load_quarantined(struct fs *fs, pointer_t home, struct slice value)
{
	struct quarantine_value v;

	if (value.len != sizeof(v))
		return -EUCLEAN;
	memcpy(&v, value.p, sizeof(v));
	if (v.version != 1)
		return -EUCLEAN;
	quarantine_load(fs, &(struct quarantined){
				.home = home, .ino = le64_get(v.ino), .block = le64_get(v.block), .birth = le32_get(v.birth)});
	return 0;
}

static int load_row(struct fs *fs, struct slice key, struct slice value)
{
	const uint8_t *k = key.p;

	if (key.len != 17)
		return -EUCLEAN;
	uint64_t a = be64_get(k + 1), b = be64_get(k + 9);
	if (a == 0)
		return 0;
	return a == QUARANTINE_ROWS ? load_quarantined(fs, b, value) : load_damaged(fs, a, b, value);
}

int damage_rows_load(struct fs *fs)
{
	static const uint8_t first[] = {TABLE_SCRUB};
	struct kv_iter *it;
	uint64_t n_bad = 0;
	int r = fs->kv->ops->iter_open(fs->kv, &it);

	if (r < 0)
		return r;
	for (fs->kv->ops->iter_seek(it, (struct slice){first, 1}); r == 0 && fs->kv->ops->iter_valid(it);
	     fs->kv->ops->iter_next(it)) {
		struct slice key = fs->kv->ops->iter_key(it);

		if (key.len == 0 || *(const uint8_t *)key.p != TABLE_SCRUB)
			break;
		r = load_row(fs, key, fs->kv->ops->iter_value(it));
		n_bad += r == -EUCLEAN;
		if (r == -EUCLEAN)
			r = 0;
	}
	if (r == 0)
		r = fs->kv->ops->iter_error(it);
	fs->kv->ops->iter_close(it);
	if (n_bad)
		log_warn("%llu rows of what the last scrub found cannot be read: run clawfs scrub start",
			 (unsigned long long)n_bad);
	return r;
}

/* ---- saving; the gate is held exclusively, so nothing else changes them ---- */

static int delete_rows(struct fs *fs, const struct damage_key *gone, size_t n)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		struct index_key k = key_pair(TABLE_SCRUB, gone[i].a, gone[i].b);
		struct kv_batch *batch = index_batch();

		kv_batch_delete(batch, key_slice(&k));
		r = kv_write(fs->kv, batch);
	}
	return r;
}

static int put_row(struct fs *fs, uint64_t a, uint64_t b, const void *value, size_t len)
{
	struct index_key k = key_pair(TABLE_SCRUB, a, b);
	struct kv_batch *batch = index_batch();

	kv_batch_put(batch, key_slice(&k), (struct slice){value, len});
	return kv_write(fs->kv, batch);
}

static int save_damage_locked(struct fs *fs, struct damages *d) REQUIRES(d->lock)
{
	int r = d->dirty ? delete_rows(fs, d->gone, d->n_gone) : 0;

	for (size_t i = 0; i < d->n && d->dirty && r == 0; i++) {
		struct damaged_block *b = &d->block[i];
		const struct damaged_value v = {.version = 1,
						.state = (uint8_t)b->state,
						.found_ns = le64_make((uint64_t)b->found_ns),
						.changed_ns = le64_make((uint64_t)b->changed_ns)};

		if (b->dirty)
			r = put_row(fs, b->ino, b->block, &v, sizeof(v));
		b->dirty = b->dirty && r < 0;
	}
	if (r == 0) {
		d->dirty = false;
		d->n_gone = 0;
	}
	return r;
}

static int save_quarantine_locked(struct fs *fs, struct quarantine *q) REQUIRES(q->lock)
{
	int r = q->dirty ? delete_rows(fs, q->gone, q->n_gone) : 0;

	for (size_t i = 0; i < q->n && q->dirty && r == 0; i++) {
		struct quarantined *b = &q->block[i];
		const struct quarantine_value v = {
		    .version = 1, .birth = le32_make(b->birth), .ino = le64_make(b->ino), .block = le64_make(b->block)};

		if (b->dirty)
			r = put_row(fs, QUARANTINE_ROWS, b->home, &v, sizeof(v));
		b->dirty = b->dirty && r < 0;
	}
	if (r == 0) {
		q->dirty = false;
		q->n_gone = 0;
	}
	return r;
}

int damage_rows_save(struct fs *fs)
{
	mutex_lock(&fs->damages->lock);
	int r = save_damage_locked(fs, fs->damages);
	mutex_unlock(&fs->damages->lock);
	if (r < 0)
		return r;
	mutex_lock(&fs->quarantine->lock);
	r = save_quarantine_locked(fs, fs->quarantine);
	mutex_unlock(&fs->quarantine->lock);
	return r;
}
