/*
 * kv_rocksdb.c: kv.h over RocksDB.
 *
 * Durability is ours, not RocksDB's: its log is off, its write buffer is far larger than a checkpoint lets it grow, and
 * closing does not flush.  So the one way data reaches a table file is freeze (switch the memtable, start its flush) and
 * flush_frozen (wait until the manifest names the table).  The manifest is changed atomically: after a crash the store
 * is exactly what some freeze saw.
 *
 * One way is left in which RocksDB would persist more than was frozen: after a failed flush it may recover by itself,
 * and does that by switching and flushing whatever is in memory.  Two things stand against it.  freeze() checks for
 * room first, so that a full host is an error of that call which changes nothing.  And once a flush has failed all the
 * same, background work is cancelled and the store takes no more writes: reads go on, a restart replays the journal.
 *
 * Iterating over table files is also how they are verified: every block is read from the file, its checksum compared.
 */
#include "fs/store/kv.h"

#include <errno.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>

#include "base/log.h"
#include "fs/store/kv_current.h"
#include "fs/store/kv_snapdir.h"

/*
 * Cost of a key in the memtable beyond its own bytes: sequence number, lengths, skiplist links.  An estimate of our own,
 * because RocksDB's takes its big lock and moves in steps of an arena block.
 */
#define MEMTABLE_ENTRY_BYTES 48
/* Room on the host that a flush needs beyond the data: index, filter, manifest, and a compaction under way. */
#define FLUSH_MARGIN_BYTES (16 * MIB)
/* Of a snapshot that is open: few, for several are at once. */
#define SNAP_CACHE_BYTES (2 * MIB)
#define SNAP_FILES_OPEN  12u

struct rocks {
	struct kv base;
	rocksdb_t *db;
	rocksdb_options_t *options;
	rocksdb_writeoptions_t *write_options;
	rocksdb_readoptions_t *read_options;
	rocksdb_readoptions_t *scan_options; /* past the cache */
	rocksdb_flushoptions_t *flush_options;
	char *dir, *snap_dir;
	uint64_t background_errors;        /* that RocksDB counted when it was opened */
	atomic_uint_fast64_t active_bytes; /* in the memtable that takes writes */
	atomic_uint_fast64_t frozen_bytes; /* in those being flushed */
	atomic_int failed;                 /* sticky: -errno of the flush that failed */
	atomic_uint logged;                /* bit errno_bit() of each error already in the log */
};

struct kv_iter {
	struct rocks *r;
	rocksdb_iterator_t *it;
};

static struct rocks *to_rocks(struct kv *kv)
{
	return container_of(kv, struct rocks, base);
}

/*
 * RocksDB's C API tells errors as text only; the words before the colon are its status code.  It names files by their paths: what
 * the volume's directory is called, `dir`, is taken out of `text` before any word is looked for.
 */
static int error_number(char *text, const char *dir)
{
	static const struct {
		const char *words;
		int error;
	} table[] = {
	    {"No such file or directory", -EBADMSG},
	    {"Corruption", -EBADMSG},
	    {"No space left", -ENOSPC},
	    {"NoSpace", -ENOSPC},
	    {"Read-only file system", -EROFS},
	    {"does not exist", -ENOENT},
	    {"Resource busy", -EBUSY},
	    {"lock ", -EBUSY},
	    {"IO error", -EIO},
	    {"Memory limit", -ENOMEM},
	};

	for (char *at; (at = strstr(text, dir));)
		memmove(at, at + strlen(dir), strlen(at + strlen(dir)) + 1);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strstr(text, table[i].words))
			return table[i].error;
	return -EIO;
}

/* Frees `text`; logs the first error of each kind, for a damaged block would fill the log. */
static int fail(struct rocks *r, const char *what, char *text)
{
	CLEANUP_FREE char *copy = strdup(text);
	int error = copy ? error_number(copy, r->dir) : -ENOMEM;
	unsigned bit = 1u << (-error & 31);

	if (!(atomic_fetch_or(&r->logged, bit) & bit))
		log_error("index '%s': %s: %s", r->dir, what, text);
	rocksdb_free(text);
	return error;
}

static uint64_t property(struct rocks *r, const char *name)
{
	uint64_t value = 0;

	return rocksdb_property_int(r->db, name, &value) == 0 ? value : 0;
}

