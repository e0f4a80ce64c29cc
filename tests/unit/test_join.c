/*
 * test_join.c: invitations over the network: the one that is used, and all that must not let anybody in.
 */
#include "tests/unit/sites.h"

#include <signal.h>

#include "replicate/net/exchange.h"
#include "replicate/net/join_message.h"

#define ANY_PORT "127.0.0.1:7001"

static int make_leader(void **state)
{
	struct site *s = calloc(1, sizeof(*s));

	signal(SIGPIPE, SIG_IGN); /* of what the tests send by themselves */
	site_init(s, 1, ROLE_LEADER);
	site_found(s);
	site_start(s, 0, 0);
	*state = s;
	return 0;
}

static int free_leader(void **state)
{
	struct site *s = *state;

	site_end(s);
	free(s);
	return 0;
}

static void invite(struct site *s, const char *name, uint64_t ttl_s, struct token *ret)
{
	CLEANUP_SECRET struct buf text = {0};

	assert_int_equal(server_invite(s->server, name, NULL, ttl_s, &text), 0);
	assert_int_equal(token_parse((const char *)text.p, ret), 0);
}

static int join(const struct token *t, struct joined *ret)
{
	const struct join_options o = {.address = ANY_PORT, .timeout_ns = 5 * NSEC_PER_SEC};

	return join_dial(t, &o, ret);
}

static uint32_t n_peers(struct site *s)
{
	struct peers p;

	assert_int_equal(peers_load(s->dir, &p), 0);
	return p.n;
}

static void a_joiner_becomes_a_peer(void **state)
{
	struct site *a = *state, b;
	struct joined j;
	struct token t;
	struct peers list;

	invite(a, "b", 60, &t);
	assert_memory_equal(t.volume, a->volume_id, 16);
	assert_int_equal(join(&t, &j), 0);
	assert_memory_equal(j.volume, a->volume_id, 16);
	assert_int_equal(j.node_id, 2);
	assert_int_equal(j.epoch, epoch_make(7, 1));
	assert_string_equal(j.geometry.label, "label");
	assert_int_equal(j.geometry.journal_segments, 16);
	assert_int_equal(j.geometry.journal_segment_kib, 65536);
	assert_int_equal(j.geometry.chunk_kib, 1048576);
	assert_int_equal(j.peers.n, 2);
	assert_string_equal(peers_find(&j.peers, "b")->address, ANY_PORT);
	assert_int_equal(peers_load(a->dir, &list), 0);
	assert_memory_equal(peers_find(&list, "b")->node, j.node, 16);
	/* And gets in with what it was given. */
	site_init(&b, 2, ROLE_FOLLOWER);
	memcpy(b.node_id, j.node, 16);
	assert_int_equal(join_store(b.dir, &j), 0);
	assert_int_equal(peers_load(b.dir, &list), 0);
	snprintf(list.peer[0].address, sizeof(list.peer[0].address), "127.0.0.1:%u", server_port(a->server));
	assert_int_equal(peers_save(b.dir, &list), 0);
	assert_int_equal(site_try_start(&b, NULL, 0, 0), 0);
	site_dial(&b, 1);
	WAIT_UNTIL(atomic_load(&a->node.received) >= GREETING_BYTES && atomic_load(&b.node.received) >= GREETING_BYTES);
	joined_free(&j);
	/* It has the CA's key: where it leads it can invite. */
	atomic_store(&b.role, ROLE_LEADER);
	CLEANUP_BUF struct buf token = {0};
	assert_int_equal(server_invite(b.server, "c", "h:1", 60, &token), 0);
	site_end(&b);
}

static void an_invitation_is_used_once(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;

	invite(a, "b", 60, &t);
	assert_int_equal(join(&t, &j), 0);
	joined_free(&j);
	assert_int_equal(join(&t, &j), -EACCES);
	/* Also after a restart: that it was used is on disk. */
	a->server = server_stop(a->server);
	site_start(a, 0, 0);
	snprintf(t.address, sizeof(t.address), "127.0.0.1:%u", server_port(a->server));
	assert_int_equal(join(&t, &j), -EACCES);
	assert_int_equal(n_peers(a), 2);
}

