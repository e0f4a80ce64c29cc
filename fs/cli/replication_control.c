/*
 * replication_control.c: replication as attributes of the mount's root: facts to read, and what an admin can do.
 *
 *     clawfs.peers                     all nodes as JSON
 *     clawfs.replica.NAME.FACT         state, seq, lag_seconds, lag_bytes, last_ack, fence of one peer
 *     clawfs.peer.invite               set "NAME ADDRESS SECONDS" ("-": to be chosen), then get the token
 *     clawfs.peer.remove, .rename      set "NAME", "OLD NEW"
 *     clawfs.promote, .resync          set to anything
 *     clawfs.handover                  set "PEER" or "PEER SECONDS"
 *
 * Who may set is checked by the table that asks here (fs/face/control.c), who may read is checked here: all of it is for admins.
 * Server and node say by errno what came of it.
 */
#include "fs/cli/replication.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TOKEN_SHOWN_NS (10 * NSEC_PER_SEC) /* getfattr(1) asks twice */
#define HANDOVER_NS    (60 * NSEC_PER_SEC)

/* ---- facts ---- */

static json_t *peer_json(const struct peer_status *p)
{
	return json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}", "state",
			 peer_state_name(p->state), "leads", p->leads, "epoch", (json_int_t)p->promised, "seq",
			 (json_int_t)p->durable_seq, "applied_seq", (json_int_t)p->applied_seq, "lag_batches",
			 (json_int_t)p->lag_batches, "lag_bytes", (json_int_t)p->lag_bytes, "lag_seconds", p->lag_seconds,
			 "last_ack_ns", (json_int_t)p->last_ack_ns, "fence", (json_int_t)p->fence, "sent_bytes",
			 (json_int_t)p->sent_bytes, "received_bytes", (json_int_t)p->received_bytes, "connects",
			 (json_int_t)p->connects, "errors", (json_int_t)p->errors, "resync_rows", (json_int_t)p->resync_rows,
			 "resync_bytes", (json_int_t)p->resync_bytes, "resync_share", p->resync_share, "reason",
			 bytes_json((struct slice){p->reason, strlen(p->reason)})); /* a peer may have chosen it */
}

/* "peers", by name. */
void replication_status(void *ctx, void *object)
{
	struct replication *r = ctx;
	struct peer_status status[PEERS_MAX];
	uint32_t n = server_status(r->server, status, PEERS_MAX);
	json_t *peers = json_object();

	for (uint32_t i = 0; i < n; i++)
		json_object_set_new(peers, status[i].name, peer_json(&status[i]));
	json_object_set_new(object, "peers", peers);
}

static const struct peer_status *status_find(const struct peer_status *status, uint32_t n, const char *name)
{
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(status[i].name, name) == 0)
			return &status[i];
	return NULL;
}

/* clawfs.peers: all nodes, this one too. */
static int get_peers(struct replication *r, const char *rest, struct buf *out)
{
	struct peer_status status[PEERS_MAX];
	struct replica_point here;
	struct peers list;
	uint32_t n = server_status(r->server, status, PEERS_MAX);
	int err = peers_load(r->dir, &list);

	(void)rest;
	if (err < 0)
		return err;
	replication_point(r, &here);
	json_t *all = json_array();
	for (uint32_t i = 0; i < list.n; i++) {
		const struct peer *p = &list.peer[i];
		const struct peer_status *s = status_find(status, n, p->name);
		const bool self = p->node_id == here.node_id;
		json_t *one = s && !self ? peer_json(s) : json_object();

		json_object_set_new(one, "name", json_string(p->name));
		json_object_set_new(one, "id", json_integer(p->node_id));
		json_object_set_new(one, "address", json_string(p->address));
		json_object_set_new(one, "self", json_boolean(self));
		if (self)
			json_object_set_new(one, "leads", json_boolean(here.role == ROLE_LEADER));
		json_array_append_new(all, one);
	}
	char *text = json_dumps(all, JSON_INDENT(2));
	if (text)
		buf_put(out, text, strlen(text));
	free(text);
	json_decref(all);
	return text ? 0 : -ENOMEM;
}

/* clawfs.replica.NAME.FACT; names may have dots, facts have none. */
static int get_replica(struct replication *r, const char *rest, struct buf *out)
{
	struct peer_status status[PEERS_MAX];
	char name[WIRE_NAME_MAX + 1];
	const char *dot = strrchr(rest, '.');
	uint32_t n = server_status(r->server, status, PEERS_MAX);

	if (!dot || (size_t)(dot - rest) >= sizeof(name))
		return -ENODATA;
	memcpy(name, rest, (size_t)(dot - rest));
	name[dot - rest] = '\0';
	const struct peer_status *p = status_find(status, n, name);
	if (!p)
		return -ENODATA;
	const char *fact = dot + 1;
	if (strcmp(fact, "state") == 0)
		buf_printf(out, "%s", peer_state_name(p->state));
	else if (strcmp(fact, "seq") == 0)
		buf_printf(out, "%" PRIu64, p->durable_seq);
	else if (strcmp(fact, "lag_seconds") == 0)
		buf_printf(out, "%.3f", p->lag_seconds);
	else if (strcmp(fact, "lag_bytes") == 0)
		buf_printf(out, "%" PRIu64, p->lag_bytes);
	else if (strcmp(fact, "last_ack") == 0)
		buf_printf(out, "%" PRId64, p->last_ack_ns);
	else if (strcmp(fact, "fence") == 0)
		buf_printf(out, "%" PRIu64, p->fence);
	else
		return -ENODATA;
	return 0;
}

/* ---- an admin's acts ---- */

