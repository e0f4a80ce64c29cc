/*
 * session.c: one end of a connection: frames in and out, liveness, which message may come when, and how it ends.
 *
 * In: bytes are gathered until a header is whole and right, and of a type that may come now; only then is there memory for its
 * body, one frame at a time.  A frame begins the buffer, so that its body is 8-aligned.  Out: frames are put one behind the other
 * into `out`; pump() stops making more above SESSION_OUT_MAX, and what is answered unasked (PONG) is dropped there.
 *
 * Liveness: who has said nothing for SESSION_PING_NS says PING; who has heard nothing for SESSION_DEAD_NS is talking to a dead
 * peer. The time that this side itself spends in input and pump does not count, since it could not have heard anything.  HELLO
 * and WELCOME must be there in that time as wholes.
 *
 * End: the first error stays and is what every later call returns.  The other side is told by REFUSE, unless it was the one to
 * say so or the end is in good order (-ESHUTDOWN).  What began the end for another thread (a newer connection, a removed
 * peer, another epoch) is seen at the next input or pump.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "replicate/node_internal.h"

#define LONG_ENOUGH_NS (10 * NSEC_PER_SEC) /* a connection that held this long was of use */

#define M(type) (UINT32_C(1) << MESSAGE_##type)
static const uint32_t may_come[] = {
    [SESSION_LISTENING] = M(HELLO) | M(REFUSE),
    [SESSION_GREETING] = M(WELCOME) | M(REFUSE),
    [SESSION_REFERRED] = M(PEERS) | M(REFUSE),
    [SESSION_LEADING] = M(ACK) | M(LEADING) | M(BLOCK_WANTED) | M(BLOCK) | M(PING) | M(PONG) | M(REFUSE),
    [SESSION_SERVING] = M(GET_HASHES) | M(GET_ROWS) | M(GET_LEAVES) | M(RESYNCED) | M(PING) | M(PONG) | M(REFUSE),
    [SESSION_FOLLOWING] =
	M(BATCH) | M(DATA) | M(STATE) | M(PEERS) | M(HANDOVER) | M(BLOCK_WANTED) | M(BLOCK) | M(PING) | M(PONG) | M(REFUSE),
    [SESSION_PULLING] = M(VIEW) | M(HASHES) | M(ROWS) | M(LEAVES) | M(PEERS) | M(PING) | M(PONG) | M(REFUSE),
    [SESSION_OVER] = 0,
};
_Static_assert(MESSAGE_TYPE_MAX < 32, "");

/* ---- the end ---- */

static bool is_in_order(int error)
{
	return error == -ESHUTDOWN || error == -ECONNABORTED;
}

/* The other side has nothing to learn from the end of a connection that it gave up, or that is dead. */
static void tell_refuse(struct session *s)
{
	struct refuse m = {.error = s->error};

	if (s->refused || is_in_order(s->error) || s->error == -ETIMEDOUT || s->out.failed)
		return;
	s->refused = true;
	snprintf(m.text, sizeof(m.text), "%s", s->reason);
	size_t at = session_begin(s, MESSAGE_REFUSE);
	refuse_put(&s->out, &m);
	if (session_end(s, at))
		s->out.len = at;
}

int session_fail(struct session *s, int error, const char *fmt, ...)
{
	va_list ap;

	assert(error < 0);
	if (s->error)
		return s->error;
	s->error = error;
	s->state = SESSION_OVER;
	va_start(ap, fmt);
	vsnprintf(s->reason, sizeof(s->reason), fmt, ap);
	va_end(ap);
	tell_refuse(s);
	return error;
}

int session_over(struct session *s, const char *why)
{
	return session_fail(s, -ESHUTDOWN, "%s", why);
}

int session_volume_failed(struct session *s, int error, const char *what)
{
	s->volume_failed = true;
	if (error == -ENOSPC)
		return session_fail(s, error, "disk full: %s", what);
	return session_fail(s, error, "%s: %s", what, strerror(-error));
}

static const char *why_cut(int error)
{
	switch (error) {
	case -ECONNABORTED:
		return "a newer connection took its place";
	case -EACCES:
		return "no peer of this volume any more";
	default:
		return "ended by an admin";
	}
}

/* Whether roles and promise are still what this conversation began with. */
static bool is_current(struct session *s)
{
	struct node *n = s->node;

	if (s->state == SESSION_LISTENING || s->state == SESSION_GREETING)
		return true;
	bool leads = s->state == SESSION_LEADING || s->state == SESSION_SERVING;
	mutex_lock(&n->lock);
	bool current = (n->role == ROLE_LEADER) == leads && n->promised == s->epoch;
	mutex_unlock(&n->lock);
	return current;
}