static int rocks_get(struct kv *kv, struct slice key, void *p, size_t cap, size_t *ret_len)
{
	struct rocks *r = to_rocks(kv);
	char *text = NULL;
	size_t len;

	rocksdb_pinnableslice_t *v = rocksdb_get_pinned(r->db, r->read_options, key.p, key.len, &text);
	if (text)
		return fail(r, "get", text);
	if (!v)
		return -ENOENT;
	const char *value = rocksdb_pinnableslice_value(v, &len);
	int result = len > cap ? -ERANGE : 0;
	if (result == 0)
		memcpy(p, value, len);
	*ret_len = len;
	rocksdb_pinnableslice_destroy(v);
	return result;
}

/* RocksDB's own batch object, one a thread, so that a write allocates nothing. */
static pthread_key_t batch_key;
static int batch_key_error;

static void batch_destroy(void *p)
{
	rocksdb_writebatch_destroy(p);
}
static void batch_key_make(void)
{
	batch_key_error = pthread_key_create(&batch_key, batch_destroy);
}

static rocksdb_writebatch_t *batch_of_thread(void)
{
	rocksdb_writebatch_t *b = pthread_getspecific(batch_key);

	if (!b) {
		b = rocksdb_writebatch_create();
		if (pthread_setspecific(batch_key, b)) {
			rocksdb_writebatch_destroy(b);
			return NULL;
		}
	}
	rocksdb_writebatch_clear(b);
	return b;
}

static int rocks_write(struct kv *kv, const struct kv_batch *b)
{
	struct rocks *r = to_rocks(kv);
	struct slice key, value;
	char *text = NULL;
	uint8_t op;

	int error = atomic_load(&r->failed);
	if (error)
		return error;
	rocksdb_writebatch_t *w = b->ops.failed ? NULL : batch_of_thread();
	if (!w)
		return -ENOMEM;
	for (size_t at = 0; kv_batch_next(b, &at, &op, &key, &value);) {
		if (op == KV_PUT)
			rocksdb_writebatch_put(w, key.p, key.len, value.p, value.len);
		else
			rocksdb_writebatch_delete(w, key.p, key.len);
	}
	rocksdb_write(r->db, r->write_options, w, &text);
	if (text)
		return fail(r, "write", text);
	atomic_fetch_add(&r->active_bytes, b->ops.len + (uint64_t)b->n * MEMTABLE_ENTRY_BYTES);
	return 0;
}

static int rocks_iter_open(struct kv *kv, struct kv_iter **ret_iter)
{
	struct rocks *r = to_rocks(kv);
	struct kv_iter *it = calloc(1, sizeof(*it));

	if (!it)
		return -ENOMEM;
	it->r = r;
	it->it = rocksdb_create_iterator(r->db, r->read_options);
	*ret_iter = it;
	return 0;
}

static void rocks_iter_seek(struct kv_iter *it, struct slice key)
{
	rocksdb_iter_seek(it->it, key.p, key.len);
}
static bool rocks_iter_valid(struct kv_iter *it)
{
	return rocksdb_iter_valid(it->it);
}

static void rocks_iter_next(struct kv_iter *it)
{
	if (rocksdb_iter_valid(it->it))
		rocksdb_iter_next(it->it);
}

static struct slice rocks_iter_key(struct kv_iter *it)
{
	struct slice s;

	s.p = rocksdb_iter_key(it->it, &s.len);
	return s;
}

static struct slice rocks_iter_value(struct kv_iter *it)
{
	struct slice s;

	s.p = rocksdb_iter_value(it->it, &s.len);
	return s;
}

static int rocks_iter_error(struct kv_iter *it)
{
	char *text = NULL;

	rocksdb_iter_get_error(it->it, &text);
	return text ? fail(it->r, "scan", text) : 0;
}

static void rocks_iter_close(struct kv_iter *it)
{
	rocksdb_iter_destroy(it->it);
	free(it);
}

/* A flush failed: nothing more may be written to the store behind our back, see the top of this file. */
static int stop(struct rocks *r, int error)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&r->failed, &none, error)) {
		rocksdb_cancel_all_background_work(r->db, 0);
		log_error("index '%s': a checkpoint could not be written (%s); it takes no more changes until the volume is "
			  "mounted again",
			  r->dir, strerror(-error));
	}
	return atomic_load(&r->failed);
}

static int check_room(struct rocks *r)
{
	struct statvfs st;
	uint64_t need = atomic_load(&r->active_bytes) + atomic_load(&r->frozen_bytes) + FLUSH_MARGIN_BYTES;

	if (statvfs(r->dir, &st) < 0)
		return -errno;
	return (uint64_t)st.f_bavail * st.f_frsize < need ? -ENOSPC : 0;
}

