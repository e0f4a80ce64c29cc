/* status.c: what the volume says of itself: JSON for admins, paths of inodes, statfs. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/printable.h"
#include "fs/core/audit/audit.h"
#include "fs/core/archive/archiving.h"
#include "fs/core/core.h"
#include "fs/core/index.h"
#include "fs/core/snap/snap.h"
#include "fs/core/squeeze/squeeze.h"
#include "fs/core/scrub/report.h"
#include "fs/core/tier/tier.h"
#include "fs/core/usage/usage.h"

/* Directories deeper than this are told from here down. */
#define PATH_DEPTH_MAX 256

/* The name of `in` in its parent, by the cookie it remembers; -ENOENT when that name is another's by now. */
static int name_of(struct fs *fs, const struct inode *in, char *ret_name)
{
	struct dentry d;
	int r = index_get_name(fs->kv, in->parent, in->cookie, &d, ret_name);

	return r == 0 && d.ino != in->ino ? -ENOENT : r;
}

/*
 * Called from under stripes, so it waits for none: an inode whose lock is taken is read from the index, where it may be a
 * little old, and a name that is a little old still helps.
 */
int path_step(struct fs *fs, uint64_t ino, uint64_t *ret_parent, char ret_name[256])
{
	struct inode in;

	if (!icache_try_copy(fs->icache, ino, &in) && index_get_inode(fs->kv, ino, &in) < 0)
		return -ENOENT;
	*ret_parent = in.parent;
	return name_of(fs, &in, ret_name) < 0 ? -ENOENT : 0;
}

/* One that is not in the index yet is told by its number. */
void fs_path(struct fs *fs, uint64_t ino, char *ret_path, size_t cap)
{
	char path[4096], name[256];
	size_t at = sizeof(path) - 1;

	if (snap_is_ino(ino)) {
		snap_path(fs, ino, ret_path, cap);
		return;
	}
	path[at] = '\0';
	for (uint64_t i = ino, depth = 0; i != FS_ROOT_INO; depth++) {
		if (depth > PATH_DEPTH_MAX || path_step(fs, i, &i, name) < 0)
			goto unknown;
		size_t len = strlen(name);
		if (at < len + 1)
			goto unknown;
		at -= len;
		memcpy(path + at, name, len);
		path[--at] = '/';
	}
	snprintf(ret_path, cap, "%s", at == sizeof(path) - 1 ? "/" : path + at);
	return;
unknown:
	snprintf(ret_path, cap, "inode %llu", (unsigned long long)ino);
}

static uint64_t resident_bytes(void)
{
	unsigned long long size, resident;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	int n = fscanf(f, "%llu %llu", &size, &resident);
	fclose(f);
	return n == 2 ? resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static json_t *service_json(const struct service *s)
{
	return json_pack("{s:I, s:I, s:I, s:s}", "runs", (json_int_t)atomic_load(&s->runs), "errors",
			 (json_int_t)atomic_load(&s->errors), "last_success_ns", (json_int_t)atomic_load(&s->last_success_ns),
			 "last_error", atomic_load(&s->last_error) ? strerror(-atomic_load(&s->last_error)) : "");
}

static json_t *journal_json(const struct journal_status *js)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "open_seq", (json_int_t)js->open_seq,
			 "durable_seq", (json_int_t)js->durable_seq, "tail_seq", (json_int_t)js->tail_seq, "ring_bytes",
			 (json_int_t)(js->ring_blocks * BLOCK_SIZE), "used_bytes", (json_int_t)(js->used_blocks * BLOCK_SIZE),
			 "open_bytes", (json_int_t)js->open_bytes, "commits", (json_int_t)js->commits, "commit_bytes",
			 (json_int_t)(js->commit_blocks * BLOCK_SIZE), "commit_ns", (json_int_t)js->commit_ns, "operations",
			 (json_int_t)js->operations, "throttled", (json_int_t)js->throttled);
}

static json_t *arena_json(struct fs *fs)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "chunks", (int)as.n_chunks, "total_bytes",
			 (json_int_t)(as.total_blocks * BLOCK_SIZE), "used_bytes", (json_int_t)(as.used_blocks * BLOCK_SIZE),
			 "limbo_bytes", (json_int_t)(as.limbo_blocks * BLOCK_SIZE), "reserved_bytes",
			 (json_int_t)(as.reserved_blocks * BLOCK_SIZE), "free_bytes", (json_int_t)(as.free_blocks * BLOCK_SIZE),
			 "growable_bytes", (json_int_t)(as.growable_blocks * BLOCK_SIZE), "read_bytes",
			 (json_int_t)(as.blocks_read * BLOCK_SIZE), "written_bytes",
			 (json_int_t)(as.blocks_written * BLOCK_SIZE));
}

