/*
 * replication.c: a mounted volume among its peers: the node, its server, and what connects both with the volume and the mount.
 *
 *     fs (a batch is durable) -> node -> server (sockets) ... peers
 *     peers ... server -> node (acks, role, list of peers) -> fs, face
 *     admin -> attributes of the mount (replication_control.c) -> node, server
 *
 * A volume without DIR/peers is alone and has none of this, until a leader is mounted with listen=, which founds the list.
 *
 * Life: replication_start() before the mount is there, so that a leader can ask its peers whether another one leads by now
 * (replication_ask); replication_stop() when it is gone, which gives followers a moment to get what they still lack; and
 * replication_free() after the volume was closed, because its last commit still tells the node.
 *
 * Hooks come from any thread, those of the server and those that commit; they take only `lock`, shared, and wait for nothing.
 * What the mount asks needs no lock: server and node are there for as long as it is.
 */
#include "fs/cli/replication.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "replicate/net/net.h"

#define ASK_NS   (2 * NSEC_PER_SEC)
#define DRAIN_NS (5 * NSEC_PER_SEC)
#define STEP_NS  (10 * 1000 * 1000)

void replication_point(struct replication *r, struct replica_point *ret)
{
	struct replica_volume *v = fs_replica(r->fs);

	v->ops->get_point(v, ret);
}

/* ---- hooks ---- */

static void wake(void *ctx)
{
	struct replication *r = ctx;

	rwlock_rdlock(&r->lock);
	server_wake(r->wakes);
	rwlock_rdunlock(&r->lock);
}

/* An fsync that waits for followers wants its batch to be sent at once; otherwise a few go out together. */
static void news(void *ctx)
{
	struct replication *r = ctx;

	rwlock_rdlock(&r->lock);
	if (fs_has_policies(r->fs))
		server_wake(r->wakes);
	else
		server_news(r->wakes);
	rwlock_rdunlock(&r->lock);
}

static void batch_durable(void *ctx, uint64_t seq)
{
	struct replication *r = ctx;

	node_batch_durable(r->node, seq);
}

static uint32_t ask_block(void *ctx)
{
	struct replication *r = ctx;

	return node_ask_block(r->node);
}

static void acked(void *ctx, const uint64_t *durable, uint32_t n_known, uint32_t n_live)
{
	struct replication *r = ctx;
	uint64_t floor = 0;

	fs_acked(r->fs, durable, n_known, n_live);
	for (uint32_t i = n_known; i > 0 && !floor; i--) /* the lowest that is known */
		floor = durable[i - 1];
	fs_set_ship_floor(r->fs, floor);
}

static void role_changed(void *ctx, enum replica_role role)
{
	struct replication *r = ctx;

	log_info("%s: this node %s", r->dir,
		 role == ROLE_LEADER ? "leads now; the kernel caches little of it until it is mounted anew" : "follows now");
	rwlock_rdlock(&r->lock);
	if (r->face)
		face_role_changed(r->face);
	rwlock_rdunlock(&r->lock);
}

static void peers_changed(void *ctx, const struct peers *p)
{
	struct replication *r = ctx;

	rwlock_rdlock(&r->lock);
	server_set_peers(r->wakes, p);
	rwlock_rdunlock(&r->lock);
}

/* ---- who we are ---- */

/* The host's name up to its first dot, made one that a node can have. */
static void name_of_host(char ret[WIRE_NAME_MAX + 1])
{
	char host[WIRE_NAME_MAX + 1] = "";

	if (gethostname(host, sizeof(host) - 1) < 0)
		*host = '\0';
	host[strcspn(host, ".")] = '\0';
	for (char *p = host; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '-' && *p != '_')
			*p = '-';
	strcpy(ret, peer_name_ok(host) ? host : "node");
}

