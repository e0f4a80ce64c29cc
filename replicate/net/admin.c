/*
 * admin.c: what changes the list of peers and the invitations.
 *
 * A change is made in a copy, kept on disk, and only then counts: in the server, which lets certificates in by it, and in the
 * node, which sends it to the followers.  Who joins finds three things done before the answer leaves: the invitation is used, the
 * list has the new peer, both durably.  A crash after the first of them is mended by the joiner, who asks again.
 */
#include <errno.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "replicate/net/join_message.h"
#include "replicate/peerfile.h"
#include "replicate/net/pki.h"
#include "replicate/net/server_impl.h"

static int64_t now_s(void)
{
	return clock_real_ns(&clock_system) / NSEC_PER_SEC;
}

/* ---- what counts ---- */

static void install_peers(struct server *s, const struct peers *p) EXCLUDES(s->peers_lock)
{
	mutex_lock(&s->peers_lock);
	s->peers = *p;
	mutex_unlock(&s->peers_lock);
}

static void get_invites(struct server *s, struct invites *ret) EXCLUDES(s->peers_lock)
{
	mutex_lock(&s->peers_lock);
	*ret = s->invites;
	mutex_unlock(&s->peers_lock);
	invites_expire(ret, now_s());
}

static int keep_invites(struct server *s, const struct invites *v) REQUIRES(s->admin_lock)
{
	int r = invites_save(s->dir, v);

	if (r < 0)
		return r;
	mutex_lock(&s->peers_lock);
	s->invites = *v;
	mutex_unlock(&s->peers_lock);
	return 0;
}

/* A change of this node's, which leads. */
static int keep_peers(struct server *s, struct peers *p) REQUIRES(s->admin_lock)
{
	struct replica_point at;

	s->volume->ops->get_point(s->volume, &at);
	p->epoch = at.promised;
	int r = peers_save(s->dir, p);
	if (r == 0)
		install_peers(s, p);
	return r;
}

/*
 * The node and the connections follow the list.  No lock is held: the node calls hooks.  Of two changes at once the one that
 * comes last sees, after its word, whether there is a newer list than the one it gave.  A connection that begins meanwhile meets
 * the old list here or the new one in the node.
 */
static int spread_peers(struct server *s) EXCLUDES(s->admin_lock)
{
	struct peers given, now;
	int r;

	server_get_peers(s, &now);
	do {
		given = now;
		r = node_set_peers(s->node, &given);
		server_get_peers(s, &now);
	} while (r == 0 && (now.version != given.version || now.epoch != given.epoch));
	server_end_strangers(s, &now);
	return r;
}

void server_set_peers(struct server *s, const struct peers *p)
{
	if (!s)
		return;
	mutex_lock(&s->admin_lock);
	(void)!peers_save(s->dir, p); /* logged there; the leader sends it again at the next connection */
	install_peers(s, p);
	mutex_unlock(&s->admin_lock);
	server_end_strangers(s, p);
	if (!peers_by_node(p, s->self))
		log_warn("replication: this node was removed from the list of peers: it gets nothing any more");
}

static int must_lead(struct server *s)
{
	struct replica_point at;

	s->volume->ops->get_point(s->volume, &at);
	if (at.role == ROLE_LEADER)
		return 0;
	log_error("replication: only the leader changes the list of peers, and this node follows");
	return -EROFS;
}

/* ---- peers ---- */

static const char *why_not(int r)
{
	switch (r) {
	case -EEXIST:
		return "there is a peer of that name already";
	case -ENOENT:
		return "there is no peer of that name";
	case -E2BIG:
		return "the list of peers is full";
	case -EINVAL:
		return "that is no name for a peer: letters, digits, '-', '_' and '.' make one";
	default:
		return strerror(-r);
	}
}