static int check_current(struct session *s)
{
	int cut = s->cut;

	if (s->error)
		return s->error;
	if (cut)
		return session_fail(s, cut, "%s", why_cut(cut));
	if (!is_current(s))
		return session_fail(s, -ESTALE, ANOTHER_EPOCH);
	return 0;
}

/* ---- out ---- */

size_t session_begin(struct session *s, enum message_type type)
{
	return frame_begin(&s->out, type);
}

int session_end(struct session *s, size_t at)
{
	if (s->out.failed) {
		s->out.len = at;
		return -ENOMEM;
	}
	frame_end(&s->out, at, s->out_number++);
	s->last_out_ns = node_now(s->node);
	return 0;
}

int session_send_peers(struct session *s, const struct peers *p)
{
	CLEANUP_BUF struct buf json = {0};

	peers_print(p, &json);
	buf_put_u8(&json, '\0');
	if (json.failed)
		return -ENOMEM;
	size_t at = session_begin(s, MESSAGE_PEERS);
	text_put(&s->out, (const char *)json.p);
	return session_end(s, at);
}

static int send_ping(struct session *s, enum message_type type, uint64_t value)
{
	size_t at = session_begin(s, type);

	ping_put(&s->out, value);
	return session_end(s, at);
}

/* Gives room back: what was sent, and after a while of silence the memory itself. */
static void tidy(struct session *s, int64_t now_ns)
{
	if (session_pending(s) == 0) {
		s->out.len = s->out_sent = 0;
		if (s->out.cap > IN_KEEP && now_ns - s->last_out_ns >= SESSION_PING_NS)
			buf_free(&s->out);
	} else if (s->out_sent > s->out.len / 2) {
		memmove(s->out.p, s->out.p + s->out_sent, session_pending(s));
		s->out.len -= s->out_sent;
		s->out_sent = 0;
	}
	if (s->in_len == 0 && s->in_cap > IN_KEEP && now_ns - s->last_in_ns >= SESSION_PING_NS) {
		free(TAKE_PTR(s->in));
		s->in_cap = 0;
	}
}

struct slice session_output(struct session *s)
{
	return (struct slice){session_pending(s) ? s->out.p + s->out_sent : NULL, session_pending(s)};
}

bool session_leads(const struct session *s)
{
	return s->state == SESSION_LEADING;
}

void session_sent(struct session *s, size_t n)
{
	assert(n <= session_pending(s));
	s->out_sent += n;
	mutex_lock(&s->node->lock);
	struct node_peer *p = node_peer_locked(s->node, s->peer_id);
	if (p)
		p->sent_bytes += n;
	mutex_unlock(&s->node->lock);
}

/* ---- in ---- */

static int take_refuse(struct session *s, struct slice body)
{
	struct refuse m;
	int r = refuse_get(body, &m);

	if (r)
		return r;
	s->refused = true;
	return session_fail(s, m.error, "refused: %s", m.text[0] ? m.text : strerror(-m.error));
}

static int take_ping(struct session *s, enum message_type type, struct slice body)
{
	uint64_t value;
	int r = ping_get(body, &value);

	if (r)
		return r;
	if (type == MESSAGE_PING && blocks_is_features(value))
		blocks_take_features(s, value);
	if (type == MESSAGE_PONG)
		handover_answer(s, value);
	else if (session_pending(s) < SESSION_OUT_MAX) /* who does not read what it asked for needs no answer */
		return send_ping(s, MESSAGE_PONG, value);
	return 0;
}

static int dispatch(struct session *s, enum message_type type, struct slice body)
{
	switch (type) {
	case MESSAGE_REFUSE:
		return take_refuse(s, body);
	case MESSAGE_PING:
	case MESSAGE_PONG:
		return take_ping(s, type, body);
	case MESSAGE_HELLO:
		return greeting_hello(s, body);
	case MESSAGE_WELCOME:
		return greeting_welcome(s, body);
	case MESSAGE_BLOCK_WANTED:
	case MESSAGE_BLOCK:
		return blocks_message(s, type, body);
	default:
		break;
	}
	if (s->state == SESSION_REFERRED)
		return greeting_referred(s, body);
	if (s->state == SESSION_LEADING)
		return leader_message(s, type, body);
	if (s->state == SESSION_SERVING)
		return serving_message(s, type, body);
	return s->state == SESSION_PULLING ? pull_message(s, type, body) : follower_message(s, type, body);
}

/* A header that is whole: whether its message may come now, before there is memory for it. */
static int check_header(struct session *s)
{
	const struct frame_header *h = (const void *)s->in;
	int r = frame_peek(s->in, s->in_len, s->in_number, &s->in_need);

	if (r)
		return session_fail(s, r, "frame %llu is none", (unsigned long long)s->in_number);
	if (s->in_len >= sizeof(*h) && !(may_come[s->state] & UINT32_C(1) << h->type))
		return session_fail(s, -EPROTO, "%s is out of place", message_type_name(h->type));
	return 0;
}

