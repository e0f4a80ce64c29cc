/*
 * dump.c: prints what is on disk, for people who have to find out what happened to a volume.
 *
 * The superblock's two copies; the batches of the journal with their records, also those already homed, as far back as the ring
 * still holds an unbroken chain of them, and what the staging files hold; the index.  Each fact is one JSON object, printed as
 * such or as words.  Nothing is written: the journal is opened and replayed into a printer, the index is opened read-only.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/dump.h"
#include "journal/batch.h"
#include "journal/ring.h"

#define SCAN_BLOCKS 256u

struct chain {
	struct batch_info *batches; /* by rising seq once sorted; owned */
	size_t n, cap, first;       /* `first`: from here on the chain is unbroken */
};

struct printer {
	bool json;
	const struct chain *chain;
	uint64_t seq; /* of the batch whose head was printed last */
};

static void put_int(json_t *o, const char *key, uint64_t n)
{
	json_object_set_new(o, key, json_integer((json_int_t)n));
}

/* Takes over `o`. */
static void emit(bool json, const char *kind, json_t *o)
{
	const char *key;
	json_t *value;

	if (json) {
		json_object_set_new(o, "kind", json_string(kind));
		json_dumpf(o, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
	} else {
		printf("%s", kind);
		json_object_foreach(o, key, value)
		{
			printf(" %s=", key);
			json_dumpf(value, stdout, JSON_COMPACT | JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
		}
	}
	putchar('\n');
	json_decref(o);
}

static int code_of_damage(int error)
{
	return error == -EBADMSG || error == -EUCLEAN ? EXIT_DAMAGED : EXIT_FAILED;
}

static int dump_super(const struct args *a, const char *dir)
{
	struct super copy[2];
	bool valid[2];
	int r = volume_peek(dir, copy, valid);

	if (r < 0) {
		volume_complain("cannot read the superblock of", dir, r);
		return EXIT_FAILED;
	}
	for (int i = 0; i < 2; i++) {
		json_t *o = valid[i] ? super_facts(&copy[i]) : json_object();

		put_int(o, "copy", (uint64_t)i);
		json_object_set_new(o, "valid", json_boolean(valid[i]));
		json_object_set_new(o, "in_force", json_boolean(volume_newest(copy, valid) == &copy[i]));
		emit(a->json, "super", o);
	}
	return valid[0] && valid[1] ? EXIT_OK : EXIT_DAMAGED;
}

static int chain_add(struct chain *c, const struct batch_info *info)
{
	if (c->n == c->cap) {
		size_t cap = c->cap ? 2 * c->cap : 256;
		struct batch_info *p = reallocarray(c->batches, cap, sizeof(*p));

		if (!p)
			return -ENOMEM;
		c->batches = p;
		c->cap = cap;
	}
	c->batches[c->n++] = *info;
	return 0;
}

static int by_seq(const void *x, const void *y)
{
	const struct batch_info *a = x, *b = y;

	return (a->seq > b->seq) - (a->seq < b->seq);
}

/* Every header in the ring that stands where it says it stands. */
static int chain_collect(const struct ring *ring, const uint8_t volume[16], struct chain *c)
{
	struct batch_info info;
	CLEANUP_FREE uint8_t *p = aligned_alloc(BLOCK_SIZE, SCAN_BLOCKS * BLOCK_SIZE);
	int r = p ? 0 : -ENOMEM;

	for (uint64_t pos = 0; r == 0 && pos < ring->n_blocks; pos += SCAN_BLOCKS) {
		uint32_t n = (uint32_t)min_u64(SCAN_BLOCKS, ring->n_blocks - pos);

		r = ring_read(ring, pos, n, p);
		for (uint32_t i = 0; r == 0 && i < n; i++) {
			const void *block = p + (size_t)i * BLOCK_SIZE;

			if (batch_header_check(block, volume, &info) == 0 && info.pos % ring->n_blocks == pos + i)
				r = chain_add(c, &info);
		}
	}
	return r;
}

/*
 * From the newest batch backwards, as long as each follows the one before in number, place and hash and was not
 * overwritten since.  Headers of earlier rounds that still lie about fall out here.
 */
static void chain_find_first(struct chain *c, uint64_t ring_blocks)
{
	qsort(c->batches, c->n, sizeof(*c->batches), by_seq);
	c->first = c->n ? c->n - 1 : 0;
	if (!c->n)
		return;
	const struct batch_info *last = &c->batches[c->n - 1];
	uint64_t end = last->pos + batch_blocks(&last->n);
	while (c->first > 0) {
		const struct batch_info *before = &c->batches[c->first - 1], *at = &c->batches[c->first];

		if (before->seq + 1 != at->seq || before->hash != at->prev_hash ||
		    before->pos + batch_blocks(&before->n) != at->pos || before->pos + ring_blocks < end)
			return;
		c->first--;
	}
}

static void emit_batch(struct printer *p, uint64_t seq)
{
	json_t *o = json_object();

	put_int(o, "seq", seq);
	for (size_t i = p->chain->first; i < p->chain->n; i++) {
		const struct batch_info *b = &p->chain->batches[i];

		if (b->seq != seq)
			continue;
		put_int(o, "pos", b->pos);
		put_int(o, "blocks", batch_blocks(&b->n));
		put_int(o, "records", b->n.n_records);
		put_int(o, "payload_blocks", b->n.n_payload);
		put_int(o, "epoch", b->epoch);
		put_int(o, "incarnation", b->incarnation);
		put_int(o, "tail_seq", b->tail_seq);
		put_int(o, "commit_seq", b->commit_seq);
		put_int(o, "time_ns", (uint64_t)b->time_ns);
	}
	json_object_set_new(o, "staged", json_boolean(!json_object_get(o, "pos")));
	emit(p->json, "batch", o);
	p->seq = seq;
}

static void put_mknode(json_t *o, const struct record *r)
{
	char mode[16];

	snprintf(mode, sizeof(mode), "%o", r->mknode.mode);
	put_int(o, "parent", r->mknode.parent);
	json_object_set_new(o, "name", bytes_json(r->mknode.name));
	json_object_set_new(o, "mode", json_string(mode));
	put_int(o, "owner", r->mknode.uid);
	put_int(o, "group", r->mknode.gid);
	put_int(o, "cookie", r->mknode.cookie);
	if (r->mknode.rdev)
		put_int(o, "rdev", r->mknode.rdev);
	if (r->mknode.target.len)
		json_object_set_new(o, "target", bytes_json(r->mknode.target));
}

static void put_rename(json_t *o, const struct record *r)
{
	put_int(o, "parent", r->rename.parent);
	json_object_set_new(o, "name", bytes_json(r->rename.name));
	put_int(o, "new_parent", r->rename.new_parent);
	json_object_set_new(o, "new_name", bytes_json(r->rename.new_name));
	put_int(o, "new_cookie", r->rename.new_cookie);
	put_int(o, "target", r->rename.target);
	put_int(o, "flags", r->rename.flags);
	if (r->rename.whiteout_ino)
		put_int(o, "whiteout_ino", r->rename.whiteout_ino);
}

static void put_attr(json_t *o, const struct record_attr *attr)
{
	char mode[16];

	snprintf(mode, sizeof(mode), "%o", attr->mode);
	if (attr->mask & ATTR_MODE)
		json_object_set_new(o, "mode", json_string(mode));
	if (attr->mask & ATTR_UID)
		put_int(o, "owner", attr->uid);
	if (attr->mask & ATTR_GID)
		put_int(o, "group", attr->gid);
	if (attr->mask & ATTR_SIZE)
		put_int(o, "size", attr->size);
	if (attr->mask & ATTR_ATIME)
		put_int(o, "atime_ns", (uint64_t)attr->atime_ns);
	if (attr->mask & ATTR_MTIME)
		put_int(o, "mtime_ns", (uint64_t)attr->mtime_ns);
	if (attr->mask & ATTR_CTIME)
		put_int(o, "ctime_ns", (uint64_t)attr->ctime_ns);
}

static void put_write(json_t *o, const struct record *r)
{
	put_int(o, "block", r->write.block);
	put_int(o, "n_blocks", r->write.n_blocks);
	put_int(o, "size", r->write.size);
	json_object_set_new(o, "out_of_line", json_boolean(r->write.out_of_line));
	if (!r->write.out_of_line) {
		put_int(o, "staged_pos", r->write.staged >> 8);
		return;
	}
	json_t *runs = json_array();
	for (uint32_t i = 0; i < r->write.n_runs; i++) {
		const struct run *run = &r->write.runs[i];

		json_array_append_new(runs, json_pack("[I,I,I]", (json_int_t)pointer_device(run->start),
						      (json_int_t)pointer_block(run->start), (json_int_t)run->n_blocks));
	}
	json_object_set_new(o, "runs", runs);
}

static void put_tier(json_t *o, const struct record *r)
{
	char object[24];

	snprintf(object, sizeof(object), "%016llx", (unsigned long long)r->tier.object);
	json_object_set_new(o, "change", json_string(r->tier.change == TIER_FORGET ? "forget" : "place"));
	json_object_set_new(o, "object", json_string(object));
	put_int(o, "store", r->tier.store);
	put_int(o, "object_bytes", r->tier.object_bytes);
	put_int(o, "n_blocks", r->tier.n_blocks);
	json_t *places = json_array();
	for (uint32_t i = 0; i < r->tier.n_places; i++) {
		struct record_place p = record_place_at(r, i);

		json_array_append_new(
		    places, json_pack("[I,I,I,i]", (json_int_t)p.leaf, (json_int_t)p.offset, (json_int_t)p.len, p.mask));
	}
	json_object_set_new(o, "places", places); /* [leaf, offset, bytes, slots] */
}

static void put_body(json_t *o, const struct record *r)
{
	switch (r->type) {
	case RECORD_MKNODE:
		put_mknode(o, r);
		break;
	case RECORD_LINK:
		put_int(o, "parent", r->link.parent);
		json_object_set_new(o, "name", bytes_json(r->link.name));
		put_int(o, "cookie", r->link.cookie);
		break;
	case RECORD_UNLINK:
		put_int(o, "parent", r->unlink.parent);
		json_object_set_new(o, "name", bytes_json(r->unlink.name));
		break;
	case RECORD_RENAME:
		put_rename(o, r);
		break;
	case RECORD_SETATTR:
		put_attr(o, &r->attr);
		break;
	case RECORD_SETXATTR:
	case RECORD_RMXATTR:
		json_object_set_new(o, "name", bytes_json(r->xattr.name));
		put_int(o, "value_bytes", r->xattr.value.len);
		break;
	case RECORD_WRITE:
		put_write(o, r);
		break;
	case RECORD_ZERO:
		put_int(o, "block", r->zero.block);
		put_int(o, "n_blocks", r->zero.n_blocks);
		put_int(o, "mode", r->zero.mode);
		put_int(o, "size", r->zero.size);
		break;
	case RECORD_CLONE:
		put_int(o, "from", r->clone.from);
		put_int(o, "from_block", r->clone.from_block);
		put_int(o, "block", r->clone.block);
		put_int(o, "n_blocks", r->clone.n_blocks);
		put_int(o, "size", r->clone.size);
		break;
	case RECORD_REAP:
		put_int(o, "from_leaf", r->reap.from_leaf);
		break;
	case RECORD_CONFIG:
		json_object_set_new(o, "key", bytes_json(r->config.key));
		json_object_set_new(o, "value", bytes_json(r->config.value));
		break;
	case RECORD_EPOCH:
		put_int(o, "epoch", r->epoch.epoch);
		put_int(o, "incarnation", r->epoch.incarnation);
		break;
	case RECORD_TIER:
		put_tier(o, r);
		break;
	case RECORD_SNAP:
	case RECORD_SNAPDROP:
	case RECORD_SNAPROLL:
		put_int(o, "gen", r->snap.gen);
		json_object_set_new(o, "name", bytes_json(r->snap.name));
		break;
	default:
		break;
	}
}

static int print_record(void *ctx, const struct record *r, uint64_t seq)
{
	struct printer *p = ctx;
	json_t *o = json_object();

	if (seq != p->seq)
		emit_batch(p, seq);
	json_object_set_new(o, "type", json_string(record_type_name(r->type)));
	put_int(o, "seq", seq);
	put_int(o, "ino", r->ino);
	put_body(o, r);
	if (r->flags & RECORD_MORE)
		json_object_set_new(o, "more", json_true());
	put_int(o, "uid", r->uid);
	put_int(o, "gid", r->gid);
	put_int(o, "pid", r->pid);
	put_int(o, "unique", r->unique);
	put_int(o, "time_ns", (uint64_t)r->time_ns);
	emit(p->json, "record", o);
	return 0;
}

/* What a staged record says is printed as it stands; whether its data is there is for recovery to find out. */
static bool believe(void *ctx, const struct record *r)
{
	(void)ctx;
	(void)r;
	return true;
}

/* Opens the journal as the superblock describes it and prints from the chain's first batch on. */
static int replay_into(struct printer *p, const struct journal_config *config, struct journal_replay_result *ret)
{
	const struct journal_replay_ops ops = {.ctx = p, .apply = print_record, .verify = believe};
	struct journal_point from = {.pos = 1};
	struct journal *journal;

	if (p->chain->n) {
		const struct batch_info *first = &p->chain->batches[p->chain->first];

		from = (struct journal_point){.seq = first->seq - 1, .pos = first->pos, .hash = first->prev_hash};
	}
	int r = journal_open(config, &journal);
	if (r < 0)
		return r;
	r = journal_replay(journal, &from, &ops, ret);
	journal_close(journal);
	return r;
}

static int dump_journal(const struct args *a, struct volume_config *v)
{
	struct super s;
	struct ring ring;
	struct chain chain = {0};
	struct journal_replay_result result = {0};
	struct printer printer = {.json = a->json, .chain = &chain};
	int r = super_read(v->fs.store, &s);

	if (r < 0)
		goto out;
	struct journal_config config = {
	    .store = v->fs.store,
	    .clock = &clock_system,
	    .epoch = s.epoch,
	    .incarnation = s.incarnation,
	    .geometry = {.n_segments = s.journal_segments, .segment_blocks = s.journal_segment_kib * KIB / BLOCK_SIZE},
	    .signer = v->fs.signer,
	    .n_writers = 1,
	};
	memcpy(config.volume, s.volume, sizeof(config.volume));
	r = ring_open(v->fs.store, &config.geometry, &ring);
	if (r < 0)
		goto out;
	r = chain_collect(&ring, s.volume, &chain);
	chain_find_first(&chain, ring.n_blocks);
	ring_close(&ring);
	if (r == 0)
		r = replay_into(&printer, &config, &result);
	if (r == -EBADMSG && result.bad_seq)
		complain("%s: batch %" PRIu64 " at position %" PRIu64 " of the journal is damaged", v->dir, result.bad_seq,
			 result.bad_pos);
out:
	free(chain.batches);
	if (r < 0)
		volume_complain("cannot read all of the journal of", v->dir, r);
	return r == 0 ? EXIT_OK : code_of_damage(r);
}

/* Last, for the volume takes the store with it. */
static int dump_index(const struct args *a, struct volume_config *v)
{
	struct fs *fs;

	v->fs.no_threads = true;
	v->fs.read_only = true;
	int r = fs_open(&v->fs, &fs);
	if (r == 0) {
		v->fs.store = NULL; /* fs has it now */
		r = fs_dump_index(fs, stdout, a->json);
		fs_abandon(fs);
	}
	if (r < 0)
		volume_complain("cannot read all of the index of", v->dir, r);
	return r == 0 ? EXIT_OK : code_of_damage(r);
}

int verb_dump(const struct args *a)
{
	struct volume_config v;
	bool all = !a->only_super && !a->only_journal && !a->only_index;
	int super_code = EXIT_OK, journal_code = EXIT_OK, index_code = EXIT_OK;

	log_setup(a->verbose ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN, false);
	if (volume_open_locked(a, a->operand[0], &v) < 0)
		return EXIT_FAILED;
	if (all || a->only_super)
		super_code = dump_super(a, v.dir);
	if (super_code != EXIT_FAILED && (all || a->only_journal))
		journal_code = dump_journal(a, &v);
	if (super_code != EXIT_FAILED && (all || a->only_index))
		index_code = dump_index(a, &v);
	volume_close(&v);
	return journal_code ? journal_code : index_code ? index_code : super_code;
}