static int remove_locked(struct server *s, const char *name) REQUIRES(s->admin_lock)
{
	struct peers p;
	struct invites v;

	server_get_peers(s, &p);
	const struct peer *peer = peers_find(&p, name);
	if (peer && memcmp(peer->node, s->self, 16) == 0) {
		log_error("replication: cannot remove %s: that is this node", name);
		return -EINVAL;
	}
	/* Its invitation first: what it was let in by must not let it in again. */
	get_invites(s, &v);
	if (peer)
		invites_forget_node(&v, peer->node);
	int r = peers_remove(&p, name);
	if (r == 0)
		r = keep_invites(s, &v);
	if (r == 0)
		r = keep_peers(s, &p);
	invites_wipe(&v);
	if (r < 0)
		log_error("replication: cannot remove \"%s\": %s", name, why_not(r));
	return r;
}

int server_remove_peer(struct server *s, const char *name)
{
	mutex_lock(&s->admin_lock);
	int r = must_lead(s);
	if (r == 0)
		r = remove_locked(s, name);
	mutex_unlock(&s->admin_lock);
	return r < 0 ? r : spread_peers(s);
}

static int rename_locked(struct server *s, const char *name, const char *new_name) REQUIRES(s->admin_lock)
{
	struct peers p;

	server_get_peers(s, &p);
	int r = peers_rename(&p, name, new_name);
	if (r == 0)
		r = keep_peers(s, &p);
	if (r < 0)
		log_error("replication: cannot rename \"%s\" to \"%s\": %s", name, new_name, why_not(r));
	return r;
}

int server_rename_peer(struct server *s, const char *name, const char *new_name)
{
	mutex_lock(&s->admin_lock);
	int r = must_lead(s);
	if (r == 0)
		r = rename_locked(s, name, new_name);
	mutex_unlock(&s->admin_lock);
	return r < 0 ? r : spread_peers(s);
}

/* ---- invitations ---- */

static int load_ca(struct server *s, struct buf *ret_ca, struct buf *ret_key)
{
	secret_reserve(ret_key, PEERFILE_MAX);
	int r = peerfile_read(s->dir, FILE_CA_CERTIFICATE, PEERFILE_PLAIN, ret_ca);
	if (r == 0)
		r = peerfile_read(s->dir, FILE_CA_KEY, PEERFILE_SECRET, ret_key);
	if (r == -ENOENT) {
		log_error("%s/peers/%s is not here: without it nobody can be invited", s->dir, FILE_CA_KEY);
		return -ENOKEY;
	}
	if (r == 0)
		r = pki_check_key(buf_slice(ret_ca), buf_slice(ret_key));
	if (r == -EKEYREJECTED || r == -EUCLEAN) {
		log_error("%s/peers: %s and %s do not belong together", s->dir, FILE_CA_KEY, FILE_CA_CERTIFICATE);
		return -EUCLEAN;
	}
	return r;
}

/* Where a joiner is to dial when nobody says: where we listen, or a host of ours when that is everywhere. */
static int own_address(struct server *s, char *ret, size_t cap)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	int r = s->listen ? address_parse(s->listen, host, sizeof(host), &port) : -EADDRNOTAVAIL;
	if (r == 0 && address_is_any(s->listen))
		r = net_own_host(host);
	if (r == 0)
		r = address_print(host, s->port, ret, cap);
	if (r < 0)
		log_error("replication: no address to invite to is known here: %s; give one", strerror(-r));
	return r;
}

static int choose_address(struct server *s, const char *address, char *ret, size_t cap)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (!address)
		return own_address(s, ret, cap);
	if (strlen(address) >= cap || address_parse(address, host, sizeof(host), &port) < 0 || port == 0 ||
	    address_is_any(address)) {
		log_error("replication: nobody can dial \"%s\": host:port or [v6]:port is an address", address);
		return -EINVAL;
	}
	snprintf(ret, cap, "%s", address);
	return 0;
}

