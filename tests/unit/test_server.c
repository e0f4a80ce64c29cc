/*
 * test_server.c: the server over real sockets and real TLS: who is let in, who is not and what he is told, noise on the port, cut
 * connections, the rate, and stopping.
 */
#include "tests/unit/sites.h"

#include <signal.h>

/* Site a listens, site b is its peer and dials it. */
struct pair {
	struct site a, b;
};

static int make_pair(void **state)
{
	struct pair *p = calloc(1, sizeof(*p));

	signal(SIGPIPE, SIG_IGN); /* of the clients here; the server's threads block it */
	site_init(&p->a, 1, ROLE_LEADER);
	site_init(&p->b, 2, ROLE_FOLLOWER);
	site_found(&p->a);
	site_admit(&p->a, &p->b, "b", 1);
	*state = p;
	return 0;
}

static int free_pair(void **state)
{
	struct pair *p = *state;

	site_end(&p->b);
	site_end(&p->a);
	free(p);
	return 0;
}

/* Starts both; b dials a by way of `port`, 0: directly. */
static void start_pair(struct pair *p, uint64_t rate, uint16_t port)
{
	if (!p->a.server)
		site_start(&p->a, rate, 0);
	site_admit(&p->a, &p->b, "b", port ? port : server_port(p->a.server));
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
}

static bool both_talk(struct pair *p)
{
	return atomic_load(&p->a.node.received) >= GREETING_BYTES && atomic_load(&p->b.node.received) >= GREETING_BYTES;
}

static void assert_b_gets_in(struct pair *p)
{
	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	p->b.server = server_stop(p->b.server);
	WAIT_UNTIL(atomic_load(&p->a.node.n_sessions) == 0);
}

static void peers_know_each_other_and_talk(void **state)
{
	struct pair *p = *state;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	assert_int_equal(atomic_load(&p->a.node.last_peer), 2);
	assert_int_equal(atomic_load(&p->b.node.last_peer), 1);
	assert_int_equal(atomic_load(&p->a.node.n_opened), 1);
}

static void a_certificate_that_is_not_good_is_refused_before_a_byte(void **state)
{
	struct pair *p = *state;
	static const uint8_t stranger[16] = {99};
	const int64_t now = time(NULL), day = 86400;
	const struct {
		const char *what;
		bool own_ca;
		const uint8_t *node;
		struct pki_span span;
		int alert;
		const char *reason; /* in the status of b */
	} table[] = {
	    {"another CA", true, p->b.node_id, {now - day, now + day}, SSL_AD_UNKNOWN_CA, NULL},
	    {"not in the list", false, stranger, {now - day, now + day}, SSL_AD_CERTIFICATE_REVOKED, NULL},
	    {"of the listener itself", false, p->a.node_id, {now - day, now + day}, SSL_AD_CERTIFICATE_REVOKED, NULL},
	    {"expired", false, p->b.node_id, {now - 9 * day, now - 60}, SSL_AD_CERTIFICATE_EXPIRED, "expired at"},
	    {"not yet valid", false, p->b.node_id, {now + 60, now + 9 * day}, SSL_AD_BAD_CERTIFICATE, "is not valid before"},
	};
	struct peer_status status;
	int alert;

	site_start(&p->a, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct client c;

		client_make(&c, table[i].own_ca ? NULL : &p->a, table[i].node, &table[i].span);
		assert_int_equal(client_try(&c, server_port(p->a.server), TLS1_3_VERSION, 1, &alert), 0);
		if (alert != table[i].alert)
			fail_msg("%s: alert %d", table[i].what, alert);
		if (table[i].reason) {
			WAIT_UNTIL((site_reason(&p->a, "b", &status), strstr(status.reason, table[i].reason)));
			assert_int_equal(status.state, PEER_REFUSED);
		}
		client_free(&c);
	}
	assert_int_equal(atomic_load(&p->a.node.n_opened), 0);
	assert_int_equal(atomic_load(&p->a.node.received), 0);
	/* Hours before or after the peer's time are no matter. */
	for (int64_t h = -12; h <= 12; h += 24) {
		const struct pki_span span = pki_node_span(now + h * 3600);
		struct client c;

		client_make(&c, &p->a, p->b.node_id, &span);
		assert_int_equal(client_try(&c, server_port(p->a.server), TLS1_3_VERSION, GREETING_BYTES, &alert),
				 GREETING_BYTES);
		client_free(&c);
	}
	/* And a session makes the old reason go. */
	site_reason(&p->a, "b", &status);
	assert_string_equal(status.reason, "");
}