static void an_unused_invitation_outlives_a_restart(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;

	invite(a, "b", 60, &t);
	a->server = server_stop(a->server);
	site_start(a, 0, 0);
	snprintf(t.address, sizeof(t.address), "127.0.0.1:%u", server_port(a->server));
	assert_int_equal(join(&t, &j), 0);
	joined_free(&j);
}

static void an_expired_invitation_is_refused(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;

	invite(a, "b", 1, &t);
	nanosleep(&(struct timespec){.tv_sec = 2, .tv_nsec = 100000000}, NULL);
	assert_int_equal(join(&t, &j), -ETIME);
	/* The inviter's clock counts, not the joiner's, which may be hours ahead. */
	invite(a, "b", 60, &t);
	t.expires_s = 1;
	assert_int_equal(join(&t, &j), 0);
	joined_free(&j);
	assert_int_equal(n_peers(a), 2);
}

static void a_token_that_is_not_the_inviters_is_refused(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t, good;

	invite(a, "b", 60, &good);
	t = good;
	t.secret[31] ^= 1;
	assert_int_equal(join(&t, &j), -EACCES);
	t = good;
	t.id[0] = t.id[0] == '0' ? '1' : '0';
	assert_int_equal(join(&t, &j), -EACCES);
	assert_int_equal(n_peers(a), 1);
	/* A wrong fingerprint is the joiner's to refuse; by then the invitation is used. */
	t = good;
	t.ca_sha256[0] ^= 1;
	assert_int_equal(join(&t, &j), -EACCES);
	invite(a, "c", 60, &t);
	t.volume[0] ^= 1;
	assert_int_equal(join(&t, &j), -EPROTO);
}

static void nobody_there_is_said_at_once(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;
	double begun = seconds();

	invite(a, "b", 60, &t);
	a->server = server_stop(a->server);
	assert_int_equal(join(&t, &j), -ECONNREFUSED);
	assert_true(seconds() - begun < 2);
}

static void options_that_cannot_be_are_refused_before_dialing(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;
	static const struct join_options bad[] = {
	    {.name = "a b"}, {.name = ""}, {.address = "nowhere"}, {.address = "h:0"}, {.address = ""},
	};

	invite(a, "b", 60, &t);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(join_dial(&t, &bad[i], &j), -EINVAL);
	assert_int_equal(join_dial(&t, &(struct join_options){.name = "other"}, &j), 0);
	assert_non_null(peers_find(&j.peers, "other"));
	assert_string_equal(peers_find(&j.peers, "other")->address, "");
	joined_free(&j);
}

static void a_joiner_that_listens_everywhere_is_listed_where_it_came_from(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;

	invite(a, "b", 60, &t);
	assert_int_equal(join_dial(&t, &(struct join_options){.address = "0.0.0.0:7001"}, &j), 0);
	assert_string_equal(peers_find(&j.peers, "b")->address, "127.0.0.1:7001");
	joined_free(&j);
}

/* The first connection ends after so many bytes, in either direction; the joiner asks again and is one peer in the end. */
static void a_joiner_whose_connection_is_cut_asks_again(void **state)
{
	struct site *a = *state;
	unsigned n_cut_after_asking = 0;

	for (size_t cut = 50; cut < 9000; cut += cut < 1000 ? 190 : 700)
		for (unsigned direction = 0; direction < 2; direction++) {
			struct token t;
			struct proxy x;
			struct joined j;

			invite(a, "b", 60, &t);
			proxy_start(&x, server_port(a->server), 1, direction ? SIZE_MAX : cut, direction ? cut : SIZE_MAX);
			snprintf(t.address, sizeof(t.address), "127.0.0.1:%u", x.port);
			int r = join(&t, &j);
			if (r < 0) /* cut before anything was asked: the user asks again */
				r = join(&t, &j);
			else
				n_cut_after_asking += atomic_load(&x.n) > 1;
			assert_int_equal(r, 0);
			assert_int_equal(j.peers.n, 2);
			assert_int_equal(n_peers(a), 2);
			joined_free(&j);
			proxy_stop(&x);
			assert_int_equal(server_remove_peer(a->server, "b"), 0);
		}
	assert_true(n_cut_after_asking >= 5);
}