static int take_frame(struct session *s)
{
	enum message_type type;
	struct slice body;
	int r = frame_open(s->in, s->in_len, &type, &body);

	if (r)
		return session_fail(s, r, "frame %llu: wrong checksum", (unsigned long long)s->in_number);
	r = check_current(s);
	if (!r)
		r = dispatch(s, type, body);
	s->in_number++;
	s->in_len = 0;
	s->in_need = FRAME_HEADER_BYTES;
	if (r == -ESTALE)
		return session_fail(s, r, ANOTHER_EPOCH);
	return r && !s->error ? session_fail(s, r, "%s: %s", message_type_name(type), strerror(-r)) : r;
}

static int reserve_in(struct session *s)
{
	if (s->in_need <= s->in_cap)
		return 0;
	size_t cap = s->in_need < 4 * KIB ? 4 * KIB : s->in_need;
	uint8_t *p = realloc(s->in, cap);
	if (!p)
		return session_fail(s, -ENOMEM, "no memory for a message of %zu bytes", s->in_need);
	s->in = p;
	s->in_cap = cap;
	return 0;
}

/* Takes at most what the frame still needs; returns how much. */
static size_t gather(struct session *s, const uint8_t *p, size_t len)
{
	size_t n = min_u64(len, s->in_need - s->in_len);

	memcpy(s->in + s->in_len, p, n);
	s->in_len += n;
	return n;
}

static int take_bytes(struct session *s, const uint8_t *p, size_t len)
{
	int r = check_current(s);

	while (!r && len) {
		r = reserve_in(s);
		if (r)
			break;
		size_t n = gather(s, p, len);
		p += n;
		len -= n;
		if (s->in_len < s->in_need)
			break;
		if (s->in_len == FRAME_HEADER_BYTES)
			r = check_header(s);
		if (!r && s->in_len == s->in_need)
			r = take_frame(s);
	}
	return r;
}

int session_input(struct session *s, const void *p, size_t len)
{
	struct node *n = s->node;

	mutex_lock(&n->lock);
	struct node_peer *peer = node_peer_locked(n, s->peer_id);
	if (peer)
		peer->received_bytes += len;
	mutex_unlock(&n->lock);
	int r = take_bytes(s, p, len);
	s->last_in_ns = node_now(n);
	return r;
}

/* ---- the turn ---- */

static int check_alive(struct session *s, int64_t now_ns, int64_t *deadline_ns)
{
	bool greeted = s->state != SESSION_LISTENING && s->state != SESSION_GREETING;
	int64_t limit = pull_waits_for_view(s) ? VIEW_WAIT_NS : SESSION_DEAD_NS;
	int64_t dead_ns = (greeted ? s->last_in_ns : s->start_ns) + limit;

	deadline_at(deadline_ns, dead_ns);
	if (now_ns < dead_ns)
		return 0;
	return session_fail(s, -ETIMEDOUT, "nothing heard for %d s", (int)(limit / NSEC_PER_SEC));
}

static int take_turn(struct session *s, int64_t *deadline_ns)
{
	switch (s->state) {
	case SESSION_LEADING:
		return leader_pump(s, deadline_ns);
	case SESSION_SERVING:
		return serving_pump(s, deadline_ns);
	case SESSION_FOLLOWING:
		return follower_pump(s, deadline_ns);
	case SESSION_PULLING:
		return pull_pump(s, deadline_ns);
	default:
		return 0;
	}
}

/* PING after silence, and the question of a hand-over in doubt. */
static int keep_talking(struct session *s, int64_t *deadline_ns)
{
	uint64_t value = 0;

	if (s->state == SESSION_LISTENING || s->state == SESSION_GREETING || s->state == SESSION_REFERRED)
		return 0;
	bool asks = (s->state == SESSION_LEADING || s->state == SESSION_SERVING) && handover_question(s, &value);
	if (!asks && session_pending(s) == 0 && node_now(s->node) - s->last_out_ns >= SESSION_PING_NS) {
		asks = true;
		value = 0;
	}
	int r = asks ? send_ping(s, MESSAGE_PING, value) : 0;
	if (session_pending(s) == 0)
		deadline_at(deadline_ns, s->last_out_ns + SESSION_PING_NS);
	return r;
}

int session_pump(struct session *s, int64_t *ret_deadline_ns)
{
	int64_t begun_ns = node_now(s->node), deadline_ns = INT64_MAX;
	int r = check_current(s);

	if (!r)
		r = check_alive(s, begun_ns, &deadline_ns);
	if (r)
		return r;
	tidy(s, begun_ns);
	r = take_turn(s, &deadline_ns);
	if (!r)
		r = blocks_pump(s, &deadline_ns);
	if (!r)
		r = keep_talking(s, &deadline_ns);
	if (r && !s->error)
		(void)session_fail(s, r, "%s", r == -ESTALE ? ANOTHER_EPOCH : strerror(-r));
	int64_t took_ns = node_now(s->node) - begun_ns;
	s->last_in_ns += took_ns;
	s->start_ns += took_ns;
	*ret_deadline_ns = deadline_ns;
	return s->error;
}