static void a_client_without_a_certificate_is_refused(void **state)
{
	struct pair *p = *state;
	const struct client none = {0};
	int alert;

	site_start(&p->a, 0, 0);
	assert_int_equal(client_try(&none, server_port(p->a.server), TLS1_3_VERSION, 1, &alert), 0);
	assert_int_equal(alert, SSL_AD_CERTIFICATE_REQUIRED);
	assert_int_equal(atomic_load(&p->a.node.n_opened), 0);
}

static void tls_1_2_is_refused(void **state)
{
	struct pair *p = *state;
	struct client c;
	int alert;

	site_start(&p->a, 0, 0);
	client_make(&c, &p->a, p->b.node_id, NULL);
	assert_int_equal(client_try(&c, server_port(p->a.server), TLS1_2_VERSION, 1, &alert), 0);
	assert_int_equal(alert, SSL_AD_PROTOCOL_VERSION);
	assert_int_equal(atomic_load(&p->a.node.n_opened), 0);
	client_free(&c);
}

/* b is told why by the alert, and shows it. */
static void a_dialer_that_is_refused_learns_why(void **state)
{
	struct pair *p = *state;
	const struct pki_span past = {time(NULL) - 1000000, time(NULL) - 1000};
	struct client c;

	site_start(&p->a, 0, 0);
	site_admit(&p->a, &p->b, "b", server_port(p->a.server));
	client_make(&c, &p->a, p->b.node_id, &past);
	assert_int_equal(peerfile_write(p->b.dir, FILE_NODE_CERTIFICATE, buf_slice(&c.certificate)), 0);
	assert_int_equal(peerfile_write(p->b.dir, FILE_NODE_KEY, buf_slice(&c.key)), 0);
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
	WAIT_UNTIL(atomic_load(&p->b.node.last_why) == -EACCES);
	mutex_lock(&p->b.node.lock);
	assert_non_null(strstr(p->b.node.reason, "the peer refused our certificate: expired"));
	mutex_unlock(&p->b.node.lock);
	assert_int_equal(atomic_load(&p->b.node.received), 0);
	assert_int_equal(atomic_load(&p->a.node.n_opened), 0);
	client_free(&c);
}

/* What b believes to be a is another good peer of the same volume. */
static void another_node_than_the_one_dialed_is_refused(void **state)
{
	struct pair *p = *state;
	struct site c;
	struct peer_status status;

	site_init(&c, 3, ROLE_FOLLOWER);
	site_admit(&p->a, &c, "c", 1);
	site_start(&c, 0, 0);
	site_admit(&p->a, &p->b, "b", server_port(c.server));
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
	WAIT_UNTIL((site_reason(&p->b, "a", &status), strstr(status.reason, "another node answered")));
	assert_int_equal(status.state, PEER_REFUSED);
	assert_int_equal(atomic_load(&p->b.node.n_opened), 0);
	site_end(&c);
}

static void a_peer_that_is_away_is_told_of_once_and_found_again(void **state)
{
	struct pair *p = *state;
	struct peer_status status;
	uint16_t port;
	int fd = tcp_listen(&port);

	close(fd); /* nobody listens there */
	start_pair(p, 0, port);
	WAIT_UNTIL((site_reason(&p->b, "a", &status), strstr(status.reason, "Connection refused")));
	assert_int_equal(status.state, PEER_DISCONNECTED);
	assert_true(status.errors > 0);
	p->b.server = server_stop(p->b.server);
	assert_b_gets_in(p);
}

