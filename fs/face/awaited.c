/*
 * awaited.c: requests whose answer waits: for a commit, for followers, for a position.  The worker that received one goes on to
 * the next, and who made it may be interrupted or killed meanwhile: the kernel then sends INTERRUPT, and lets go of a caller only
 * once its request is answered.
 *
 * INTERRUPT may come before the request waits, while it does, as it is being answered, or after.  libfuse remembers it for a
 * request that it knows and calls on_interrupt() under that request's lock; taking the function away (NULL) waits for such a
 * call.  So:
 *
 *     await_begin()    from here on an interrupt is at least noted
 *     (the volume is given the waiter, and answers by on_done() when it likes)
 *     await_end()      one that came before the volume had it counts now
 *
 * The volume decides who answers (fs_interrupt()): whoever took the request out of its list, or whoever it was told by; never
 * both. Either is done with `p` independently of who began it, so it is counted.
 */
#include "fs/face/face_internal.h"

#include <errno.h>

static void unref(struct awaited *p)
{
	if (atomic_fetch_sub(&p->refs, 1) == 1)
		free(p);
}

/* Whoever waits for something gets no further than here: what it waits for is done as far as it is done. */
static void on_interrupt(fuse_req_t req, void *arg)
{
	struct awaited *p = arg;

	(void)req;
	atomic_store(&p->interrupted, true);
	if (!fs_interrupt(p->fs, &p->waiter))
		return;
	p->answer(p, -EINTR);
	unref(p);
}

static void on_done(struct journal_waiter *w, int result)
{
	struct awaited *p = container_of(w, struct awaited, waiter);

	fuse_req_interrupt_func(p->req, NULL, NULL);
	p->answer(p, result);
	unref(p);
}

void await_begin(struct awaited *p, fuse_req_t req, void (*answer)(struct awaited *p, int result))
{
	*p = (struct awaited){.waiter.done = on_done, .req = req, .fs = request_fs(req), .answer = answer};
	atomic_init(&p->refs, 2);
	fuse_req_interrupt_func(req, on_interrupt, p);
}

void await_end(struct awaited *p)
{
	if (atomic_load(&p->interrupted) && fs_interrupt(p->fs, &p->waiter))
		on_done(&p->waiter, -EINTR);
	unref(p);
}