/* Where the others reach this node: what the admin says, or where it listens; an address of this host when that is everywhere. */
static int own_address(const struct args *a, char ret[WIRE_TEXT_MAX + 1])
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (a->advertise || !address_is_any(a->listen)) {
		snprintf(ret, WIRE_TEXT_MAX + 1, "%s", a->advertise ? a->advertise : a->listen);
		return 0;
	}
	int r = address_parse(a->listen, host, sizeof(host), &port);
	if (r == 0)
		r = net_own_host(host);
	return r < 0 ? r : address_print(host, port, ret, WIRE_TEXT_MAX + 1);
}

static int found(const struct args *a, const char *dir, const struct replica_point *here)
{
	char name[WIRE_NAME_MAX + 1], address[WIRE_TEXT_MAX + 1];
	int r = own_address(a, address);

	if (r < 0)
		return r;
	name_of_host(name);
	return peers_found(dir, here->volume, here->node, here->node_id, a->name ? a->name : name, address);
}

/* A leader that listens elsewhere than the list says tells the others so. */
static int move_own_address(const struct args *a, const char *dir, const struct replica_point *here, struct peers *list)
{
	char address[WIRE_TEXT_MAX + 1];
	int r = a->listen && here->role == ROLE_LEADER ? own_address(a, address) : -ENOENT;

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (uint32_t i = 0; i < list->n; i++) {
		struct peer *p = &list->peer[i];

		if (p->node_id != here->node_id || strcmp(p->address, address) == 0)
			continue;
		strcpy(p->address, address);
		list->version++;
		list->epoch = here->promised;
		return peers_save(dir, list);
	}
	return 0;
}

/* Without listen=: everywhere, at the port that the list has for this node; nowhere when it has none. */
static const char *where_to_listen(const struct args *a, const struct peer *self, char text[32])
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (a->listen)
		return a->listen;
	if (!self || address_parse(self->address, host, sizeof(host), &port) < 0)
		return NULL;
	snprintf(text, 32, "%s:%u", strchr(host, ':') ? "[::]" : "0.0.0.0", port);
	return text;
}

static int geometry_of(const char *dir, struct volume_geometry *ret)
{
	struct super copy[2];
	bool valid[2];
	int r = volume_peek(dir, copy, valid);

	if (r < 0)
		return r;
	const struct super *s = volume_newest(copy, valid);
	if (!s)
		return -EBADMSG;
	*ret = (struct volume_geometry){
	    .journal_segments = s->journal_segments, .journal_segment_kib = s->journal_segment_kib, .chunk_kib = s->chunk_kib};
	strcpy(ret->label, s->label);
	return 0;
}

/* ---- life ---- */

/* DIR/peers as a list; -ENOENT: the volume is alone and stays so. */
static int load_list(const struct args *a, const char *dir, const struct replica_point *here, struct peers *ret)
{
	int r = peers_load(dir, ret);

	if (r == -ENOENT && a->listen && here->role == ROLE_LEADER) {
		r = found(a, dir, here);
		if (r == 0)
			r = peers_load(dir, ret);
	}
	return r < 0 ? r : move_own_address(a, dir, here, ret);
}

static int start_node(struct replication *r, const struct peers *list)
{
	const struct node_config c = {.volume = fs_replica(r->fs),
				      .clock = &clock_system,
				      .peers = *list,
				      .hooks = {.ctx = r,
						.acked = acked,
						.role_changed = role_changed,
						.wake = wake,
						.news = news,
						.peers_changed = peers_changed}};

	return node_new(&c, &r->node);
}

static int start_server(struct replication *r, const struct args *a, const struct peer *self)
{
	char listen[32];
	struct server_options o = {
	    .dir = r->dir, .volume = fs_replica(r->fs), .listen = where_to_listen(a, self, listen), .rate = a->replica_rate};
	int err = geometry_of(r->dir, &o.geometry);

	if (err == 0)
		err = server_start(r->node, &o, &r->server);
	if (err < 0)
		return err;
	rwlock_wrlock(&r->lock);
	r->wakes = r->server;
	rwlock_wrunlock(&r->lock);
	server_wake(r->server); /* what was to be said before there was anybody to hear it */
	if (o.listen)
		log_info("%s: listening for peers on %s", r->dir, o.listen);
	return 0;
}