static int add_invite(struct server *s, const char *name, int64_t expires_s, struct token *t) REQUIRES(s->admin_lock)
{
	const struct invite *i = NULL;
	struct invites v;

	get_invites(s, &v);
	int r = invites_add(&v, name, expires_s, &i);
	if (r == 0)
		r = keep_invites(s, &v);
	if (r == 0) {
		memcpy(t->id, i->id, sizeof(t->id));
		memcpy(t->secret, i->secret, sizeof(t->secret));
	}
	invites_wipe(&v);
	return r;
}

static int check_invited(struct server *s, const char *name, uint64_t ttl_s)
{
	struct peers p;
	int r = 0;

	server_get_peers(s, &p);
	if (!peer_name_ok(name))
		r = -EINVAL;
	else if (peers_find(&p, name))
		r = -EEXIST;
	else if (p.n == PEERS_MAX)
		r = -E2BIG;
	if (r < 0)
		log_error("replication: cannot invite \"%s\": %s", name, why_not(r));
	if (r == 0 && (ttl_s == 0 || ttl_s > INVITE_TTL_MAX_S)) {
		log_error("replication: an invitation lasts from a second to %u days", INVITE_TTL_MAX_S / 86400);
		r = -EINVAL;
	}
	return r;
}

static int invite_locked(struct server *s, const char *name, const char *address, uint64_t ttl_s, struct token *t)
    REQUIRES(s->admin_lock)
{
	CLEANUP_SECRET struct buf ca_key = {0};
	CLEANUP_BUF struct buf ca = {0};
	struct replica_point at;

	int r = check_invited(s, name, ttl_s);
	if (r == 0)
		r = choose_address(s, address, t->address, sizeof(t->address));
	if (r == 0)
		r = load_ca(s, &ca, &ca_key);
	if (r == 0)
		r = pki_fingerprint(buf_slice(&ca), t->ca_sha256);
	if (r < 0)
		return r;
	s->volume->ops->get_point(s->volume, &at);
	memcpy(t->volume, at.volume, sizeof(t->volume));
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->expires_s = now_s() + (int64_t)ttl_s;
	r = add_invite(s, name, t->expires_s, t);
	if (r < 0)
		log_error("replication: cannot invite \"%s\": %s", name, strerror(-r));
	return r;
}

int server_invite(struct server *s, const char *name, const char *address, uint64_t ttl_s, struct buf *ret_token)
{
	struct token t = {0};

	mutex_lock(&s->admin_lock);
	int r = must_lead(s);
	if (r == 0)
		r = invite_locked(s, name, address, ttl_s, &t);
	mutex_unlock(&s->admin_lock);
	if (r == 0) {
		token_print(&t, ret_token);
		r = ret_token->failed ? -ENOMEM : 0;
	}
	token_wipe(&t);
	return r;
}

/* ---- joining ---- */

