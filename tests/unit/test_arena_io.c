/*
 * test_arena_io.c: blocks written to the arena and read back, and what a flush covers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <pthread.h>

#include "base/log.h"
#include "tests/unit/arena_world.h"

static void blocks_are_read_back_across_chunks(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[5];
	struct arena_write w[3];

	struct run r = alloc_one(f, 3 * CHUNK);
	pointer_t at = pointer_add(r.start, CHUNK - 3);
	size_t sizes[] = {1, 4, 2, 80, 5}, off = 0, n = 0;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); off += sizes[i++])
		iov[n++] = (struct iovec){f->p + off * BLOCK_SIZE, sizes[i] * BLOCK_SIZE};
	assert_int_equal(arena_writev(f->a, at, iov, 5), 0);
	assert_int_equal(arena_read(f->a, at, 92, f->q), 0);
	assert_memory_equal(f->q, f->p, 92 * BLOCK_SIZE);
	assert_int_equal(arena_read(f->a, pointer_add(at, 70), 3, f->q), 0);
	assert_memory_equal(f->q, f->p + 70 * BLOCK_SIZE, 3 * BLOCK_SIZE);

	w[0] = (struct arena_write){r.start, 2, f->p + 9 * BLOCK_SIZE};
	w[1] = (struct arena_write){pointer_add(r.start, 2), 90, f->p + 11 * BLOCK_SIZE};
	w[2] = (struct arena_write){pointer_add(r.start, 150), 1, f->p};
	assert_int_equal(arena_write_many(f->a, w, 3), 0);
	assert_int_equal(arena_read(f->a, r.start, 92, f->q), 0);
	assert_memory_equal(f->q, f->p + 9 * BLOCK_SIZE, 92 * BLOCK_SIZE);
	assert_int_equal(arena_read(f->a, pointer_add(r.start, 150), 1, f->q), 0);
	assert_memory_equal(f->q, f->p, BLOCK_SIZE);
	struct arena_status s = status_of(f);
	assert_int_equal(s.blocks_written, 92 + 93);
	assert_int_equal(s.blocks_read, 92 + 3 + 92 + 1);
}

static void many_scattered_writes_all_arrive(void **state)
{
	struct fixture *f = *state;
	static struct arena_write w[1000];

	struct run r = alloc_one(f, 16 * CHUNK);
	for (size_t i = 0; i < 1000; i++) /* 7 is prime to 1024 */
		w[i] = (struct arena_write){pointer_add(r.start, i * 7 % 1024), 1, f->p + i % 256 * BLOCK_SIZE};
	assert_int_equal(arena_write_many(f->a, w, 1000), 0);
	for (size_t i = 0; i < 1000; i++) {
		assert_int_equal(arena_read(f->a, w[i].at, 1, f->q), 0);
		assert_memory_equal(f->q, w[i].p, BLOCK_SIZE);
	}
}

static void io_outside_the_arena_never_reaches_a_disk(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->p, 2 * BLOCK_SIZE};
	struct arena_write w = {pointer_make(1, CHUNK - 1), 2, f->p};

	alloc_one(f, 1);
	assert_int_equal(arena_read(f->a, pointer_make(1, CHUNK - 1), 2, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, pointer_make(0, 1), 1, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, pointer_make(3, 1), 1, f->q), -EUCLEAN);
	assert_int_equal(arena_read(f->a, UINT64_MAX, 1, f->q), -EUCLEAN);
	assert_int_equal(arena_writev(f->a, pointer_make(1, CHUNK - 1), &iov, 1), -EUCLEAN);
	assert_int_equal(arena_write_many(f->a, &w, 1), -EUCLEAN);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 0);
	assert_false(arena_is_used(f->a, pointer_make(1, CHUNK)));
}

static void write_block(struct fixture *f, uint64_t block)
{
	struct iovec iov = {f->p, BLOCK_SIZE};

	assert_int_equal(arena_writev(f->a, pointer_make(1, block), &iov, 1), 0);
}

static void flush_takes_only_chunks_written_since_the_last(void **state)
{
	struct fixture *f = *state;

	alloc_one(f, 4 * CHUNK);
	write_block(f, 0);
	write_block(f, 2 * CHUNK);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 2);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 2);
	write_block(f, 2 * CHUNK + 1);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 3);
}

static void a_failed_write_or_flush_stays_for_every_later_flush(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->p, BLOCK_SIZE};

	alloc_one(f, 1);
	write_block(f, 0);
	atomic_store(&f->store.fail_flush, -EIO);
	assert_int_equal(arena_flush(f->a), -EIO);
	atomic_store(&f->store.fail_flush, 0);
	assert_int_equal(arena_flush(f->a), -EIO);
	assert_int_equal(status_of(f).error, -EIO);
	assert_int_equal(atomic_load(&f->store.flushes), 1);
	reopen(f, 1);
	assert_int_equal(arena_flush(f->a), 0);
	atomic_store(&f->store.fail_write, -ENXIO);
	assert_int_equal(arena_writev(f->a, pointer_make(1, 0), &iov, 1), -ENXIO);
	atomic_store(&f->store.fail_write, 0);
	assert_int_equal(arena_flush(f->a), -ENXIO);
}

static void *flush_thread(void *arg)
{
	struct fixture *f = arg;

	return arena_flush(f->a) == 0 ? NULL : f;
}

/* The second flusher finds the chunk clean, but a flush of it under way: it must not return before that one's end. */
static void a_flush_waits_for_the_one_that_covers_its_writes(void **state)
{
	struct fixture *f = *state;
	pthread_t t;
	void *failed;

	alloc_one(f, 1);
	write_block(f, 0);
	atomic_store(&f->store.slow_us, 100000);
	assert_int_equal(pthread_create(&t, NULL, flush_thread, f), 0);
	usleep(30000);
	assert_int_equal(arena_flush(f->a), 0);
	assert_int_equal(atomic_load(&f->store.flushes), 1);
	pthread_join(t, &failed);
	assert_null(failed);
}

static void neighbours_on_disk_but_not_in_memory_are_written_as_given(void **state)
{
	struct fixture *f = *state;
	struct arena_write w[3];

	struct run r = alloc_one(f, 3);
	for (size_t i = 0; i < 3; i++)
		w[i] = (struct arena_write){pointer_add(r.start, i), 1, f->p + (5 - 2 * i) * BLOCK_SIZE};
	assert_int_equal(arena_write_many(f->a, w, 3), 0);
	assert_int_equal(arena_read(f->a, r.start, 3, f->q), 0);
	for (size_t i = 0; i < 3; i++)
		assert_memory_equal(f->q + i * BLOCK_SIZE, w[i].p, BLOCK_SIZE);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest cases[] = {
	    CASE(blocks_are_read_back_across_chunks),
	    CASE(many_scattered_writes_all_arrive),
	    CASE(io_outside_the_arena_never_reaches_a_disk),
	    CASE(flush_takes_only_chunks_written_since_the_last),
	    CASE(a_failed_write_or_flush_stays_for_every_later_flush),
	    CASE(a_flush_waits_for_the_one_that_covers_its_writes),
	    CASE(neighbours_on_disk_but_not_in_memory_are_written_as_given),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
