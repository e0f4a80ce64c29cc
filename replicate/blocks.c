/*
 * blocks.c: questions for blocks that a volume cannot read, and answers to those of the other side, in either direction of a
 * stream.
 *
 *     BLOCK_WANTED {number, ino, leaf, slot, crc} -->
 *                                                <-- BLOCK {number, the block, or nothing}
 *
 * Nobody is asked who has not said that he answers: by a PING whose value has FEATURES_BIT, at the beginning of each stream.  An
 * older node takes it for any other PING, and says nothing of the kind itself.
 *
 * Bounded: BLOCKS_MAX questions of each side are open on a connection; one more ends it.  Answers are given by the pump, when
 * there is room for them, at most ANSWERS_A_SECOND, so that a peer that asks without end takes little of this node's disk.  What
 * an answer says is for the volume to judge.  A connection that ends answers what is open with "not here".
 */
#include <errno.h>
#include <string.h>

#include "replicate/node_internal.h"

#define ANSWERS_A_SECOND 1024
#define ANSWERS_A_PUMP   16u

bool blocks_is_features(uint64_t ping)
{
	return ping & FEATURES_BIT;
}

void blocks_take_features(struct session *s, uint64_t ping)
{
	struct node *n = s->node;

	s->blocks.peer_answers = ping & FEATURE_BLOCKS;
	mutex_lock(&n->lock);
	struct node_peer *p = node_peer_locked(n, s->peer_id);
	if (p && p->stream == s)
		p->answers_blocks = s->blocks.peer_answers;
	mutex_unlock(&n->lock);
}

uint32_t node_ask_block(struct node *n)
{
	uint32_t count = 0;

	mutex_lock(&n->lock);
	for (uint32_t i = 0; i < n->n_peers; i++)
		count += n->peer[i].stream && n->peer[i].answers_blocks && n->peer[i].state == PEER_STREAMING;
	mutex_unlock(&n->lock);
	if (count && n->hooks.wake)
		n->hooks.wake(n->hooks.ctx);
	return count;
}

/* ---- asking ---- */

static int ask(struct session *s)
{
	struct replica_volume *v = s->node->volume;
	struct blocks *b = &s->blocks;
	struct block_wanted m;

	while (b->n_out < BLOCKS_MAX && session_pending(s) < SESSION_OUT_MAX && v->ops->next_wanted(v, b->asked, &m) == 0) {
		size_t at = session_begin(s, MESSAGE_BLOCK_WANTED);

		block_wanted_put(&s->out, &m);
		int r = session_end(s, at);
		if (r)
			return r;
		b->asked = m.number;
		b->out[b->n_out++] = m.number;
	}
	return 0;
}

static int take_answer(struct session *s, struct slice body)
{
	struct replica_volume *v = s->node->volume;
	struct blocks *b = &s->blocks;
	struct block_answer m;
	uint32_t i = 0;
	int r = block_answer_get(body, &m);

	if (r)
		return r;
	while (i < b->n_out && b->out[i] != m.number)
		i++;
	if (i == b->n_out)
		return session_fail(s, -EPROTO, "a block that was not asked for");
	b->out[i] = b->out[--b->n_out];
	v->ops->give_block(v, m.number, m.block);
	return 0;
}

/* ---- answering ---- */

static int take_question(struct session *s, struct slice body)
{
	struct blocks *b = &s->blocks;
	struct block_wanted m;
	int r = block_wanted_get(body, &m);

	if (r)
		return r;
	if (b->n_in == BLOCKS_MAX)
		return session_fail(s, -EPROTO, "more than %u blocks asked for at once", BLOCKS_MAX);
	b->in[b->n_in++] = m;
	return 0;
}

static int answer_first(struct session *s)
{
	struct replica_volume *v = s->node->volume;
	struct blocks *b = &s->blocks;
	CLEANUP_FREE void *room = NULL;

	if (posix_memalign(&room, BLOCK_SIZE, BLOCK_SIZE))
		return -ENOMEM;
	struct block_answer m = {.number = b->in[0].number};
	if (v->ops->answer_block(v, &b->in[0], room) == 0)
		m.block = room;
	memmove(b->in, b->in + 1, --b->n_in * sizeof(b->in[0]));
	size_t at = session_begin(s, MESSAGE_BLOCK);
	block_answer_put(&s->out, &m);
	return session_end(s, at);
}

static int answer(struct session *s, int64_t *deadline_ns)
{
	struct blocks *b = &s->blocks;
	int64_t now_ns = node_now(s->node);
	int r = 0;

	for (uint32_t i = 0; !r && b->n_in && i < ANSWERS_A_PUMP && now_ns >= b->next_ns && session_pending(s) < SESSION_OUT_MAX;
	     i++) {
		r = answer_first(s);
		b->next_ns = (b->next_ns > now_ns - NSEC_PER_SEC / 10 ? b->next_ns : now_ns - NSEC_PER_SEC / 10) +
			     NSEC_PER_SEC / ANSWERS_A_SECOND;
	}
	if (b->n_in)
		deadline_at(deadline_ns, b->next_ns > now_ns ? b->next_ns : now_ns);
	return r;
}

/* ---- in and out ---- */

int blocks_message(struct session *s, enum message_type type, struct slice body)
{
	return type == MESSAGE_BLOCK ? take_answer(s, body) : take_question(s, body);
}

static int say_features(struct session *s)
{
	size_t at = session_begin(s, MESSAGE_PING);

	s->blocks.said = true;
	ping_put(&s->out, FEATURES_BIT | FEATURE_BLOCKS);
	return session_end(s, at);
}

int blocks_pump(struct session *s, int64_t *deadline_ns)
{
	int r = 0;

	if (s->state != SESSION_LEADING && s->state != SESSION_FOLLOWING)
		return 0;
	if (!s->blocks.said)
		r = say_features(s);
	if (!r && s->blocks.peer_answers)
		r = ask(s);
	return r ? r : answer(s, deadline_ns);
}

void blocks_stop(struct session *s)
{
	struct replica_volume *v = s->node->volume;

	while (s->blocks.n_out)
		v->ops->give_block(v, s->blocks.out[--s->blocks.n_out], NULL);
}