static void garbage_ends_only_its_own_connection(void **state)
{
	struct pair *p = *state;
	static const char http[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
	/* A TLS record header that announces 16 KiB of a handshake, and one of a version that never was. */
	static const uint8_t record[] = {0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}, version[] = {0x16, 9, 9, 0, 5, 1, 0, 0, 1, 0};
	uint8_t noise[20000];
	const struct slice texts[] = {
	    {http, sizeof(http) - 1}, {record, sizeof(record)}, {version, sizeof(version)}, {noise, sizeof(noise)}};

	srandom((unsigned)test_seed(1));
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (uint8_t)random();
	site_start(&p->a, 0, 0);
	for (unsigned round = 0; round < 5; round++)
		for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
			int fd = tcp_connect(server_port(p->a.server));

			(void)send(fd, texts[i].p, texts[i].len, MSG_NOSIGNAL);
			if (i != 1) /* that one is only half */
				assert_true(tcp_ends(fd, 3000));
			close(fd);
		}
	assert_int_equal(atomic_load(&p->a.node.n_opened), 0);
	assert_b_gets_in(p);
}

static void half_a_handshake_and_silence_end_in_time(void **state)
{
	struct pair *p = *state;
	static const uint8_t half[] = {0x16, 3, 1, 0, 200, 1, 0, 0};
	double begun = seconds();

	site_start(&p->a, 0, 0);
	int talks = tcp_connect(server_port(p->a.server)), silent = tcp_connect(server_port(p->a.server));
	assert_int_equal(send(talks, half, sizeof(half), 0), sizeof(half));
	assert_true(tcp_ends(talks, 8000));
	assert_true(tcp_ends(silent, 2000));
	assert_true(seconds() - begun > 3 && seconds() - begun < 8);
	close(talks);
	close(silent);
}

static void idle_connections_keep_no_peer_out(void **state)
{
	struct pair *p = *state;
	int fds[200];
	unsigned ended = 0;

	site_start(&p->a, 0, 16);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = tcp_connect(server_port(p->a.server));
	double begun = seconds();
	assert_b_gets_in(p);
	assert_true(seconds() - begun < 3);
	/* No more than the limit are served; the first ones went. */
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		ended += tcp_ends(fds[i], i < 150 ? 2000 : 10);
	assert_true(ended >= 150);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
}

/* At every place of the handshake and after it, in either direction: both servers live on, and the next connection is good. */
static void a_connection_may_be_cut_anywhere(void **state)
{
	struct pair *p = *state;

	site_start(&p->a, 0, 0);
	for (size_t cut = 1; cut < 3000; cut += cut < 40 ? 13 : 237)
		for (unsigned direction = 0; direction < 2; direction++) {
			struct proxy x;

			proxy_start(&x, server_port(p->a.server), 1, direction ? SIZE_MAX : cut, direction ? cut : SIZE_MAX);
			atomic_store(&p->a.node.received, 0);
			atomic_store(&p->b.node.received, 0);
			start_pair(p, 0, x.port);
			WAIT_UNTIL(both_talk(p));
			p->b.server = server_stop(p->b.server);
			WAIT_UNTIL(atomic_load(&p->a.node.n_sessions) == 0);
			proxy_stop(&x);
		}
}

static void the_rate_holds(void **state)
{
	struct pair *p = *state;
	const uint64_t rate = 2000000;

	start_pair(p, rate, 0);
	WAIT_UNTIL(both_talk(p));
	atomic_store(&p->a.node.flood, true);
	server_wake(p->a.server);
	WAIT_UNTIL(atomic_load(&p->b.node.received) > rate / 4);
	uint64_t before = atomic_load(&p->b.node.received);
	double begun = seconds();
	nanosleep(&(struct timespec){.tv_sec = 2}, NULL);
	double measured = (double)(atomic_load(&p->b.node.received) - before) / (seconds() - begun);
	if (measured < 0.8 * (double)rate || measured > 1.2 * (double)rate)
		fail_msg("%.0f bytes a second instead of %.0f", measured, (double)rate);
}

