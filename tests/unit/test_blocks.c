/* test_blocks.c: replicate/blocks.c: questions for blocks in both directions of a stream, their bounds, and older peers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <stdio.h>

#include "base/crc32c.h"
#include "replicate/node_internal.h"
#include "tests/unit/fake_volume.h"

#define STEPS_MAX 2000u

struct side {
	struct fake *f;
	struct node *node;
	struct session *s;
	uint32_t n_wakes;
	int error;
};
static struct side side[2]; /* leader, follower */
static int64_t now_ns;
static bool old_peer; /* the follower is of an older release */

static int64_t test_now(const struct clock *c)
{
	(void)c;
	return now_ns;
}
static const struct clock test_clock = {.real_ns = test_now, .mono_ns = test_now};

static void on_wake(void *ctx)
{
	((struct side *)ctx)->n_wakes++;
}

static struct peers both_peers(void)
{
	struct peers p = {.version = 1, .next_id = 3, .n = 2};

	for (uint32_t i = 0; i < 2; i++) {
		p.peer[i].node_id = i + 1;
		memset(p.peer[i].node, (int)i + 1, sizeof(p.peer[i].node));
		snprintf(p.peer[i].name, sizeof(p.peer[i].name), "n%u", i + 1);
		snprintf(p.peer[i].address, sizeof(p.peer[i].address), "host%u:1", i + 1);
	}
	return p;
}

/* What one side has to say reaches the other. */
static void turn(struct side *from, struct side *to)
{
	int64_t deadline_ns;

	if (old_peer && from == &side[1])
		from->s->blocks.said = true;
	int r = session_pump(from->s, &deadline_ns);
	struct slice out = session_output(from->s);
	from->error = from->error ? from->error : r;
	if (!out.len)
		return;
	CLEANUP_FREE uint8_t *copy = malloc(out.len);
	size_t len = out.len;
	memcpy(copy, out.p, len);
	session_sent(from->s, len);
	r = session_input(to->s, copy, len);
	to->error = to->error ? to->error : r;
}

static void turn_both(void)
{
	turn(&side[0], &side[1]);
	turn(&side[1], &side[0]);
	now_ns += NSEC_PER_SEC / 100;
}

static bool streams(void)
{
	return side[0].s->state == SESSION_LEADING && side[1].s->state == SESSION_FOLLOWING;
}

#define until(cond)                                                                                                              \
	do {                                                                                                                     \
		uint32_t left_ = STEPS_MAX;                                                                                      \
		while (!(cond) && --left_)                                                                                       \
			turn_both();                                                                                             \
		if (!left_)                                                                                                      \
			fail_msg("%s does not become true (line %d)", #cond, __LINE__);                                          \
	} while (0)

static int begin(void **state)
{
	(void)state;
	now_ns = NSEC_PER_SEC;
	for (unsigned i = 0; i < 2; i++) {
		side[i] = (struct side){.f = fake_new(i + 1, i == 0 ? ROLE_LEADER : ROLE_FOLLOWER)};
		const struct node_config c = {.volume = &side[i].f->volume,
					      .clock = &test_clock,
					      .peers = both_peers(),
					      .hooks = {.ctx = &side[i], .wake = on_wake}};
		assert_int_equal(node_new(&c, &side[i].node), 0);
	}
	assert_int_equal(session_new(side[1].node, 1, true, &side[1].s), 0);
	assert_int_equal(session_new(side[0].node, 2, false, &side[0].s), 0);
	until(streams());
	for (unsigned i = 0; i < 10; i++)
		turn_both();
	return 0;
}

static int begin_old(void **state)
{
	old_peer = true;
	return begin(state);
}

static int end(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		side[i].s = session_free(side[i].s, 0, NULL);
		node_free(side[i].node);
		fake_free(side[i].f);
	}
	old_peer = false;
	return 0;
}

/* Question `number` for the block that is `slot` over and over; `here`: the other side has it. */
static void want(struct side *t, uint64_t number, uint32_t slot, bool here)
{
	uint8_t block[BLOCK_SIZE];

	memset(block, (int)slot, sizeof(block));
	assert_true(t->f->n_wanted < FAKE_WANTED_MAX);
	t->f->wanted[t->f->n_wanted++] = (struct block_wanted){
	    .number = number, .ino = 2, .leaf = 3, .slot = slot, .crc = crc32c(0, block, sizeof(block)) + !here};
}

static void either_side_gets_what_the_other_has_and_is_told_of_what_it_has_not(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(node_ask_block(side[i].node), 1);
		assert_true(side[i].n_wakes > 0);
		for (uint64_t n = 1; n <= 40; n++)
			want(&side[i], n, (uint32_t)(n % 16), n % 3 != 0);
		until(side[i].f->n_given == 40);
		for (uint32_t k = 0; k < 40; k++) {
			uint64_t number = side[i].f->given[k].number;
			assert_int_equal(side[i].f->given[k].here, number % 3 != 0);
			if (number % 3 != 0)
				assert_int_equal(side[i].f->given[k].block[77], number % 16);
		}
	}
	assert_int_equal(side[0].error, 0);
	assert_int_equal(side[1].error, 0);
	assert_true(streams());
	assert_true(fake_equal(side[0].f, side[1].f) && fake_is_sound(side[1].f)); /* the stream was not disturbed */
}