static int start(struct replication *r, const struct args *a)
{
	const struct fs_hooks hooks = {.ctx = r, .durable = batch_durable, .ask_block = ask_block, .status = replication_status};
	struct replica_point here;
	struct peers list;

	replication_point(r, &here);
	int err = load_list(a, r->dir, &here, &list);
	if (err == 0)
		err = start_node(r, &list);
	if (err < 0)
		return err;
	fs_set_hooks(r->fs, &hooks);
	return start_server(r, a, peers_by_id(&list, here.node_id));
}

int replication_start(const struct args *a, const char *dir, struct fs *fs, struct replication **ret)
{
	struct replication *r = calloc(1, sizeof(*r));
	int err;

	*ret = NULL;
	if (!r)
		return -ENOMEM;
	r->fs = fs;
	r->provider = (struct control_provider){r, replication_get, replication_set};
	rwlock_init(&r->lock);
	mutex_init(&r->token_lock);
	r->dir = strdup(dir);
	err = r->dir ? start(r, a) : -ENOMEM;
	if (err < 0 && !r->node) {
		replication_free(r);
		return err == -ENOENT ? 0 : err;
	}
	*ret = r;
	return err;
}

const struct control_provider *replication_provider(const struct replication *r)
{
	return r ? &r->provider : NULL;
}

void replication_set_face(struct replication *r, struct face *face)
{
	if (!r)
		return;
	rwlock_wrlock(&r->lock);
	r->face = face;
	rwlock_wrunlock(&r->lock);
	if (face)
		face_role_changed(face); /* it may have, since the face was made */
}

/* Whether every other peer has answered, or cannot be reached. */
static bool all_asked(struct replication *r)
{
	struct peer_status status[PEERS_MAX];
	uint32_t n = server_status(r->server, status, PEERS_MAX);
	struct replica_point here;

	replication_point(r, &here);
	for (uint32_t i = 0; i < n; i++) {
		bool answered =
		    status[i].promised && status[i].promised <= here.promised; /* above: this node is about to follow */
		bool unreachable = !status[i].has_address || (status[i].errors && !status[i].connects);

		if (!answered && !unreachable)
			return false;
	}
	return true;
}

/* Whether every follower that is connected has durably what this node has. */
static bool all_have(struct replication *r)
{
	struct peer_status status[PEERS_MAX];
	uint32_t n = server_status(r->server, status, PEERS_MAX);
	struct replica_point here;

	replication_point(r, &here);
	for (uint32_t i = 0; i < n; i++)
		if (status[i].state == PEER_STREAMING && status[i].durable_seq < here.durable_seq)
			return false;
	return true;
}

/* For as long as this node leads. */
static void leader_waits(struct replication *r, bool (*done)(struct replication *r), int64_t limit_ns)
{
	const int64_t end = clock_mono_ns(&clock_system) + limit_ns;
	const struct timespec step = {.tv_nsec = STEP_NS};

	while (fs_role(r->fs) == ROLE_LEADER && !done(r) && clock_mono_ns(&clock_system) < end)
		nanosleep(&step, NULL);
}

void replication_ask(struct replication *r)
{
	if (r)
		leader_waits(r, all_asked, ASK_NS);
}

void replication_let_go(void *ctx)
{
	struct replication *r = ctx;

	if (r)
		node_cancel_handover(r->node);
}

void replication_stop(struct replication *r)
{
	if (!r || !r->server)
		return;
	if (fs_role(r->fs) == ROLE_LEADER && fs_checkpoint(r->fs) == 0) /* it commits what nobody synced */
		leader_waits(r, all_have, DRAIN_NS);
	replication_let_go(r);
	rwlock_wrlock(&r->lock);
	r->wakes = NULL;
	rwlock_wrunlock(&r->lock);
	r->server = server_stop(r->server);
}

struct replication *replication_free(struct replication *r)
{
	if (!r)
		return NULL;
	if (r->node)
		node_free(r->node);
	replication_forget_token(r);
	buf_free(&r->token);
	mutex_destroy(&r->token_lock);
	rwlock_destroy(&r->lock);
	free(r->dir);
	free(r);
	return NULL;
}
