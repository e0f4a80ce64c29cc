/*
 * replica.c: the verbs on one mounted node of several: promote, handover, resync, durability, wait.
 *
 * Each sets or reads an attribute of the mount, so the daemon does the work and says by errno what came of it; the words for an
 * admin are here, in one table.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WAIT_STEP_NS (2 * 1000 * 1000)
#define REMOUNT_NS   (30 * NSEC_PER_SEC) /* of a hand-over: until this mount is a follower's */
#define AWAY_NS      (3 * NSEC_PER_SEC)  /* a mount that is made anew does not answer for a moment */

static const struct {
	int error;
	const char *reason;
} reasons[] = {
    {EPERM, "only root and the owner of the mount's root directory may do this"},
    {EROFS, "this node does not lead, or the mount is read-only: do it on the leader, which `clawfs peer list` names"},
    {EAGAIN, "this node has not got everything it needs yet; `clawfs status` says what it waits for"},
    {ENOENT, "no peer of that name; `clawfs peer list` names them"},
    {EEXIST, "there is a peer of that name already"},
    {E2BIG, "there are as many peers as there can be"},
    {ENOTCONN, "that peer is not connected"},
    {ETIMEDOUT, "not done in time; this node goes on as before"},
    {ECANCELED, "the peer did not take it, or this node is being stopped; this node goes on as before"},
    {EINPROGRESS, "the peer was offered the lead and does not answer: writers wait until it is heard of; if it is lost, "
		  "`clawfs promote` here takes the lead back"},
    {EBUSY, "another hand-over is under way"},
    {EINVAL, "that cannot be: the daemon's log says why"},
    {ENOKEY, "the key of the peers' certificate authority (peers/ca.key in the volume's directory) is not on this node"},
    {EALREADY, "that is so already"},
};

void complain_admin(const char *what, const char *path, int error)
{
	json_t *facts;

	if (error == -ENODATA || error == -EOPNOTSUPP) {
		int r = status_read(path, &facts);

		if (r < 0) {
			complain_unreachable(path, r);
			return;
		}
		json_decref(facts);
		complain("%s: the volume at %s has no peers: mount it once with -o listen=HOST:PORT", what, path);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (reasons[i].error == -error) {
			complain("%s: %s", what, reasons[i].reason);
			return;
		}
	complain("%s: %s", what, strerror(-error));
}

/* A command without more to it than its name. */
static int command(const char *name, const char *what, const char *path)
{
	int r = attribute_set(path, name, "1");

	if (r < 0)
		complain_admin(what, path, r);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int verb_promote(const struct args *a)
{
	return command("promote", "not promoted", a->operand[0]);
}

int verb_resync(const struct args *a)
{
	return command("resync", "not resynced", a->operand[0]);
}

static void sleep_step(void)
{
	const struct timespec step = {.tv_nsec = WAIT_STEP_NS};

	nanosleep(&step, NULL);
}

/* Whether the mount becomes a follower's, which it does not when it says that it leads still.  Its end may be why `r` is an
 * error. */
static bool becomes_follower(const char *path, int r)
{
	const int64_t end = clock_mono_ns(&clock_system) + REMOUNT_NS;

	while (clock_mono_ns(&clock_system) < end) {
		CLEANUP_BUF struct buf role = {0};
		bool answers = attribute_read(path, "role", &role) == 0;

		if (answers && strcmp((const char *)role.p, "follower") == 0)
			return true;
		if (answers && r < 0)
			return false;
		sleep_step();
	}
	return false;
}

int verb_handover(const struct args *a)
{
	const char *peer = a->operand[0], *path = a->operand[1];
	char value[256];

	if (snprintf(value, sizeof(value), "%s %" PRIu64, peer, a->timeout_ns / (uint64_t)NSEC_PER_SEC) >= (int)sizeof(value)) {
		complain_admin("not handed over", path, -ENOENT);
		return EXIT_FAILED;
	}
	int r = mount_flush(path); /* later nobody takes what the kernel still holds */
	if (r == 0)
		r = attribute_set(path, "handover", value);
	if ((r == 0 || r == -ENOTCONN || r == -ECONNABORTED) && becomes_follower(path, r))
		return EXIT_OK;
	if (r == 0)
		complain("%s leads now, but %s did not come back as a follower: the daemon's log says why", peer, path);
	else
		complain_admin("not handed over", path, r);
	return EXIT_FAILED;
}

int verb_durability(const struct args *a)
{
	const char *value = a->n_operands == 2 ? a->operand[0] : NULL, *path = a->operand[a->n_operands - 1];
	CLEANUP_BUF struct buf text = {0};
	int r;

	if (!value)
		r = attribute_read(path, "durability", &text);
	else if (strcmp(value, "inherit") == 0)
		r = attribute_remove(path, "durability");
	else
		r = attribute_set(path, "durability", value);
	if (r == 0 && !value)
		printf("%s\n", (const char *)text.p);
	if (r == 0)
		return EXIT_OK;
	if (r == -EINVAL)
		complain("%s: must be local, replicas=K or replicas=K,else=local with K from 1 to 15, or inherit", value);
	else if (r == -EROFS || r == -EPERM)
		complain_admin("durability not set", path, r);
	else
		complain_unreachable(path, r);
	return EXIT_FAILED;
}

/* 1: it shows everything up to `seq`; 0: not yet, or it counts the batches of a history that has ended. */
static int shows(const char *path, uint64_t seq)
{
	CLEANUP_BUF struct buf pos = {0};
	json_t *facts;
	int r = attribute_read(path, "pos", &pos);

	if (r < 0)
		return r;
	if (strtoull((const char *)pos.p, NULL, 10) < seq)
		return 0;
	r = status_read(path, &facts);
	if (r < 0)
		return r;
	const json_t *here = json_object_get(facts, "replica");
	bool readable = json_is_true(json_object_get(here, "readable"));
	bool in_epoch = json_equal(json_object_get(here, "history"), json_object_get(here, "epoch"));
	json_decref(facts);
	return readable && in_epoch;
}

/*
 * Asks again and again instead of setting clawfs.wait: the kernel locks the root directory while an attribute of it is set, and
 * whoever looks up a name in it would wait too.
 */
int verb_wait(const struct args *a)
{
	const int64_t begin = clock_mono_ns(&clock_system), end = begin + (int64_t)a->timeout_ns;
	int64_t answered = begin;
	const char *path = a->operand[1];
	char *rest;
	uint64_t seq = strtoull(a->operand[0], &rest, 10);

	if (*rest || rest == a->operand[0]) {
		complain("%s: must be a number, as clawfs.pos has it", a->operand[0]);
		return EXIT_USAGE;
	}
	for (;;) {
		int r = shows(path, seq);
		int64_t now = clock_mono_ns(&clock_system);

		if (r > 0)
			return EXIT_OK;
		if (r == 0)
			answered = now;
		if (r < 0 && (now >= answered + AWAY_NS || now >= end)) {
			complain_unreachable(path, r);
			return EXIT_FAILED;
		}
		if (now >= end) {
			complain("%s does not show batch %" PRIu64 " yet; `clawfs status %s` says how far it is", path, seq,
				 path);
			return EXIT_FAILED;
		}
		sleep_step();
	}
}
