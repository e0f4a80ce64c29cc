/*
 * notes.c: what went wrong with whom.
 *
 * A peer that is away is tried again and again: why is in its status all the time and in the log once, until it changes or there
 * was a session.  How sessions end the node itself tells.  Strangers may come as often as they like: they get a few lines a
 * minute, and the same one again only after an hour.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "replicate/net/server_impl.h"

#define MINUTE_NS (60 * NSEC_PER_SEC)
#define HOUR_NS   (60 * MINUTE_NS)

/* The peer's note; of an unused one the first time.  Removed peers leave theirs to be used again: never NULL. */
static struct note *note_of(struct server *s, uint32_t node_id) REQUIRES(s->notes_lock)
{
	struct note *unused = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(s->notes); i++) {
		struct note *n = &s->notes[i];

		if (n->node_id == node_id)
			return n;
		if (n->node_id == 0 && !unused)
			unused = n;
	}
	if (!unused) /* more removed peers than room: the oldest id is the one least likely to come back */
		for (size_t i = 0; i < ARRAY_SIZE(s->notes); i++)
			if (!unused || s->notes[i].node_id < unused->node_id)
				unused = &s->notes[i];
	*unused = (struct note){.node_id = node_id};
	return unused;
}

/* True when this is news. */
static bool update(struct note *n, int why, const char *text)
{
	n->current = true;
	n->why = why;
	n->errors++;
	if (strncmp(n->text, text, sizeof(n->text) - 1) == 0)
		return false;
	snprintf(n->text, sizeof(n->text), "%s", text);
	return true;
}

void note_failure(struct server *s, const struct peer *p, int why, const char *text)
{
	mutex_lock(&s->notes_lock);
	bool news = update(note_of(s, p->node_id), why, text);
	mutex_unlock(&s->notes_lock);
	if (news)
		log_warn("replication: peer %s: %s", p->name, text);
}

void note_session(struct server *s, const struct peer *p)
{
	mutex_lock(&s->notes_lock);
	struct note *n = note_of(s, p->node_id);
	n->current = false;
	n->text[0] = '\0';
	mutex_unlock(&s->notes_lock);
}

/* Whether a line about a stranger is still to be had, and is not the last one again. */
static bool take_line(struct server *s, const char *text, bool *ret_last) REQUIRES(s->notes_lock)
{
	int64_t now = clock_mono_ns(&clock_system);

	if (strncmp(s->stranger, text, sizeof(s->stranger) - 1) == 0 && now - s->stranger_ns < HOUR_NS)
		return false;
	if (s->minute_ns == 0 || now - s->minute_ns >= MINUTE_NS) {
		s->minute_ns = now;
		s->n_strangers = 0;
	}
	if (s->n_strangers == STRANGER_LINES_MAX)
		return false;
	*ret_last = ++s->n_strangers == STRANGER_LINES_MAX;
	snprintf(s->stranger, sizeof(s->stranger), "%s", text);
	s->stranger_ns = now;
	return true;
}

void note_stranger(struct server *s, const char *host, const char *text)
{
	bool last = false;

	mutex_lock(&s->notes_lock);
	bool told = take_line(s, text, &last);
	mutex_unlock(&s->notes_lock);
	if (told)
		log_warn("replication: refused a connection from %s: %s%s", host[0] ? host : "somebody who left", text,
			 last ? " (no more of these lines for a minute)" : "");
}

static void overlay(const struct note *n, struct peer_status *p)
{
	p->errors += n->errors;
	if (!n->current || (p->state != PEER_DISCONNECTED && p->state != PEER_CONNECTING))
		return;
	if (n->why == -EACCES)
		p->state = PEER_REFUSED;
	snprintf(p->reason, sizeof(p->reason), "%s", n->text);
}

void note_status(struct server *s, struct peer_status *ret, uint32_t n)
{
	mutex_lock(&s->notes_lock);
	for (uint32_t i = 0; i < n; i++)
		for (size_t k = 0; k < ARRAY_SIZE(s->notes); k++)
			if (s->notes[k].node_id && s->notes[k].node_id == ret[i].node_id)
				overlay(&s->notes[k], &ret[i]);
	mutex_unlock(&s->notes_lock);
}
