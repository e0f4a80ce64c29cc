/* admin.c: what an admin asks of the archive, and what it shows (archiving.h). */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/archive/impl.h"

int fs_archive_set(struct fs *fs, const struct fs_cred *cred, const char *text)
{
	const struct tier_store *s;
	struct archive_policy p;
	int r = archive_policy_parse(text, &p);

	if (r == 0 && fs_role(fs) != ROLE_LEADER)
		r = -EROFS;
	if (r == 0)
		r = stores_get_by_name(fs, p.store, &s);
	if (r < 0)
		return r;
	/* Before the first base: the record of a key made later would be in the archive that it opens. */
	r = stores_make_key(fs);
	stores_put(fs, s);
	return r < 0 ? r : fs_set_policy(fs, cred, FS_ROOT_INO, "archive", text);
}

struct store_search {
	const char *name;
	bool found, encrypt;
};

static int look_at_store(void *ctx, const struct tier_store *s)
{
	struct store_search *search = ctx;

	if (strcmp(s->name, search->name) != 0)
		return 0;
	search->found = true;
	search->encrypt = s->d.encrypt;
	return 1;
}

int fs_archive_key_text(struct fs *fs, struct buf *out)
{
	char text[FS_POLICY_MAX + 1];
	struct archive_policy p;
	struct store_search search = {.name = p.store};
	struct pack_volume_key key;
	int r = fs_get_policy(fs, FS_ROOT_INO, "archive", false, text);

	if (r == 0)
		r = archive_policy_parse(text, &p);
	if (r < 0 || stores_each(fs, look_at_store, &search) < 0 || !search.found)
		return -ENODATA;
	if (!search.encrypt) {
		buf_printf(out, "none");
		return 0;
	}
	r = stores_key(fs, &key);
	for (unsigned i = 0; r == 0 && i < PACK_KEY_BYTES; i++)
		buf_printf(out, "%02x", key.bytes[i]);
	OPENSSL_cleanse(&key, sizeof(key));
	return r < 0 ? -ENODATA : 0;
}

int fs_archive_state_text(struct fs *fs, const char *text, struct buf *out)
{
	struct replica_volume *v = fs_replica(fs);
	uint64_t hash, sum;
	char *end;

	errno = 0;
	uint64_t seq = strtoull(text, &end, 10);
	if (errno || end == text || *end || v->ops->hash_after(v, seq, &hash) < 0)
		return -ENODATA;
	if (v->ops->state_sum(v, seq, &sum) == 0)
		buf_printf(out, "%016" PRIx64 " %016" PRIx64, hash, sum);
	else
		buf_printf(out, "%016" PRIx64 " -", hash);
	return 0;
}

static json_t *drill_json(struct fs *fs)
{
	char text[FS_POLICY_MAX + 1];
	json_t *o = NULL;

	if (fs_get_policy(fs, FS_ROOT_INO, "archive.drill", false, text) == 0)
		o = json_loads(text, 0, NULL);
	return o ? o : json_null();
}

json_t *archiver_status_json(struct fs *fs)
{
	struct archiver *a = fs->archiver;
	struct archiver_view v;
	int64_t now_ns = clock_real_ns(fs->clock);
	char alarm[128] = "", policy[FS_POLICY_MAX + 1];
	bool follows = fs_role(fs) != ROLE_LEADER && fs_get_policy(fs, FS_ROOT_INO, "archive", false, policy) == 0;

	mutex_lock(&a->lock);
	v = a->view;
	mutex_unlock(&a->lock);
	if (v.gap)
		snprintf(alarm, sizeof(alarm),
			 "batches %" PRIu64 " to %" PRIu64 " are not in the archive, and no base has closed the gap yet",
			 v.gap_from, v.gap_to);
	const char *state = follows       ? "following"
			    : !v.on       ? "off"
			    : v.error     ? "waiting"
			    : !v.attached ? "starting"
			    : v.gap       ? "gap"
			    : !v.based    ? "first base"
					  : "ok";
	return json_pack(
	    "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:s, s:o}",
	    "state", state, "store", v.store, "alarm", alarm, "archived_seq", (json_int_t)v.archived_seq, "archived_ns",
	    (json_int_t)v.archived_ns, "behind_batches", (json_int_t)(v.durable_seq - min_u64(v.durable_seq, v.archived_seq)),
	    "behind_ns", (json_int_t)(v.behind_since_ns ? now_ns - v.behind_since_ns : 0), "segments", (json_int_t)v.segments,
	    "stored_bytes", (json_int_t)v.bytes, "gap", (int)v.gap, "gaps", (json_int_t)v.gaps, "bases", (json_int_t)v.bases,
	    "base_seq", (json_int_t)v.base_seq, "base_ns", (json_int_t)v.base_ns, "making_base", (int)v.making_base,
	    "making_rows", (json_int_t)v.making_rows, "oldest_ns", (json_int_t)v.oldest_ns, "removed_objects",
	    (json_int_t)v.removed, "lost_leaves", (json_int_t)v.lost, "last_success_ns", (json_int_t)v.last_success_ns, "message",
	    v.error ? v.message : "", "drill", drill_json(fs));
}
