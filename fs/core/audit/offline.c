/*
 * offline.c: acts on a volume that is not mounted, entered by who carries them out.
 *
 * The log is opened, gets its entry and is closed, each time: nothing stays open while the act itself works on the same store.
 * Where the archive was is carried on as the log has it.  No segment goes for its age here: how much is kept is an option of the
 * mount.
 */
#include "fs/core/audit/offline.h"

#include <errno.h>
#include <string.h>

#include "fs/core/audit/impl.h"
#include "fs/store/super.h"

#define KEEP_ALL 1000000u

struct opened {
	struct audit_log *log;
	struct audit *carried; /* owned */
};

static int open_log(struct store *store, struct opened *ret) NO_THREAD_SAFETY
{
	struct audit_log_config c = {
	    .store = store, .clock = &clock_system, .segment_bytes = AUDIT_SEGMENT_BYTES, .keep = KEEP_ALL};
	struct audit *a = calloc(1, sizeof(*a));
	struct audit_log_found found;
	struct super s;

	if (!a)
		return -ENOMEM;
	a->told = AUDIT_ACTS;
	a->place.next = FEED_WHOLE;
	int r = super_read(store, &s);
	if (r == 0) {
		memcpy(c.volume, s.volume, sizeof(c.volume));
		memcpy(c.node, s.node, sizeof(c.node));
		r = audit_log_open(&c, audit_recall_entry, a, &found, &ret->log);
	}
	if (r < 0) {
		free(a);
		return r;
	}
	audit_carry_locked(a);
	audit_log_set_carried(ret->log, a->carried);
	ret->carried = a;
	return 0;
}

/* `object` is given up. */
static int enter(struct store *store, json_t *object, uint64_t *ret_n)
{
	CLEANUP_FREE char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
	struct opened o;
	int r = text ? open_log(store, &o) : -ENOMEM;

	json_decref(object);
	if (r < 0)
		return r;
	r = audit_log_append(o.log, &(struct slice){text + 1, strlen(text) - 2}, 1, ret_n);
	if (r < 0)
		audit_log_abandon(o.log);
	else
		audit_log_close(o.log);
	free(o.carried);
	return r;
}

int audit_offline_act(struct store *store, const struct fs_cred *who, const char *what, const char *value, uint64_t *ret_act)
{
	json_t *o = audit_entry_new(&clock_system, "act", who);

	feed_set_bytes(o, "what", (struct slice){what, strlen(what)});
	feed_set_bytes(o, "value", (struct slice){value, min_u64(strlen(value), AUDIT_VALUE_MAX)});
	json_object_set_new(o, "offline", json_true());
	return enter(store, o, ret_act);
}

int audit_offline_result(struct store *store, uint64_t act, const char *result)
{
	json_t *o = json_pack("{s:s, s:I, s:s}", "kind", "result", "of", (json_int_t)act, "result", result);

	feed_set_time(o, "time", clock_real_ns(&clock_system));
	return enter(store, o, NULL);
}