static int rocks_freeze(struct kv *kv)
{
	struct rocks *r = to_rocks(kv);
	char *text = NULL;

	int error = atomic_load(&r->failed);
	if (error)
		return error;
	error = check_room(r);
	if (error < 0)
		return error;
	/* Without waiting: the memtable is switched before the call returns, its flush runs in the background. */
	rocksdb_flush(r->db, r->flush_options, &text);
	if (text)
		return stop(r, fail(r, "freeze", text));
	atomic_fetch_add(&r->frozen_bytes, atomic_exchange(&r->active_bytes, 0));
	return 0;
}

/* Why the flush failed: a write that changes nothing is told. */
static int background_error(struct rocks *r)
{
	rocksdb_writebatch_t *empty = batch_of_thread();
	char *text = NULL;

	if (!empty)
		return -ENOMEM;
	rocksdb_write(r->db, r->write_options, empty, &text);
	return text ? fail(r, "flush", text) : -EIO;
}

static int rocks_flush_frozen(struct kv *kv)
{
	struct rocks *r = to_rocks(kv);
	uint64_t frozen = atomic_load(&r->frozen_bytes);

	for (long sleep_us = 500;; sleep_us = sleep_us < 5000 ? sleep_us * 2 : 5000) {
		int error = atomic_load(&r->failed);
		if (error)
			return error;
		if (property(r, "rocksdb.background-errors") > r->background_errors)
			return stop(r, background_error(r));
		if (property(r, "rocksdb.num-immutable-mem-table") == 0)
			break;
		nanosleep(&(struct timespec){.tv_nsec = sleep_us * 1000}, NULL);
	}
	atomic_fetch_sub(&r->frozen_bytes, frozen);
	return 0;
}

static uint64_t rocks_memory_bytes(struct kv *kv)
{
	struct rocks *r = to_rocks(kv);

	return atomic_load(&r->active_bytes) + atomic_load(&r->frozen_bytes);
}

static void rocks_describe(struct kv *kv, struct buf *out)
{
	static const char *const names[] = {
	    "estimate-num-keys",          "live-sst-files-size", "cur-size-all-mem-tables",  "num-immutable-mem-table",
	    "estimate-table-readers-mem", "block-cache-usage",   "block-cache-pinned-usage", "background-errors",
	};
	struct rocks *r = to_rocks(kv);
	char property_name[64];

	buf_printf(out, "rocksdb");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(property_name, sizeof(property_name), "rocksdb.%s", names[i]);
		buf_printf(out, " %s=%llu", names[i], (unsigned long long)property(r, property_name));
	}
}

/*
 * RocksDB links the table files and copies the manifest; which of the two is durable by then it does not say, so all of it is
 * flushed here, and only then gets the name under which it is found.
 */
static int rocks_snapshot_create(struct kv *kv, uint64_t id)
{
	struct rocks *r = to_rocks(kv);
	CLEANUP_FREE char *fresh = NULL;
	char *text = NULL;

	if (!r->snap_dir)
		return -EOPNOTSUPP;
	int error = snapdir_prepare(r->snap_dir, id, &fresh);
	if (error < 0)
		return error;
	rocksdb_checkpoint_t *c = rocksdb_checkpoint_object_create(r->db, &text);
	if (c && !text)
		rocksdb_checkpoint_create(c, fresh, UINT64_MAX, &text); /* the memtable is empty: nothing to flush */
	if (c)
		rocksdb_checkpoint_object_destroy(c);
	error = text ? fail(r, "snapshot", text) : snapdir_publish(r->snap_dir, id);
	if (error < 0)
		snapdir_discard(r->snap_dir, id);
	return error;
}

static int rocks_snapshot_remove(struct kv *kv, uint64_t id)
{
	struct rocks *r = to_rocks(kv);

	return r->snap_dir ? snapdir_remove(r->snap_dir, id) : -ENOENT;
}

static int rocks_snapshot_each(struct kv *kv, int (*fn)(void *ctx, uint64_t id), void *ctx)
{
	struct rocks *r = to_rocks(kv);

	return r->snap_dir ? snapdir_each(r->snap_dir, fn, ctx) : 0;
}

static int rocks_snapshot_open(struct kv *kv, uint64_t id, struct kv **ret_kv);

static void rocks_free(struct rocks *r)
{
	if (r->flush_options)
		rocksdb_flushoptions_destroy(r->flush_options);
	if (r->scan_options)
		rocksdb_readoptions_destroy(r->scan_options);
	if (r->read_options)
		rocksdb_readoptions_destroy(r->read_options);
	if (r->write_options)
		rocksdb_writeoptions_destroy(r->write_options);
	if (r->options)
		rocksdb_options_destroy(r->options);
	free(r->dir);
	free(r->snap_dir);
	free(r);
}