/* A crash between marking the invitation and keeping the list. */
static void a_join_goes_on_after_a_crash_of_the_inviter(void **state)
{
	struct site *a = *state;
	struct peers before;
	struct token t;
	CLEANUP_BUF struct buf json = {0};
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf request = {0};
	static const uint8_t node[16] = {5};
	struct join_message m = {.name = "b", .node = {5}};

	invite(a, "b", 60, &t);
	assert_int_equal(peers_load(a->dir, &before), 0);
	assert_int_equal(pki_make_key(&key), 0);
	assert_int_equal(pki_make_request(buf_slice(&key), node, &request), 0);
	memcpy(m.request, request.p, request.len);
	join_print(&m, &json);
	for (unsigned i = 0; i < 3; i++) {
		struct exchange x = {.fd = tcp_connect(server_port(a->server)), .wake_fd = -1};
		enum message_type type;
		struct slice body;

		x.deadline_ns = clock_mono_ns(&clock_system) + 5 * NSEC_PER_SEC;
		assert_int_equal(channel_dial_invited(x.fd, t.id, t.secret, &x.channel), 0);
		assert_int_equal(exchange_handshake(&x), 0);
		assert_int_equal(exchange_send(&x, MESSAGE_JOIN, (const char *)json.p), 0);
		assert_int_equal(exchange_receive(&x, MESSAGE_JOINED, &type, &body), 0);
		assert_int_equal(type, MESSAGE_JOINED);
		exchange_end(&x);
		channel_free(x.channel);
		close(x.fd);
		assert_int_equal(n_peers(a), 2);
		if (i == 0) { /* the list of before the crash, the invitations of after */
			a->server = server_stop(a->server);
			assert_int_equal(peers_save(a->dir, &before), 0);
			site_start(a, 0, 0);
		}
	}
}

static void only_a_leader_invites_and_admits(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;
	CLEANUP_BUF struct buf text = {0};

	invite(a, "b", 60, &t);
	atomic_store(&a->role, ROLE_FOLLOWER);
	assert_int_equal(server_invite(a->server, "c", NULL, 60, &text), -EROFS);
	assert_int_equal(join(&t, &j), -EACCES);
	assert_int_equal(n_peers(a), 1);
	atomic_store(&a->role, ROLE_LEADER);
	assert_int_equal(join(&t, &j), 0); /* it was not used up */
	joined_free(&j);
}

static void an_invitation_that_leads_nowhere_is_not_given(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t;
	CLEANUP_BUF struct buf text = {0};
	char path[400], away[400];

	assert_int_equal(server_invite(a->server, "a", NULL, 60, &text), -EEXIST);
	assert_int_equal(server_invite(a->server, "/", NULL, 60, &text), -EINVAL);
	assert_int_equal(server_invite(a->server, "b", "nowhere", 60, &text), -EINVAL);
	assert_int_equal(server_invite(a->server, "b", "0.0.0.0:1", 60, &text), -EINVAL);
	assert_int_equal(server_invite(a->server, "b", "h:0", 60, &text), -EINVAL);
	assert_int_equal(server_invite(a->server, "b", NULL, 0, &text), -EINVAL);
	assert_int_equal(server_invite(a->server, "b", NULL, UINT64_MAX, &text), -EINVAL);
	invite(a, "b", 60, &t);
	snprintf(path, sizeof(path), "%s/peers/%s", a->dir, FILE_CA_KEY);
	snprintf(away, sizeof(away), "%s/peers/away", a->dir);
	assert_int_equal(rename(path, away), 0);
	assert_int_equal(server_invite(a->server, "c", NULL, 60, &text), -ENOKEY);
	assert_int_equal(join(&t, &j), -EACCES); /* refused, and not used up */
	assert_int_equal(rename(away, path), 0);
	assert_int_equal(text.len, 0);
	assert_int_equal(join(&t, &j), 0);
	joined_free(&j);
}

