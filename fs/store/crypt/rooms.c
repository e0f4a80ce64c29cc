/* rooms.c: made when first needed, kept until the end. */
#include "fs/store/crypt/rooms.h"

#include <assert.h>
#include <errno.h>

#include "base/lock.h"
#include "fs/store/crypt/key.h"

struct rooms {
	struct mutex lock;
	struct cond free;
	/* guarded by lock */
	uint8_t *idle[ROOMS];
	unsigned n_idle, n;
};

int rooms_new(struct rooms **ret)
{
	struct rooms *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	mutex_init(&r->lock);
	cond_init(&r->free);
	*ret = r;
	return 0;
}

struct rooms *rooms_free(struct rooms *r) NO_THREAD_SAFETY
{
	if (!r)
		return NULL;
	assert(r->n_idle == r->n);
	while (r->n_idle) {
		uint8_t *room = r->idle[--r->n_idle];

		key_wipe(room, ROOM_BYTES + ROOM_BESIDE);
		free(room);
	}
	cond_destroy(&r->free);
	mutex_destroy(&r->lock);
	free(r);
	return NULL;
}

uint8_t *room_take(struct rooms *r, bool wait)
{
	uint8_t *room = NULL;
	void *made;

	mutex_lock(&r->lock);
	while (!room) {
		if (r->n_idle) {
			room = r->idle[--r->n_idle];
		} else if (r->n < ROOMS && posix_memalign(&made, 4096, ROOM_BYTES + ROOM_BESIDE) == 0) {
			r->n++;
			room = made;
		} else if (!wait || r->n == 0) {
			break;
		} else {
			cond_wait(&r->free, &r->lock);
		}
	}
	mutex_unlock(&r->lock);
	return room;
}

void room_give(struct rooms *r, uint8_t *room)
{
	mutex_lock(&r->lock);
	r->idle[r->n_idle++] = room;
	cond_signal(&r->free);
	mutex_unlock(&r->lock);
}