static json_t *recovery_json(const struct fs_recovery *r)
{
	return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I}", "was_clean", r->was_clean, "batches", (json_int_t)r->batches,
			 "records", (json_int_t)r->records, "staged_records", (json_int_t)r->staged_records, "bytes",
			 (json_int_t)r->bytes, "orphans", (json_int_t)r->orphans, "nanoseconds", (json_int_t)r->nanoseconds);
}

static json_t *volume_json(struct fs *fs)
{
	char volume[UUID_TEXT], node[UUID_TEXT];
	struct super s;

	replica_get_super(fs, &s);
	uuid_text(s.volume, volume);
	uuid_text(s.node, node);
	make_printable(s.label);
	return json_pack("{s:s, s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "volume", volume, "node", node, "label", s.label,
			 "format_version", (int)s.version, "epoch", (json_int_t)s.epoch, "incarnation", (json_int_t)s.incarnation,
			 "created_ns", (json_int_t)s.created_ns, "chunk_bytes", (json_int_t)(s.chunk_kib * KIB), "max_bytes",
			 (json_int_t)(s.max_blocks == UINT64_MAX ? 0 : s.max_blocks * BLOCK_SIZE));
}

static json_t *replica_json(struct fs *fs)
{
	struct replica_volume *v = fs_replica(fs);
	struct replica_point p;

	v->ops->get_point(v, &p);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:b, s:I}", "role",
			 p.role == ROLE_LEADER ? "leader" : "follower", "node_id", (json_int_t)p.node_id, "epoch",
			 (json_int_t)p.promised, "epoch_counter", (json_int_t)epoch_counter(p.promised), "epoch_node",
			 (json_int_t)epoch_node(p.promised), "offered_epoch_counter", (json_int_t)epoch_counter(p.offered),
			 "offered_to_node", (json_int_t)epoch_node(p.offered), "history", (json_int_t)p.history, "fence",
			 (json_int_t)p.fence, "resyncing", p.resyncing, "differs", p.differs, "readable", fs_readable(fs) == 0,
			 "applied_seq", (json_int_t)p.applied_seq);
}

static json_t *durability_json(struct fs *fs)
{
	struct durability_status ds;

	durability_get_status(fs, &ds);
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "level", ds.level, "waiting", (json_int_t)ds.waiting,
			 "longest_wait_ns", (json_int_t)ds.longest_wait_ns, "short_since_ns", (json_int_t)ds.short_since_ns,
			 "fallbacks", (json_int_t)ds.fallbacks, "last_fallback_ns", (json_int_t)ds.last_fallback_ns);
}

static json_t *health_json(struct fs *fs)
{
	char failure[sizeof(fs->failure)], damage[sizeof(fs->damage)], last[512];

	mutex_lock(&fs->failure_lock);
	memcpy(failure, fs->failure, sizeof(failure));
	memcpy(damage, fs->damage, sizeof(damage));
	mutex_unlock(&fs->failure_lock);
	make_printable(failure);
	make_printable(damage); /* names the file */
	log_last_error(last, sizeof(last));
	uint64_t offered = fs_role(fs) == ROLE_LEADER ? atomic_load(&fs->offered) : 0;
	if (offered && !*failure)
		snprintf(failure, sizeof(failure),
			 "node %u was offered the lead (epoch %llu) and has not said whether it took it: nothing is written here "
			 "until it is heard of, or until this node is promoted",
			 epoch_node(offered), (unsigned long long)epoch_counter(offered));
	const char *state = atomic_load(&fs->failed)       ? "failed"
			    : atomic_load(&fs->index_full) ? "host full"
			    : fs->config.read_only         ? "read-only"
			    : offered                      ? "hand-over in doubt"
							   : "ok";
	return json_pack("{s:s, s:s, s:s, s:I, s:s}", "state", state, "reason", failure, "last_damage", damage, "damaged_reads",
			 (json_int_t)atomic_load(&fs->damaged_reads), "last_error_line", last);
}

void fs_set_status(struct fs *fs, void (*add)(void *ctx, void *json_object), void *ctx)
{
	fs->add_status = add;
	fs->add_status_ctx = ctx;
}