static void rocks_close(struct kv *kv)
{
	struct rocks *r = to_rocks(kv);

	rocksdb_close(r->db);
	rocks_free(r);
}

static const struct kv_ops rocks_ops = {
    .get = rocks_get,
    .write = rocks_write,
    .iter_open = rocks_iter_open,
    .iter_seek = rocks_iter_seek,
    .iter_next = rocks_iter_next,
    .iter_valid = rocks_iter_valid,
    .iter_key = rocks_iter_key,
    .iter_value = rocks_iter_value,
    .iter_error = rocks_iter_error,
    .iter_close = rocks_iter_close,
    .freeze = rocks_freeze,
    .flush_frozen = rocks_flush_frozen,
    .memory_bytes = rocks_memory_bytes,
    .describe = rocks_describe,
    .snapshot_create = rocks_snapshot_create,
    .snapshot_remove = rocks_snapshot_remove,
    .snapshot_open = rocks_snapshot_open,
    .snapshot_each = rocks_snapshot_each,
    .close = rocks_close,
};

static int frozen_write(struct kv *kv, const struct kv_batch *b)
{
	(void)kv;
	(void)b;
	return -EROFS;
}
static int frozen_freeze(struct kv *kv)
{
	(void)kv;
	return -EROFS;
}

/* Of a snapshot: only what reads. */
static const struct kv_ops frozen_ops = {
    .get = rocks_get,
    .write = frozen_write,
    .iter_open = rocks_iter_open,
    .iter_seek = rocks_iter_seek,
    .iter_next = rocks_iter_next,
    .iter_valid = rocks_iter_valid,
    .iter_key = rocks_iter_key,
    .iter_value = rocks_iter_value,
    .iter_error = rocks_iter_error,
    .iter_close = rocks_iter_close,
    .freeze = frozen_freeze,
    .flush_frozen = frozen_freeze,
    .memory_bytes = rocks_memory_bytes,
    .describe = rocks_describe,
    .snapshot_create = rocks_snapshot_create,
    .snapshot_remove = rocks_snapshot_remove,
    .snapshot_open = rocks_snapshot_open,
    .snapshot_each = rocks_snapshot_each,
    .close = rocks_close,
};

static void options_text(const struct kv_rocksdb_options *o, const char *compression, struct buf *out)
{
	buf_printf(out, "create_if_missing=%s;max_open_files=%u;", o->create ? "true" : "false", o->max_open_files);
	/* Nothing is flushed but by freeze(). */
	buf_printf(out, "write_buffer_size=1073741824;max_write_buffer_number=8;min_write_buffer_number_to_merge=1;"
			"avoid_flush_during_shutdown=true;max_bgerror_resume_count=0;");
	/* A small arena block: most checkpoints find little in the memtable. */
	buf_printf(out, "arena_block_size=1048576;allow_concurrent_memtable_write=true;");
	/* Compaction falling behind slows reads, never writes: those hold the gate. */
	buf_printf(out,
		   "level0_file_num_compaction_trigger=4;level0_slowdown_writes_trigger=1000;level0_stop_writes_trigger=2000;"
		   "soft_pending_compaction_bytes_limit=0;hard_pending_compaction_bytes_limit=0;"
		   "level_compaction_dynamic_level_bytes=true;target_file_size_base=33554432;max_background_jobs=2;"
		   "bytes_per_sync=1048576;");
	buf_printf(out, "compression=%s;", compression);
	/* Index and filters live in the cache, in pieces, with only their top level pinned: memory stays what was asked for. */
	buf_printf(out,
		   "block_based_table_factory={block_cache={capacity=%llu;num_shard_bits=4;high_pri_pool_ratio=0.3};"
		   "block_size=8192;format_version=5;checksum=kXXH3;filter_policy=bloomfilter:10:false;"
		   "index_type=kTwoLevelIndexSearch;partition_filters=true;metadata_block_size=4096;"
		   "cache_index_and_filter_blocks=true;cache_index_and_filter_blocks_with_high_priority=true;"
		   "pin_top_level_index_and_filter=true;pin_l0_filter_and_index_blocks_in_cache=false;"
		   "optimize_filters_for_memory=true};",
		   (unsigned long long)o->cache_bytes);
	/*
	 * Its own log ends with the opening: where RocksDB is built with assertions (Debian's is) a line that could not be
	 * written, on a full host say, aborts the process at the next line.  What it has to say of errors comes with them,
	 * and goes to our log.
	 */
	buf_printf(out, "keep_log_file_num=2;info_log_level=HEADER_LEVEL;max_manifest_file_size=4194304;"
			"stats_dump_period_sec=0;stats_persist_period_sec=0");
}