static void without_a_rate_it_is_as_fast_as_it_can_be(void **state)
{
	struct pair *p = *state;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	atomic_store(&p->a.node.flood, true);
	atomic_store(&p->b.node.flood, true);
	server_wake(p->a.server);
	server_wake(p->b.server);
	/* Both directions at once: neither starves the other. */
	WAIT_UNTIL(atomic_load(&p->b.node.received) > 20 * MIB && atomic_load(&p->a.node.received) > 20 * MIB);
}

static void stopping_is_quick_while_busy(void **state)
{
	struct pair *p = *state;
	int idle[10];

	start_pair(p, 0, 0);
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		idle[i] = tcp_connect(server_port(p->a.server));
	WAIT_UNTIL(both_talk(p));
	atomic_store(&p->a.node.flood, true);
	atomic_store(&p->b.node.flood, true);
	server_wake(p->a.server);
	server_wake(p->b.server);
	WAIT_UNTIL(atomic_load(&p->b.node.received) > MIB);
	double begun = seconds();
	p->a.server = server_stop(p->a.server);
	assert_true(seconds() - begun < 2);
	assert_int_equal(atomic_load(&p->a.node.n_sessions), 0);
	begun = seconds();
	p->b.server = server_stop(p->b.server);
	assert_true(seconds() - begun < 2);
	for (size_t i = 0; i < ARRAY_SIZE(idle); i++)
		close(idle[i]);
}

/* A dialer in the middle of a connect that nobody answers: the other side's queue is full. */
static void stopping_does_not_wait_for_a_connect(void **state)
{
	struct pair *p = *state;
	uint16_t port;
	int fd = tcp_listen(&port), waiting[4];
	const struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};

	assert_int_equal(listen(fd, 0), 0);
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++) {
		waiting[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		(void)connect(waiting[i], (const struct sockaddr *)&a, sizeof(a));
	}
	site_admit(&p->a, &p->b, "b", port);
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
	nanosleep(&(struct timespec){.tv_nsec = 600000000}, NULL);
	double begun = seconds();
	p->b.server = server_stop(p->b.server);
	assert_true(seconds() - begun < 1);
	for (size_t i = 0; i < ARRAY_SIZE(waiting); i++)
		close(waiting[i]);
	close(fd);
}

static void a_wake_is_noticed_at_once_and_costs_nothing_while_awake(void **state)
{
	struct pair *p = *state;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	for (unsigned i = 0; i < 20; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL); /* let it fall asleep */
		uint64_t before = atomic_load(&p->a.node.pumps);
		double begun = seconds();

		server_wake(p->a.server);
		WAIT_UNTIL(atomic_load(&p->a.node.pumps) > before);
		assert_true(seconds() - begun < 0.5);
	}
	uint64_t before = atomic_load(&p->a.node.pumps);
	nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
	assert_true(atomic_load(&p->a.node.pumps) - before < 10); /* asleep otherwise */
	server_wake(NULL);
}

/* One thing to be sent each 100 us for 300 ms, each answered by the peer.  Returns how often the sender looked what there is. */
static uint64_t tell_news(struct pair *p, void (*tell)(struct server *), unsigned *ret_told, double *ret_seconds)
{
	uint64_t before = atomic_load(&p->a.node.pumps);
	double begun = seconds();
	unsigned told = 0;

	while (seconds() - begun < 0.3) {
		atomic_fetch_add(&p->a.node.news, 1);
		told++;
		tell(p->a.server);
		nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
	}
	*ret_seconds = seconds() - begun;
	*ret_told = told;
	return atomic_load(&p->a.node.pumps) - before;
}

