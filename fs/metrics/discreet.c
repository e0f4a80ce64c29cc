/*
 * discreet.c: the status for who may be anybody: every user of a host can connect to its ports.
 *
 * Texts can name files, directories of the host, and what somebody typed; so those are left out that are not known to be words of
 * a small choice.  Numbers stay, and the names of peers and stores, which /metrics has as labels.
 */
#include <string.h>

#include "fs/metrics/metrics.h"

/* Members whose texts are words of clawfs or ids, or the volume's name. */
static const char *const plain[] = {"state", "role", "level", "encryption", "volume", "label", "node", "version", "breaker"};

static bool is_plain(const char *key)
{
	for (size_t i = 0; i < ARRAY_SIZE(plain); i++)
		if (strcmp(key, plain[i]) == 0)
			return true;
	return false;
}

static void hide_texts(json_t *o)
{
	const char *key;
	json_t *v;
	size_t i;

	if (json_is_array(o))
		for (i = 0; i < json_array_size(o); i++) {
			v = json_array_get(o, i);
			if (json_is_string(v))
				json_array_set_new(o, i, json_string(""));
			else
				hide_texts(v);
		}
	json_object_foreach(o, key, v)
	{
		if (json_is_string(v) && !is_plain(key))
			json_string_set(v, "");
		else
			hide_texts(v);
	}
}

void metrics_status_discreet(struct metrics *m, struct buf *out)
{
	json_t *o = metrics_status_object(m);
	char *text = NULL;

	hide_texts(o);
	text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	if (text)
		buf_put(out, text, strlen(text));
	else
		out->failed = true;
	buf_put_u8(out, '\n');
	free(text);
	json_decref(o);
}