static void a_name_or_a_place_that_was_taken_meanwhile_is_refused(void **state)
{
	struct site *a = *state;
	struct joined j;
	struct token t, u;

	invite(a, "b", 60, &t);
	invite(a, "c", 60, &u);
	assert_int_equal(join_dial(&u, &(struct join_options){.name = "b"}, &j), 0);
	joined_free(&j);
	assert_int_equal(join(&t, &j), -EACCES);
	assert_int_equal(join_dial(&t, &(struct join_options){.name = "d"}, &j), 0);
	joined_free(&j);
	for (unsigned i = n_peers(a); i < PEERS_MAX; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		if (i == PEERS_MAX - 1)
			invite(a, "last", 60, &u);
		invite(a, name, 60, &t);
		assert_int_equal(join(&t, &j), 0);
		joined_free(&j);
	}
	assert_int_equal(join(&u, &j), -EACCES);
	CLEANUP_BUF struct buf text = {0};
	assert_int_equal(server_invite(a->server, "more", NULL, 60, &text), -E2BIG);
}

/* Says `json` as JOIN with a good invitation; what comes back: 0 JOINED, 1 REFUSE, or the error. */
static int say(struct site *a, const struct token *t, enum message_type type, const char *json)
{
	struct exchange x = {.fd = tcp_connect(server_port(a->server)), .wake_fd = -1};
	enum message_type answer = 0;
	struct slice body;

	x.deadline_ns = clock_mono_ns(&clock_system) + 5 * NSEC_PER_SEC;
	assert_int_equal(channel_dial_invited(x.fd, t->id, t->secret, &x.channel), 0);
	int r = exchange_handshake(&x);
	if (r == 0)
		r = exchange_send(&x, type, json);
	if (r == 0)
		r = exchange_receive(&x, MESSAGE_JOINED, &answer, &body);
	exchange_end(&x);
	channel_free(x.channel);
	close(x.fd);
	return r < 0 ? r : answer == MESSAGE_REFUSE;
}

static void print_request(const uint8_t node[16], const uint8_t signed_for[16], const char *name, const char *address,
			  struct buf *ret)
{
	CLEANUP_SECRET struct buf key = {0};
	CLEANUP_BUF struct buf request = {0};
	struct join_message m = {0};

	assert_int_equal(pki_make_key(&key), 0);
	assert_int_equal(pki_make_request(buf_slice(&key), signed_for, &request), 0);
	memcpy(m.request, request.p, request.len);
	memcpy(m.node, node, 16);
	snprintf(m.name, sizeof(m.name), "%s", name);
	snprintf(m.address, sizeof(m.address), "%s", address);
	buf_reset(ret);
	join_print(&m, ret);
}

static void a_request_that_is_not_right_is_refused_and_costs_no_invitation(void **state)
{
	struct site *a = *state;
	static const uint8_t node[16] = {8}, other[16] = {9};
	static const char *const texts[] = {"{}", "[]", "x", "{\"name\":\"b\"}",
					    "{\"name\":7,\"node\":7,\"address\":7,\"csr\":7}"};
	CLEANUP_BUF struct buf json = {0};
	struct joined j;
	struct token t;

	invite(a, "b", 60, &t);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_int_equal(say(a, &t, MESSAGE_JOIN, texts[i]), 1);
	print_request(node, other, "b", "h:1", &json);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 1);
	print_request(node, node, "../b", "h:1", &json);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 1);
	print_request(node, node, "b", "h", &json);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 1);
	/* A certificate of a node that is a peer already, the inviter itself first of all. */
	print_request(a->node_id, a->node_id, "b", "h:1", &json);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 1);
	assert_int_equal(n_peers(a), 1);
	assert_int_equal(join(&t, &j), 0);
	joined_free(&j);
}

/* An invited stranger has no other words: no session is made for him. */
static void an_invitation_is_good_for_joining_only(void **state)
{
	struct site *a = *state;
	struct token t;

	invite(a, "b", 60, &t);
	assert_true(say(a, &t, MESSAGE_PEERS, "{}") < 0);
	assert_true(say(a, &t, MESSAGE_JOINED, "{}") < 0);
	assert_int_equal(atomic_load(&a->node.n_opened), 0);
	assert_int_equal(atomic_load(&a->node.received), 0);
}

static void a_removed_joiner_is_not_let_in_by_its_old_invitation(void **state)
{
	struct site *a = *state;
	static const uint8_t node[16] = {8};
	CLEANUP_BUF struct buf json = {0}, other = {0};
	struct token t;

	invite(a, "b", 60, &t);
	print_request(node, node, "b", "h:1", &json);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 0);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), 0); /* the same request: the same answer */
	assert_int_equal(n_peers(a), 2);
	print_request(node, node, "b", "h:1", &other); /* the same name, with another key */
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)other.p), 1);
	assert_int_equal(server_remove_peer(a->server, "b"), 0);
	assert_int_equal(say(a, &t, MESSAGE_JOIN, (const char *)json.p), -EACCES);
	assert_int_equal(n_peers(a), 1);
}