/* Answers for which nobody waits do not end the nap in which news gather; all of both arrive. */
static void news_gather_whatever_the_peer_answers(void **state)
{
	struct pair *p = *state;
	unsigned told;
	double took;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
	atomic_store(&p->a.node.leads, true);
	atomic_store(&p->b.node.answers, true);
	uint64_t at_b = atomic_load(&p->b.node.received), at_a = atomic_load(&p->a.node.received);
	uint64_t looks = tell_news(p, server_news, &told, &took);
	assert_true((double)looks <= took / 0.002 * 2 + 20); /* a round that sends, and one that finds nothing */
	WAIT_UNTIL(atomic_load(&p->b.node.received) == at_b + told);
	WAIT_UNTIL(atomic_load(&p->a.node.received) > at_a);

	/* Where somebody waits each is sent, and its answer heard, at once. */
	at_b = atomic_load(&p->b.node.received);
	for (unsigned i = 0; i < 50; i++) {
		double begun = seconds();
		at_a = atomic_load(&p->a.node.received);
		atomic_fetch_add(&p->a.node.news, 1);
		server_wake(p->a.server);
		WAIT_UNTIL(atomic_load(&p->a.node.received) > at_a);
		assert_true(seconds() - begun < 1);
	}
	assert_int_equal(atomic_load(&p->b.node.received), at_b + 50);
}

struct waker {
	struct server *server;
	atomic_bool stop;
};

static void *wake_all_the_time(void *ctx)
{
	struct waker *w = ctx;

	while (!atomic_load(&w->stop))
		server_wake(w->server);
	return NULL;
}

/* Wakes from other threads while connections come and go: nothing is lost, nothing is used after its end. */
static void wakes_may_come_at_any_time(void **state)
{
	struct pair *p = *state;
	struct waker w = {0};
	pthread_t threads[2];

	site_start(&p->a, 0, 0);
	w.server = p->a.server;
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wake_all_the_time, &w), 0);
	for (unsigned i = 0; i < 5; i++) {
		atomic_store(&p->a.node.received, 0);
		atomic_store(&p->b.node.received, 0);
		assert_b_gets_in(p);
	}
	atomic_store(&w.stop, true);
	for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
		pthread_join(threads[i], NULL);
}

static void a_session_that_fails_says_why_first(void **state)
{
	struct pair *p = *state;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	uint64_t before = atomic_load(&p->b.node.received);
	atomic_store(&p->a.node.fail, -ESTALE);
	server_wake(p->a.server);
	WAIT_UNTIL(atomic_load(&p->a.node.last_why) == -ESTALE);
	WAIT_UNTIL(atomic_load(&p->b.node.received) >= before + 3);
	WAIT_UNTIL(atomic_load(&p->b.node.last_why) == -ECONNRESET);
}

static void a_session_that_holds_too_much_is_ended(void **state)
{
	struct pair *p = *state;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	atomic_store(&p->a.node.huge, true);
	server_wake(p->a.server);
	WAIT_UNTIL(atomic_load(&p->a.node.last_why) == -ENOBUFS);
	atomic_store(&p->a.node.huge, false);
}

static void a_removed_peer_is_put_out_and_stays_out(void **state)
{
	struct pair *p = *state;
	struct peers list;
	struct client c;
	int alert;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	assert_int_equal(server_remove_peer(p->a.server, "nobody"), -ENOENT);
	assert_int_equal(server_remove_peer(p->a.server, "a"), -EINVAL);
	assert_int_equal(server_remove_peer(p->a.server, "b"), 0);
	WAIT_UNTIL(atomic_load(&p->a.node.n_sessions) == 0);
	assert_int_equal(peers_load(p->a.dir, &list), 0);
	assert_int_equal(list.n, 1);
	mutex_lock(&p->a.node.lock);
	assert_int_equal(p->a.node.peers.n, 1);
	mutex_unlock(&p->a.node.lock);
	int opened = atomic_load(&p->a.node.n_opened);
	client_make(&c, &p->a, p->b.node_id, NULL);
	assert_int_equal(client_try(&c, server_port(p->a.server), TLS1_3_VERSION, 1, &alert), 0);
	assert_int_equal(alert, SSL_AD_CERTIFICATE_REVOKED);
	assert_int_equal(atomic_load(&p->a.node.n_opened), opened);
	client_free(&c);
}