static json_t *index_json(struct fs *fs)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I}", "memtable_bytes", (json_int_t)fs->kv->ops->memory_bytes(fs->kv), "inodes",
			 (json_int_t)atomic_load(&fs->n_inodes), "checkpoints", (json_int_t)atomic_load(&fs->checkpoints),
			 "checkpoint_age_ns", (json_int_t)(clock_mono_ns(fs->clock) - atomic_load(&fs->last_ckpt_ns)),
			 "kernel_inodes", (json_int_t)refs_count(fs->refs));
}

static void add_peers(struct fs *fs, json_t *root)
{
	if (replica_has_hooks(fs) && fs->hooks.status)
		fs->hooks.status(fs->hooks.ctx, root);
}

/* "source", where it is known. */
static json_t *source_json(const struct fs *fs)
{
	CLEANUP_FREE char *text = fs->config.source ? strdup(fs->config.source) : NULL;

	if (!text)
		return json_object();
	make_printable(text);
	return json_pack("{s:s}", "source", text);
}

void *fs_status_object(struct fs *fs, bool peers_only)
{
	struct journal_status js;
	json_t *root = json_object();

	if (peers_only) {
		add_peers(fs, root);
		return root;
	}
	journal_get_status(fs->journal, &js);
	json_object_update_new(root, source_json(fs));
	json_object_set_new(root, "volume", volume_json(fs));
	json_object_set_new(root, "encryption", json_string(encryption_name(fs->config.encryption)));
	json_object_set_new(root, "health", health_json(fs));
	json_object_set_new(root, "seq", json_integer((json_int_t)js.open_seq));
	json_object_set_new(root, "durable_seq", json_integer((json_int_t)js.durable_seq));
	json_object_set_new(root, "durability", durability_json(fs));
	json_object_set_new(root, "replica", replica_json(fs));
	add_peers(fs, root);
	json_object_set_new(root, "journal", journal_json(&js));
	json_object_set_new(root, "arena", arena_json(fs));
	json_object_set_new(root, "recovery", recovery_json(&fs->recovery));
	json_object_set_new(root, "index", index_json(fs));
	json_object_set_new(root, "memory",
			    json_pack("{s:I, s:I}", "resident_bytes", (json_int_t)resident_bytes(), "limit_bytes",
				      (json_int_t)fs->config.memory_bytes));
	json_object_set_new(root, "homer",
			    json_pack("{s:I, s:I}", "backlog_bytes", (json_int_t)(homer_backlog(fs) * BLOCK_SIZE), "homed_bytes",
				      (json_int_t)(atomic_load(&fs->homer.homed_blocks) * BLOCK_SIZE)));
	json_object_set_new(root, "usage", usage_status_json(fs));
	json_object_set_new(root, "tier", tier_status_json(fs));
	json_object_set_new(root, "audit", audit_status_json(fs));
	json_object_set_new(root, "scrub", scrub_status_json(fs));
	json_object_set_new(root, "compression", squeeze_status_json(fs));
	json_object_set_new(root, "archive", archiver_status_json(fs));
	json_object_set_new(root, "jobs",
			    json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "committer", service_json(&fs->committer), "homer",
				      service_json(&fs->homer_service), "checkpointer", service_json(&fs->checkpointer), "reaper",
				      service_json(&fs->reaper), "snapshots", service_json(&fs->snapper), "schedule",
				      service_json(&fs->scheduler), "squeezer", service_json(&fs->squeezer)));
	if (fs->add_status)
		fs->add_status(fs->add_status_ctx, root);
	return root;
}

void fs_status_json(struct fs *fs, struct buf *out)
{
	json_t *root = fs_status_object(fs, false);
	char *text = json_dumps(root, JSON_INDENT(2));
	if (text)
		buf_put(out, text, strlen(text));
	free(text);
	json_decref(root);
}

void fs_statfs(struct fs *fs, struct fs_statfs *ret)
{
	struct arena_status as;

	arena_get_status(fs->arena, &as);
	uint64_t files = atomic_load(&fs->n_inodes), free_blocks = as.free_blocks - min_u64(as.free_blocks, as.reserved_blocks);
	free_blocks += as.limbo_blocks + as.growable_blocks; /* limbo comes back with the next checkpoint */
	*ret = (struct fs_statfs){.total_blocks = as.total_blocks + as.growable_blocks,
				  .free_blocks = free_blocks,
				  .files = files + free_blocks, /* as many as there are blocks: nothing else bounds them */
				  .free_files = free_blocks};
}