PRINTF_LIKE(3, 4) static int refuse(struct refuse *why, int error, const char *fmt, ...)
{
	va_list ap;

	why->error = error;
	va_start(ap, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	return error;
}

/* Joiners that listen everywhere are reached where they came from. */
static int joiner_address(struct join_message *m, const char *host)
{
	char any[WIRE_TEXT_MAX + 1];
	uint16_t port;

	if (m->address[0] == '\0' || !address_is_any(m->address))
		return 0;
	int r = address_parse(m->address, any, sizeof(any), &port);
	return r < 0 ? r : address_print(host, port, m->address, sizeof(m->address));
}

/* Marks the invitation used, unless it was by the same request before: only then may the node be in the list already. */
static int use_invite(struct server *s, const char *id, const struct join_message *m, bool is_new, const uint8_t request[32],
		      struct refuse *why) REQUIRES(s->admin_lock)
{
	struct invites v;
	int r = 0;

	get_invites(s, &v);
	struct invite *i = invites_find(&v, id, now_s());
	if (!i)
		r = refuse(why, -EACCES, "the invitation is not valid any more");
	else if (i->used && (memcmp(i->request, request, 32) != 0 || memcmp(i->node, m->node, 16) != 0))
		r = refuse(why, -EACCES, "the invitation was used before, by another request");
	else if (!i->used && !is_new)
		r = refuse(why, -EEXIST, "there is a peer of that node uuid already");
	else if (!i->used) {
		i->used = true;
		memcpy(i->request, request, 32);
		memcpy(i->node, m->node, 16);
		r = keep_invites(s, &v);
		if (r < 0)
			refuse(why, r, "the invitation could not be marked as used: %s", strerror(-r));
	}
	invites_wipe(&v);
	return r;
}

/* The list with the joiner in it. */
static int list_joiner(struct server *s, const struct join_message *m, struct peers *p, uint32_t *ret_id, bool *ret_added)
{
	server_get_peers(s, p);
	const struct peer *there = peers_by_node(p, m->node);
	if (there) {
		*ret_id = there->node_id;
		return 0;
	}
	*ret_added = true;
	return peers_add(p, m->node, m->name, m->address, ret_id);
}

/* Everything that can be refused comes before the invitation is used up. */
static int admit_locked(struct server *s, const char *id, const struct join_message *m, struct joined *j, struct refuse *why)
    REQUIRES(s->admin_lock)
{
	const struct slice request = {m->request, strlen(m->request)};
	const struct pki_span span = pki_node_span(now_s());
	struct replica_point at;
	uint8_t hash[32];
	bool added = false;

	s->volume->ops->get_point(s->volume, &at);
	if (at.role != ROLE_LEADER)
		return refuse(why, -EROFS, "this node does not lead any more: the invitation must come from the leader");
	int r = load_ca(s, &j->ca_pem, &j->ca_key);
	if (r < 0)
		return refuse(why, r, "the inviter cannot sign certificates");
	r = pki_sign(buf_slice(&j->ca_pem), buf_slice(&j->ca_key), request, m->node, &span, &j->node_pem);
	if (r < 0)
		return refuse(why, r, "the certificate request is not valid");
	r = list_joiner(s, m, &j->peers, &j->node_id, &added);
	if (r < 0)
		return refuse(why, r, "\"%s\" cannot be a peer: %s", m->name, why_not(r));
	SHA256(request.p, request.len, hash);
	r = use_invite(s, id, m, added, hash, why);
	if (r < 0)
		return r;
	if (added)
		r = keep_peers(s, &j->peers);
	if (r < 0)
		return refuse(why, r, "the list of peers could not be kept: %s", strerror(-r));
	memcpy(j->volume, at.volume, 16);
	memcpy(j->node, m->node, 16);
	j->epoch = at.promised;
	j->geometry = s->geometry;
	return 0;
}

int admin_admit(struct server *s, const char *id, const char *host, struct slice json, struct buf *ret_json,
		struct refuse *ret_why)
{
	struct join_message m;
	struct joined j = {0};

	int r = join_parse(json, &m);
	if (r == 0 && !peer_name_ok(m.name)) /* it goes into lines of the log */
		r = -EUCLEAN;
	if (r == 0)
		r = joiner_address(&m, host);
	if (r < 0)
		return refuse(ret_why, r, "the request to join cannot be understood");
	mutex_lock(&s->admin_lock);
	r = admit_locked(s, id, &m, &j, ret_why);
	mutex_unlock(&s->admin_lock);
	if (r == 0)
		r = spread_peers(s) < 0 ? refuse(ret_why, -EAGAIN, "the inviter could not take the list of peers; ask again") : 0;
	if (r == 0) {
		log_info("replication: %s joined as node %u, from %s", m.name, j.node_id, host);
		joined_print(&j, ret_json);
		if (ret_json->failed)
			r = refuse(ret_why, -ENOMEM, "the inviter is out of memory");
	} else {
		log_warn("replication: a joiner from %s was refused: %s", host, ret_why->text);
	}
	joined_free(&j);
	return r;
}