/* ---- life ---- */

/* Only the newest attempt of a follower to follow counts, and only one at a time. */
static int enter_locked(struct node *n, struct session *s) REQUIRES(n->lock)
{
	struct node_peer *p = node_peer_locked(n, s->peer_id);

	if (!p)
		return -EACCES;
	if (s->dialed && n->role == ROLE_FOLLOWER) {
		if (n->following)
			return -EBUSY;
		n->following = s;
		session_claim_locked(n, s, p, PEER_CONNECTING);
	}
	s->serial = ++n->serials;
	s->next = n->sessions;
	n->sessions = s;
	p->connects++;
	return 0;
}

void session_claim_locked(struct node *n, struct session *s, struct node_peer *p, enum peer_state state)
{
	if (p->stream && p->stream != s)
		p->stream->cut = -ECONNABORTED;
	p->stream = s;
	p->state = state;
	p->answers_blocks = false;
	n->tell_acked = n->tell_wake = true;
}

int session_new(struct node *n, uint32_t node_id, bool dialed, struct session **ret)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->node = n;
	s->peer_id = node_id;
	s->dialed = dialed;
	s->state = dialed ? SESSION_GREETING : SESSION_LISTENING;
	s->in_need = FRAME_HEADER_BYTES;
	s->start_ns = s->last_in_ns = s->last_out_ns = node_now(n);
	mutex_lock(&n->lock);
	int r = enter_locked(n, s);
	mutex_unlock(&n->lock);
	if (r) {
		free(s);
		return r;
	}
	if (dialed)
		r = greeting_begin(s);
	if (r) {
		session_free(s, r, strerror(-r));
		return r;
	}
	node_tell(n);
	*ret = s;
	return 0;
}

/* Ends that say something about the peer itself, rather than about the moment. */
static bool is_refusal(const struct session *s)
{
	switch (s->error) {
	case -ESTALE:
	case -ECANCELED:
	case -ENOENT:
	case -ECONNRESET:
		return false;
	default:
		return s->refused && !is_in_order(s->error);
	}
}

static void note_end(struct session *s, struct node_peer *p)
{
	int64_t now_ns = node_now(s->node);

	if (p->stream == s || (!p->stream && !is_in_order(s->error))) { /* an announcement that went well says nothing */
		p->state = s->last_state != PEER_DISCONNECTED ? s->last_state : is_refusal(s) ? PEER_REFUSED : PEER_DISCONNECTED;
		memcpy(p->reason, s->reason, sizeof(p->reason));
	}
	if (p->stream == s) {
		p->stream = NULL;
		p->answers_blocks = false;
	}
	p->errors += !is_in_order(s->error);
	if (s->volume_failed) {
		p->slow_retry = true;
		p->due_ns = now_ns + (p->backoff_ns ? p->backoff_ns : NSEC_PER_SEC);
	} else if (now_ns - s->start_ns >= LONG_ENOUGH_NS) {
		node_peer_proven_locked(p);
	}
}

static void leave_locked(struct node *n, struct session *s, enum log_level *ret_level, char ret_name[WIRE_NAME_MAX + 1])
    REQUIRES(n->lock)
{
	struct session **at = &n->sessions;
	struct node_peer *p = node_peer_locked(n, s->peer_id);

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	if (n->following == s)
		n->following = NULL;
	bool told = p && strcmp(p->reason, s->reason) == 0;
	*ret_level = told || is_in_order(s->error) ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARN;
	snprintf(ret_name, WIRE_NAME_MAX + 1, "%s", p ? p->peer.name : "?");
	if (p)
		note_end(s, p);
	n->tell_acked = n->tell_wake = true;
}

struct session *session_free(struct session *s, int why, const char *reason)
{
	char name[WIRE_NAME_MAX + 1];
	enum log_level level;

	if (!s)
		return NULL;
	struct node *n = s->node;
	if (!s->error) {
		s->error = why ? why : -ESHUTDOWN;
		snprintf(s->reason, sizeof(s->reason), "%s", reason ? reason : "closed");
	}
	follower_stop(s);
	pull_stop(s);
	leader_stop(s);
	serving_stop(s);
	blocks_stop(s);
	mutex_lock(&n->lock);
	leave_locked(n, s, &level, name);
	mutex_unlock(&n->lock);
	log_line(level, "replication: peer %s: %s", name, s->reason);
	node_tell(n);
	free(s->in);
	buf_free(&s->out);
	free(s);
	return NULL;
}
