/*
 * clock.c: what time it is, for those who judge by age.
 *
 * A host's clock may jump (guarantee G13): by ten years forward, and every file of the volume is cold, every object that nobody
 * needs beyond its grace time.  So ages are told by a time that goes on with the monotonic clock and follows the host's as long
 * as the two are no more than a day apart.  A greater difference is logged and believed only when it has lasted for a day: time
 * enough for an admin to set the clock right, and a clock that was right to begin with, on a host that started in 1970, prevails
 * by itself. At mount the host's clock is believed: there is nothing else to go by.
 */
#include "base/log.h"
#include "fs/core/tier/ageing/impl.h"

void steady_begin(struct ageing *a)
{
	const struct clock *c = a->fs->clock;

	mutex_lock(&a->lock);
	a->clock = (struct steady_clock){.real_ns = clock_real_ns(c), .mono_ns = clock_mono_ns(c)};
	mutex_unlock(&a->lock);
}

static int64_t difference(int64_t a, int64_t b)
{
	int64_t d;

	if (__builtin_sub_overflow(a, b, &d))
		return INT64_MAX;
	return d < 0 ? -d : d;
}

static int64_t now_at(const struct steady_clock *c, int64_t mono_ns)
{
	return c->real_ns + (mono_ns - c->mono_ns);
}

enum clock_event { CLOCK_FINE, CLOCK_JUMPED, CLOCK_BELIEVED };

static enum clock_event look(struct steady_clock *c, int64_t real_ns, int64_t mono_ns)
{
	int64_t jump_ns = real_ns - now_at(c, mono_ns);
	bool far = difference(jump_ns, 0) > DAY_NS, same = c->jump_ns && difference(jump_ns, c->jump_ns) <= DAY_NS;

	if (far && !same) {
		c->jump_ns = jump_ns;
		c->jump_since_ns = mono_ns;
		return CLOCK_JUMPED;
	}
	if (far && mono_ns - c->jump_since_ns < DAY_NS)
		return CLOCK_FINE;
	*c = (struct steady_clock){.real_ns = real_ns, .mono_ns = mono_ns};
	return far ? CLOCK_BELIEVED : CLOCK_FINE;
}

void steady_look(struct ageing *a)
{
	const struct clock *c = a->fs->clock;

	mutex_lock(&a->lock);
	enum clock_event e = look(&a->clock, clock_real_ns(c), clock_mono_ns(c));
	int64_t days = a->clock.jump_ns / DAY_NS;
	mutex_unlock(&a->lock);
	if (e == CLOCK_JUMPED)
		log_warn("tier: the host's clock moved by %lld days against the time that has passed: for a day, files and "
			 "objects are judged "
			 "by the time it was before; set the clock if it is wrong",
			 (long long)days);
	else if (e == CLOCK_BELIEVED)
		log_info(
		    "tier: the host's clock has kept its new time for a day: files and objects are judged by it from now on");
}

int64_t steady_now(struct ageing *a)
{
	const struct clock *c = a->fs->clock;
	int64_t real_ns = clock_real_ns(c);

	mutex_lock(&a->lock);
	int64_t now = now_at(&a->clock, clock_mono_ns(c));
	mutex_unlock(&a->lock);
	return real_ns < now ? real_ns : now;
}
