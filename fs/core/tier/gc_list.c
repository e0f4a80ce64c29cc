/* gc_list.c: see gc_list.h. */
#include "fs/core/tier/gc_list.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/core/tier/ageing/impl.h"

void gc_say(const struct gc_list *l, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	l->fn(l->ctx, line);
}

static int note(void *ctx, const char *key, const struct object_info *info)
{
	struct gc_list *l = ctx;

	if (l->n == GC_PORTION) {
		l->more = true;
		return 1;
	}
	snprintf(l->last, sizeof(l->last), "%s", key);
	if (l->parse(l->parse_ctx, key, l->n) < 0) {
		gc_say(l, "%s: not a name that clawfs gives: left alone", key);
		return 0;
	}
	l->e[l->n++] = (struct gc_listed){.size = info->size, .modified_ns = info->modified_ns};
	l->res->listed++;
	return 0;
}

int gc_list_next(struct gc_list *l)
{
	struct object_call call = {.purpose = OBJECT_BACKGROUND};
	char after[OBJECT_KEY_MAX + 1];

	memcpy(after, l->last, sizeof(after));
	l->n = 0;
	l->more = false;
	int r = l->store->guard->ops->list(l->store->guard, &call, l->prefix, after, note, l);
	if (r < 0)
		gc_say(l, "store %s cannot be listed: %s", l->store->name, *call.message ? call.message : strerror(-r));
	return r < 0 ? r : 0;
}

/* By a clock that does not jump: it would make an upload of this moment old. */
static bool is_old(const struct gc_list *l, const struct gc_listed *e)
{
	int64_t age_ns;

	return e->modified_ns && !__builtin_sub_overflow(steady_now(l->fs->ageing), e->modified_ns, &age_ns) &&
	       age_ns > l->store->d.grace_ns;
}

bool gc_may_remove(struct gc_list *l, size_t i, const char *key)
{
	const struct gc_listed *e = &l->e[i];
	unsigned long long bytes = e->size;

	if (!is_old(l, e)) {
		gc_say(l, "%s: %s (%llu bytes), and it is younger than the grace time: left alone", key, l->unneeded, bytes);
		return false;
	}
	l->res->orphans++;
	l->res->orphan_bytes += e->size;
	if (l->dry)
		gc_say(l, "%s: %s (%llu bytes): would be removed", key, l->unneeded, bytes);
	return !l->dry;
}

void gc_was_removed(struct gc_list *l, size_t i, const char *key)
{
	l->res->removed++;
	gc_say(l, "%s: %s (%llu bytes): removed", key, l->unneeded, (unsigned long long)l->e[i].size);
}