/* An inviter that knows the secret but answers what cannot be: the joiner keeps nothing. */
struct liar {
	int listen_fd;
	struct tls *tls;
	struct token token;
	const char *answer;
};

static bool liar_knows_nobody(void *ctx, const uint8_t node[16])
{
	(void)ctx, (void)node;
	return false;
}
static bool liar_knows_the_secret(void *ctx, const char *id, uint8_t ret_secret[TOKEN_SECRET_BYTES])
{
	const struct liar *l = ctx;

	memcpy(ret_secret, l->token.secret, TOKEN_SECRET_BYTES);
	return strcmp(id, l->token.id) == 0;
}

static void *lie(void *ctx)
{
	struct liar *l = ctx;
	const struct tls_gate gate = {l, liar_knows_nobody, liar_knows_the_secret};
	struct exchange x = {.fd = accept(l->listen_fd, NULL, NULL), .wake_fd = -1};
	enum message_type type;
	struct slice body;

	x.deadline_ns = clock_mono_ns(&clock_system) + 5 * NSEC_PER_SEC;
	assert_int_equal(channel_accept(l->tls, x.fd, &gate, &x.channel), 0);
	if (exchange_handshake(&x) == 0 && exchange_receive(&x, MESSAGE_JOIN, &type, &body) == 0)
		(void)!exchange_send(&x, MESSAGE_JOINED, l->answer);
	exchange_linger(&x);
	exchange_end(&x);
	channel_free(x.channel);
	close(x.fd);
	return NULL;
}

static void an_answer_that_cannot_be_right_is_not_kept(void **state)
{
	struct site *a = *state;
	static const char *const answers[] = {"{}", "[]", "x", "{\"ca\":\"x\",\"ca_key\":\"x\",\"certificate\":\"x\"}"};
	struct liar l = {0};
	struct client c;
	struct joined j;
	uint16_t port;

	client_make(&c, a, a->node_id, NULL);
	const struct tls_identity id = {buf_slice(&c.ca), buf_slice(&c.certificate), buf_slice(&c.key)};
	assert_int_equal(tls_new(&id, &l.tls), 0);
	invite(a, "b", 60, &l.token);
	l.listen_fd = tcp_listen(&port);
	snprintf(l.token.address, sizeof(l.token.address), "127.0.0.1:%u", port);
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		pthread_t thread;

		l.answer = answers[i];
		assert_int_equal(pthread_create(&thread, NULL, lie, &l), 0);
		assert_int_equal(join(&l.token, &j), -EPROTO);
		pthread_join(thread, NULL);
	}
	close(l.listen_fd);
	tls_free(l.tls);
	client_free(&c);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_leader, free_leader)
	const struct CMUnitTest tests[] = {
	    CASE(a_joiner_becomes_a_peer),
	    CASE(an_invitation_is_used_once),
	    CASE(an_unused_invitation_outlives_a_restart),
	    CASE(an_expired_invitation_is_refused),
	    CASE(a_token_that_is_not_the_inviters_is_refused),
	    CASE(nobody_there_is_said_at_once),
	    CASE(options_that_cannot_be_are_refused_before_dialing),
	    CASE(a_joiner_that_listens_everywhere_is_listed_where_it_came_from),
	    CASE(a_joiner_whose_connection_is_cut_asks_again),
	    CASE(a_join_goes_on_after_a_crash_of_the_inviter),
	    CASE(only_a_leader_invites_and_admits),
	    CASE(an_invitation_that_leads_nowhere_is_not_given),
	    CASE(a_name_or_a_place_that_was_taken_meanwhile_is_refused),
	    CASE(a_request_that_is_not_right_is_refused_and_costs_no_invitation),
	    CASE(an_invitation_is_good_for_joining_only),
	    CASE(a_removed_joiner_is_not_let_in_by_its_old_invitation),
	    CASE(an_answer_that_cannot_be_right_is_not_kept),
	};

	return cmocka_run_group_tests_name("join", tests, NULL, NULL);
}