static void an_older_peer_is_asked_for_nothing_and_asks_for_nothing(void **state)
{
	(void)state;
	assert_int_equal(node_ask_block(side[0].node), 0);
	want(&side[0], 1, 1, true);
	for (unsigned i = 0; i < 300; i++)
		turn_both();
	assert_int_equal(side[0].f->n_given, 0);
	assert_int_equal(side[1].f->n_asked, 0);
	assert_int_equal(side[0].error, 0);
	assert_int_equal(side[1].error, 0);
	assert_true(streams());
}

static void who_asks_waits_with_no_more_than_sixteen_questions(void **state)
{
	int64_t deadline_ns;

	(void)state;
	for (uint64_t n = 1; n <= 40; n++)
		want(&side[0], n, 1, true);
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(session_pump(side[0].s, &deadline_ns), 0);
	assert_int_equal(side[0].s->blocks.n_out, BLOCKS_MAX);
}

static void put_message(struct side *to, enum message_type type, const struct block_wanted *q, const struct block_answer *a,
			int expect)
{
	CLEANUP_BUF struct buf b = {0};
	size_t at = frame_begin(&b, type);

	if (q)
		block_wanted_put(&b, q);
	else
		block_answer_put(&b, a);
	frame_end(&b, at, to->s->in_number);
	assert_int_equal(session_input(to->s, b.p, b.len), expect);
}

static void one_question_too_many_ends_the_connection(void **state)
{
	const struct block_wanted q = {.number = 1, .ino = 1, .leaf = 0, .slot = 0, .crc = 1};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t n = 0; n < BLOCKS_MAX; n++)
			put_message(&side[i], MESSAGE_BLOCK_WANTED, &q, NULL, 0);
		assert_int_equal(side[i].f->n_asked, 0); /* the pump answers */
		put_message(&side[i], MESSAGE_BLOCK_WANTED, &q, NULL, -EPROTO);
	}
}

static void an_answer_to_nothing_ends_the_connection_and_reaches_nobody(void **state)
{
	const uint8_t block[BLOCK_SIZE] = {1};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		put_message(&side[i], MESSAGE_BLOCK, NULL, &(struct block_answer){77, block}, -EPROTO);
		assert_int_equal(side[i].f->n_given, 0);
	}
}

static void an_answer_that_comes_twice_is_one_to_nothing(void **state)
{
	int64_t deadline_ns;

	(void)state;
	want(&side[0], 5, 1, true);
	assert_int_equal(session_pump(side[0].s, &deadline_ns), 0);
	put_message(&side[0], MESSAGE_BLOCK, NULL, &(struct block_answer){5, NULL}, 0);
	put_message(&side[0], MESSAGE_BLOCK, NULL, &(struct block_answer){5, NULL}, -EPROTO);
	assert_int_equal(side[0].f->n_given, 1);
}

static void a_connection_that_ends_answers_what_is_open(void **state)
{
	int64_t deadline_ns;

	(void)state;
	for (uint64_t n = 1; n <= 3; n++)
		want(&side[0], n, 1, true);
	assert_int_equal(session_pump(side[0].s, &deadline_ns), 0);
	assert_int_equal(side[0].f->n_given, 0);
	side[0].s = session_free(side[0].s, -ECONNRESET, "cut");
	assert_int_equal(side[0].f->n_given, 3);
	for (uint32_t k = 0; k < 3; k++)
		assert_false(side[0].f->given[k].here);
	assert_int_equal(node_ask_block(side[0].node), 0);
}

/* Whoever asks without end gets about a thousand answers a second. */
static void answers_are_limited(void **state)
{
	const struct block_wanted q = {.number = 1, .ino = 1, .leaf = 0, .slot = 0, .crc = 1};
	int64_t begun_ns, deadline_ns;
	struct session *s = side[0].s;
	uint32_t before;

	(void)state;
	begun_ns = now_ns;
	before = side[0].f->n_asked;
	while (now_ns - begun_ns < NSEC_PER_SEC) {
		while (s->blocks.n_in < BLOCKS_MAX)
			put_message(&side[0], MESSAGE_BLOCK_WANTED, &q, NULL, 0);
		assert_int_equal(session_pump(s, &deadline_ns), 0);
		session_sent(s, session_output(s).len);
		now_ns += NSEC_PER_SEC / 2000;
	}
	assert_in_range(side[0].f->n_asked - before, 900, 1300);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(either_side_gets_what_the_other_has_and_is_told_of_what_it_has_not),
	    cmocka_unit_test_setup_teardown(an_older_peer_is_asked_for_nothing_and_asks_for_nothing, begin_old, end),
	    CASE(who_asks_waits_with_no_more_than_sixteen_questions),
	    CASE(one_question_too_many_ends_the_connection),
	    CASE(an_answer_to_nothing_ends_the_connection_and_reaches_nobody),
	    CASE(an_answer_that_comes_twice_is_one_to_nothing),
	    CASE(a_connection_that_ends_answers_what_is_open),
	    CASE(answers_are_limited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