static void a_renamed_peer_stays_connected(void **state)
{
	struct pair *p = *state;
	struct peers list;

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	assert_int_equal(server_rename_peer(p->a.server, "b", "a"), -EEXIST);
	assert_int_equal(server_rename_peer(p->a.server, "b", "new"), 0);
	assert_int_equal(peers_load(p->a.dir, &list), 0);
	assert_int_equal(peers_find(&list, "new")->node_id, 2);
	assert_int_equal(atomic_load(&p->a.node.n_sessions), 1);
}

static void a_follower_changes_no_list_but_takes_its_leaders(void **state)
{
	struct pair *p = *state;
	struct peers list;
	CLEANUP_BUF struct buf token = {0};

	start_pair(p, 0, 0);
	WAIT_UNTIL(both_talk(p));
	assert_int_equal(server_remove_peer(p->b.server, "a"), -EROFS);
	assert_int_equal(server_rename_peer(p->b.server, "a", "x"), -EROFS);
	assert_int_equal(server_invite(p->b.server, "x", "h:1", 60, &token), -EROFS);
	assert_int_equal(peers_load(p->b.dir, &list), 0);
	assert_int_equal(peers_rename(&list, "a", "other"), 0);
	server_set_peers(p->b.server, &list);
	assert_int_equal(peers_load(p->b.dir, &list), 0);
	assert_non_null(peers_find(&list, "other"));
	assert_int_equal(atomic_load(&p->b.node.n_sessions), 1);
	/* A list without the leader ends its connection. */
	assert_int_equal(peers_remove(&list, "other"), 0);
	server_set_peers(p->b.server, &list);
	WAIT_UNTIL(atomic_load(&p->b.node.n_sessions) == 0);
	server_set_peers(NULL, &list);
}

static void what_keeps_it_from_starting_is_said(void **state)
{
	struct pair *p = *state;
	static const char *const keys[] = {FILE_NODE_KEY, FILE_INVITES};
	static const char *const files[] = {FILE_NODE_KEY, FILE_NODE_CERTIFICATE, FILE_CA_CERTIFICATE};
	char path[400], away[400], address[32];
	struct site alone;

	site_init(&alone, 9, ROLE_LEADER);
	assert_int_equal(site_try_start(&alone, "127.0.0.1:0", 0, 0), -ENOENT);
	site_end(&alone);
	assert_int_equal(peerfile_write(p->a.dir, FILE_INVITES, (struct slice){"{\"invites\":[]}", 14}), 0);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		snprintf(path, sizeof(path), "%s/peers/%s", p->a.dir, keys[i]);
		assert_int_equal(chmod(path, 0640), 0);
		assert_int_equal(site_try_start(&p->a, "127.0.0.1:0", 0, 0), -EACCES);
		assert_int_equal(chmod(path, 0600), 0);
	}
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/peers/%s", p->a.dir, files[i]);
		snprintf(away, sizeof(away), "%s/peers/away", p->a.dir);
		assert_int_equal(rename(path, away), 0);
		assert_int_equal(site_try_start(&p->a, "127.0.0.1:0", 0, 0), -EUCLEAN);
		assert_int_equal(rename(away, path), 0);
	}
	memset(p->a.node_id, 9, 16); /* the certificate is of another node than the volume's */
	assert_int_equal(site_try_start(&p->a, "127.0.0.1:0", 0, 0), -EUCLEAN);
	memset(p->a.node_id, 1, 16);
	site_start(&p->a, 0, 0);
	snprintf(address, sizeof(address), "127.0.0.1:%u", server_port(p->a.server));
	assert_int_equal(site_try_start(&p->b, address, 0, 0), -EADDRINUSE);
	assert_int_equal(site_try_start(&p->b, "nonsense", 0, 0), -EINVAL);
}