static char *open_with(struct rocks *r, const struct kv_rocksdb_options *o, const char *compression, bool read_only)
{
	CLEANUP_BUF struct buf text = {0};
	char *error = NULL;

	options_text(o, compression, &text);
	if (text.failed)
		return strdup("Memory limit reached");
	rocksdb_options_t *plain = rocksdb_options_create();
	if (r->options)
		rocksdb_options_destroy(r->options);
	r->options = rocksdb_options_create();
	rocksdb_get_options_from_string(plain, (const char *)text.p, r->options, &error);
	rocksdb_options_destroy(plain);
	if (!error && read_only)
		r->db = rocksdb_open_for_read_only(r->options, r->dir, 0, &error);
	else if (!error)
		r->db = rocksdb_open(r->options, r->dir, &error);
	return error;
}

static int open_db(struct rocks *r, const struct kv_rocksdb_options *o, bool read_only)
{
	struct stat st;

	if (o->create && mkdir(r->dir, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(r->dir, &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode)) {
		log_error("index '%s' is not a directory", r->dir);
		return -ENOTDIR;
	}
	int mended = read_only ? 0 : kv_current_mend(r->dir);
	if (mended < 0)
		return mended;
	char *error = open_with(r, o, "kLZ4Compression", read_only);
	if (error && strstr(error, "not linked")) {
		rocksdb_free(error);
		error = open_with(r, o, "kNoCompression", read_only);
	}
	return error ? fail(r, "open", error) : 0;
}

static int open_rocks(const char *dir, const struct kv_rocksdb_options *o, bool read_only, struct kv **ret_kv)
{
	struct rocks *r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->base.ops = read_only ? &frozen_ops : &rocks_ops;
	r->dir = strdup(dir);
	r->snap_dir = o->snap_dir ? strdup(o->snap_dir) : NULL;
	int error = r->dir && (r->snap_dir || !o->snap_dir) ? open_db(r, o, read_only) : -ENOMEM;
	if (error < 0) {
		rocks_free(r);
		return error;
	}
	r->write_options = rocksdb_writeoptions_create();
	rocksdb_writeoptions_disable_WAL(r->write_options, 1);
	r->read_options = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(r->read_options, 1);
	r->scan_options = rocksdb_readoptions_create();
	rocksdb_readoptions_set_verify_checksums(r->scan_options, 1);
	rocksdb_readoptions_set_fill_cache(r->scan_options, 0);
	rocksdb_readoptions_set_readahead_size(r->scan_options, 1 << 20);
	r->flush_options = rocksdb_flushoptions_create();
	rocksdb_flushoptions_set_wait(r->flush_options, 0);
	r->background_errors = property(r, "rocksdb.background-errors");
	*ret_kv = &r->base;
	return 0;
}

int kv_rocksdb_open(const char *dir, const struct kv_rocksdb_options *o, struct kv **ret_kv)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, batch_key_make);
	return batch_key_error ? -batch_key_error : open_rocks(dir, o, false, ret_kv);
}

static int rocks_snapshot_open(struct kv *kv, uint64_t id, struct kv **ret_kv)
{
	const struct kv_rocksdb_options o = {.cache_bytes = SNAP_CACHE_BYTES, .max_open_files = SNAP_FILES_OPEN};
	struct rocks *r = to_rocks(kv);

	if (!r->snap_dir)
		return -ENOENT;
	CLEANUP_FREE char *path = snapdir_path(r->snap_dir, id);
	struct stat st;
	if (!path)
		return -ENOMEM;
	if (lstat(path, &st) < 0)
		return -errno;
	return open_rocks(path, &o, true, ret_kv);
}

int kv_rocksdb_verify(struct kv *kv)
{
	struct rocks *r = to_rocks(kv);
	char *text = NULL;

	rocksdb_iterator_t *it = rocksdb_create_iterator(r->db, r->scan_options);
	for (rocksdb_iter_seek_to_first(it); rocksdb_iter_valid(it); rocksdb_iter_next(it))
		;
	rocksdb_iter_get_error(it, &text);
	rocksdb_iter_destroy(it);
	return text ? fail(r, "verify", text) : 0;
}