static void token_forget_locked(struct replication *r) REQUIRES(r->token_lock)
{
	if (r->token.p)
		explicit_bzero(r->token.p, r->token.cap);
	buf_reset(&r->token);
	r->token_ends_ns = 0;
}

void replication_forget_token(struct replication *r)
{
	mutex_lock(&r->token_lock);
	token_forget_locked(r);
	mutex_unlock(&r->token_lock);
}

/* clawfs.peer.invite: the newest token, for a moment. */
static int get_invite(struct replication *r, const char *rest, struct buf *out)
{
	(void)rest;
	mutex_lock(&r->token_lock);
	if (clock_mono_ns(&clock_system) >= r->token_ends_ns)
		token_forget_locked(r);
	buf_put(out, r->token.p, r->token.len);
	mutex_unlock(&r->token_lock);
	return out->len ? 0 : -ENODATA;
}

/* Up to `max` words; returns how many there were. */
static int words(char *text, char *ret[], int max)
{
	char *state = NULL;
	int n = 0;

	for (char *w = strtok_r(text, " ", &state); w; w = strtok_r(NULL, " ", &state), n++)
		if (n < max)
			ret[n] = w;
	return n;
}

/* "NAME ADDRESS SECONDS"; "-" for a name or address to be chosen here. */
static int set_invite(struct replication *r, char *value)
{
	CLEANUP_BUF struct buf token = {0};
	char *word[3], chosen[16], *end;
	uint8_t id[16];

	if (words(value, word, 3) != 3)
		return -EINVAL;
	uint64_t ttl_s = strtoull(word[2], &end, 10);
	int err = *end ? -EINVAL : uuid_random(id);
	if (err < 0)
		return err;
	snprintf(chosen, sizeof(chosen), "node-%02x%02x%02x", id[0], id[1], id[2]);
	err = server_invite(r->server, strcmp(word[0], "-") == 0 ? chosen : word[0], strcmp(word[1], "-") == 0 ? NULL : word[1],
			    ttl_s, &token);
	if (err < 0)
		return err;
	mutex_lock(&r->token_lock);
	token_forget_locked(r);
	buf_put(&r->token, token.p, token.len);
	r->token_ends_ns = clock_mono_ns(&clock_system) + TOKEN_SHOWN_NS;
	err = r->token.failed ? -ENOMEM : 0;
	mutex_unlock(&r->token_lock);
	explicit_bzero(token.p, token.cap);
	return err;
}

static int set_remove(struct replication *r, char *value)
{
	return server_remove_peer(r->server, value);
}

static int set_rename(struct replication *r, char *value)
{
	char *word[2];

	return words(value, word, 2) == 2 ? server_rename_peer(r->server, word[0], word[1]) : -EINVAL;
}

static int set_promote(struct replication *r, char *value)
{
	(void)value;
	return node_promote(r->node);
}

static int set_resync(struct replication *r, char *value)
{
	(void)value;
	return node_resync(r->node);
}

/* "PEER" or "PEER SECONDS" */
static int set_handover(struct replication *r, char *value)
{
	char *word[2], *end = NULL;
	int n = words(value, word, 2);
	uint64_t timeout_s = n == 2 ? strtoull(word[1], &end, 10) : HANDOVER_NS / NSEC_PER_SEC;

	if (n < 1 || n > 2 || (end && *end) || timeout_s > INT64_MAX / NSEC_PER_SEC)
		return -EINVAL;
	return node_handover(r->node, word[0], (int64_t)timeout_s * NSEC_PER_SEC);
}

static const struct attribute {
	const char *name; /* ends in '.': what begins with it */
	int (*get)(struct replication *r, const char *rest, struct buf *out);
	int (*set)(struct replication *r, char *value);
} attributes[] = {
    {"handover", NULL, set_handover},  {"peer.invite", get_invite, set_invite},
    {"peer.remove", NULL, set_remove}, {"peer.rename", NULL, set_rename},
    {"peers", get_peers, NULL},        {"promote", NULL, set_promote},
    {"replica.", get_replica, NULL},   {"resync", NULL, set_resync},
};

static const struct attribute *attribute_find(const char *name, const char **ret_rest)
{
	for (size_t i = 0; i < ARRAY_SIZE(attributes); i++) {
		size_t n = strlen(attributes[i].name);
		bool family = attributes[i].name[n - 1] == '.';

		if (strncmp(name, attributes[i].name, n) == 0 && (family || !name[n])) {
			*ret_rest = name + n;
			return &attributes[i];
		}
	}
	return NULL;
}

/* Names and addresses of machines, and tokens: for root and the owner of the root directory. */
static int check_reader(const struct replication *r, const struct fs_cred *cred)
{
	struct fs_attr root;

	if (cred->uid == 0)
		return 0;
	int err = fs_getattr(r->fs, FS_ROOT_INO, &root);
	return err < 0 || cred->uid == root.uid ? err : -EPERM;
}

int replication_get(void *ctx, const struct fs_cred *cred, const char *name, struct buf *out)
{
	const char *rest;
	const struct attribute *a = attribute_find(name, &rest);

	if (!a || !a->get)
		return -ENODATA;
	int err = check_reader(ctx, cred);
	return err < 0 ? err : a->get(ctx, rest, out);
}

int replication_set(void *ctx, const struct fs_cred *cred, const char *name, const void *value, size_t len)
{
	const char *rest;
	const struct attribute *a = attribute_find(name, &rest);

	(void)cred;
	if (!a || !a->set)
		return -EOPNOTSUPP;
	CLEANUP_FREE char *text = strndup(value, len);
	return text ? a->set(ctx, text) : -ENOMEM;
}