static void ipv6_works_as_well(void **state)
{
	struct pair *p = *state;
	struct peers list;

	if (site_try_start(&p->a, "[::1]:0", 0, 0) < 0)
		skip(); /* a machine without IPv6 */
	site_admit(&p->a, &p->b, "b", 1);
	assert_int_equal(peers_load(p->b.dir, &list), 0);
	snprintf(list.peer[0].address, sizeof(list.peer[0].address), "[::1]:%u", server_port(p->a.server));
	assert_int_equal(peers_save(p->b.dir, &list), 0);
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
	WAIT_UNTIL(both_talk(p));
}

/* By name: through the resolver's own thread. */
static void names_are_looked_up(void **state)
{
	struct pair *p = *state;
	struct peers list;
	struct peer_status status;

	site_start(&p->a, 0, 0);
	site_admit(&p->a, &p->b, "b", 1);
	assert_int_equal(peers_load(p->b.dir, &list), 0);
	snprintf(list.peer[0].address, sizeof(list.peer[0].address), "localhost:%u", server_port(p->a.server));
	assert_int_equal(peers_save(p->b.dir, &list), 0);
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	site_dial(&p->b, 1);
	WAIT_UNTIL(both_talk(p));
	p->b.server = server_stop(p->b.server);
	snprintf(list.peer[0].address, sizeof(list.peer[0].address), "no-such-host.invalid:7400");
	assert_int_equal(peers_save(p->b.dir, &list), 0);
	assert_int_equal(site_try_start(&p->b, NULL, 0, 0), 0);
	WAIT_UNTIL((site_reason(&p->b, "a", &status), strstr(status.reason, "cannot be reached at no-such-host.invalid:7400")));
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, make_pair, free_pair)
	const struct CMUnitTest tests[] = {
	    CASE(peers_know_each_other_and_talk),
	    CASE(a_certificate_that_is_not_good_is_refused_before_a_byte),
	    CASE(a_client_without_a_certificate_is_refused),
	    CASE(tls_1_2_is_refused),
	    CASE(a_dialer_that_is_refused_learns_why),
	    CASE(another_node_than_the_one_dialed_is_refused),
	    CASE(a_peer_that_is_away_is_told_of_once_and_found_again),
	    CASE(garbage_ends_only_its_own_connection),
	    CASE(half_a_handshake_and_silence_end_in_time),
	    CASE(idle_connections_keep_no_peer_out),
	    CASE(a_connection_may_be_cut_anywhere),
	    CASE(the_rate_holds),
	    CASE(without_a_rate_it_is_as_fast_as_it_can_be),
	    CASE(stopping_is_quick_while_busy),
	    CASE(stopping_does_not_wait_for_a_connect),
	    CASE(a_wake_is_noticed_at_once_and_costs_nothing_while_awake),
	    CASE(news_gather_whatever_the_peer_answers),
	    CASE(wakes_may_come_at_any_time),
	    CASE(a_session_that_fails_says_why_first),
	    CASE(a_session_that_holds_too_much_is_ended),
	    CASE(a_removed_peer_is_put_out_and_stays_out),
	    CASE(a_renamed_peer_stays_connected),
	    CASE(a_follower_changes_no_list_but_takes_its_leaders),
	    CASE(what_keeps_it_from_starting_is_said),
	    CASE(ipv6_works_as_well),
	    CASE(names_are_looked_up),
	};

	return cmocka_run_group_tests_name("server", tests, NULL, NULL);
}
