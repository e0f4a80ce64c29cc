/*
 * acts.c: the table of acts, and acts on a volume past its daemon.
 */
#include "fs/cli/acts.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/audit/offline.h"
#include "fs/store/crypt/crypt_store.h"

static const struct {
	const char *verb;
	enum act_kind kind;
} acts[] = {
    {"format", ACT_SELF}, /* over another volume; else nothing was there to be changed */
    {"mount", ACT_DAEMON},
    {"umount", ACT_DAEMON},
    {"status", ACT_NONE},
    {"info", ACT_NONE},
    {"sync", ACT_DAEMON},
    {"fsck", ACT_SELF}, /* it replays the journal, and mends a superblock */
    {"dump", ACT_NONE},
    {"peer invite", ACT_DAEMON},
    {"peer join", ACT_SELF},
    {"peer list", ACT_NONE},
    {"peer remove", ACT_DAEMON},
    {"peer rename", ACT_DAEMON},
    {"promote", ACT_DAEMON},
    {"handover", ACT_DAEMON},
    {"resync", ACT_DAEMON},
    {"diverged list", ACT_NONE},
    {"diverged export", ACT_NONE},
    {"durability", ACT_DAEMON},
    {"wait", ACT_NONE},
    {"tier add", ACT_SELF}, /* credentials are a file of this node; the rest is an attribute */
    {"tier list", ACT_NONE},
    {"tier test", ACT_DAEMON},
    {"tier remove", ACT_DAEMON},
    {"tier show", ACT_NONE},
    {"tier evict", ACT_DAEMON},
    {"compress", ACT_DAEMON},
    {"tier recall", ACT_DAEMON},
    {"tier pin", ACT_DAEMON},
    {"tier unpin", ACT_DAEMON},
    {"scrub start", ACT_DAEMON},
    {"scrub pause", ACT_DAEMON},
    {"scrub stop", ACT_DAEMON},
    {"scrub status", ACT_NONE},
    {"scrub clear", ACT_DAEMON},
    {"scrub release", ACT_DAEMON},
    {"gc", ACT_DAEMON},
    {"stats", ACT_NONE},
    {"top", ACT_NONE},
    {"profile", ACT_NONE},
    {"archive set", ACT_DAEMON},
    {"archive status", ACT_NONE},
    {"archive off", ACT_DAEMON},
    {"archive now", ACT_NONE}, /* it waits for what happens anyway */
    {"archive key", ACT_DAEMON},
    {"restore", ACT_SELF},
    {"drill", ACT_DAEMON},
    {"upgrade", ACT_NONE},
    {"snap create", ACT_DAEMON},
    {"snap delete", ACT_DAEMON},
    {"snap diff", ACT_NONE},
    {"snap list", ACT_NONE},
    {"snap rollback", ACT_DAEMON},
    {"snap rotate", ACT_DAEMON},
    {"snap schedule", ACT_DAEMON},
    {"clone", ACT_NONE}, /* anybody's, of files that he may read and write */
    {"du", ACT_NONE},
    {"quota set", ACT_DAEMON},
    {"quota show", ACT_NONE},
    {"quota list", ACT_NONE},
    {"audit", ACT_NONE},
    {"watch", ACT_NONE},
    {"key list", ACT_NONE},
    {"key add", ACT_SELF},
    {"key remove", ACT_SELF},
    {"key change", ACT_SELF},
    {"mount.clawfs", ACT_DAEMON},
};

enum act_kind act_kind_of(const char *verb)
{
	for (size_t i = 0; i < ARRAY_SIZE(acts); i++)
		if (strcmp(acts[i].verb, verb) == 0)
			return acts[i].kind;
	return ACT_UNDECIDED;
}

const char *act_kind_name(enum act_kind kind)
{
	static const char *const names[] = {
	    [ACT_UNDECIDED] = "undecided", [ACT_NONE] = "none", [ACT_DAEMON] = "daemon", [ACT_SELF] = "self"};

	return names[kind];
}

static int fail(const struct act *act, const char *dir, int error)
{
	complain("%s: it must be entered in the audit log of %s, and cannot be: %s", act->verb, dir, strerror(-error));
	return error;
}

int act_begin_in(const char *verb, struct store *store, const char *value, struct act *ret)
{
	const struct fs_cred self = {.uid = getuid(), .gid = getgid(), .pid = (uint32_t)getpid()};

	assert(act_kind_of(verb) == ACT_SELF);
	*ret = (struct act){.verb = verb, .store = store};
	snprintf(ret->value, sizeof(ret->value), "%s", value);
	return audit_offline_act(store, &self, verb, value, &ret->n);
}

/* ---- a volume that the caller has not opened ---- */

/* The daemon of the volume in `dir` enters "VERB: VALUE", and `result` unless that is NULL. */
static int note(const struct act *act, const char *result)
{
	char text[sizeof(act->value) + 256];

	snprintf(text, sizeof(text), "%s: %s%s%s", act->verb, act->value, result ? ": " : "", result ? result : "");
	return attribute_set(act->mountpoint, "audit.note", text);
}

static int begin_by_daemon(const char *dir, const char *place, struct act *act)
{
	int r = mounts_of_volume(dir, place, &act->mountpoint);

	if (r < 0) {
		volume_complain("cannot open", dir, -EBUSY);
		return -EBUSY;
	}
	r = note(act, NULL);
	if (r == 0)
		return 0;
	free(act->mountpoint);
	act->mountpoint = NULL;
	return fail(act, dir, r);
}

static int open_store(const char *dir, const struct data_key *key, struct act *act)
{
	struct store *wrapped;
	int r = store_posix_open(dir, false, &act->store);

	if (r < 0)
		return r;
	act->own_store = true;
	if (key->mode == ENCRYPTION_NONE)
		return 0;
	r = crypt_store_new(act->store, NULL, 0, key, &wrapped); /* nothing of the journal is opened: no file is mapped */
	if (r == 0)
		act->store = wrapped;
	else
		act->store = store_close(act->store);
	return r;
}

int act_begin(const char *verb, const char *dir, const char *place, const struct data_key *key, const char *value,
	      struct act *ret)
{
	struct act act = {.verb = verb};

	assert(act_kind_of(verb) == ACT_SELF);
	snprintf(act.value, sizeof(act.value), "%s", value);
	int r = open_store(dir, key, &act);
	if (r == -EBUSY)
		r = begin_by_daemon(dir, place, &act);
	else if (r < 0)
		return fail(&act, dir, r);
	if (r == 0 && act.store) {
		struct store *store = act.store;

		r = act_begin_in(verb, store, value, &act);
		act.own_store = true;
		if (r < 0) {
			store_close(store);
			return fail(&act, dir, r);
		}
	}
	if (r == 0)
		*ret = act;
	return r;
}

void act_end(struct act *act, int result, const char *words)
{
	int r = 0;

	if (!words)
		words = result < 0 ? strerror(-result) : "ok";
	if (act->mountpoint)
		r = note(act, words);
	else if (act->n)
		r = audit_offline_result(act->store, act->n, words);
	act_leave(act, r);
}

void act_leave(struct act *act, int error)
{
	if (error < 0)
		complain("%s: what came of it could not be entered in the audit log: %s", act->verb, strerror(-error));
	if (act->own_store)
		store_close(act->store);
	free(act->mountpoint);
	*act = (struct act){0};
}
