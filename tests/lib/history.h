/*
 * history.h: every history of a small file, of a length: words, whose letters are acts, and files of two blocks, each of which
 * holds the number of the write that made it.
 *
 * What a history must lead to is the test's model.  The word that fails is said.  cmocka.h is included before this.
 * Threads: one.  Errors: a failed assertion.
 */
#pragma once

#include <stdio.h>
#include <string.h>

#include "tests/lib/steps.h"

static const struct fs_cred history_cred = {.uid = 0};

/* ---- words ---- */

static char said[16]; /* the history under way */
#define SAME(got, want)                                                                                                          \
	do {                                                                                                                     \
		unsigned long long got_ = (got), want_ = (want);                                                                 \
		if (got_ != want_)                                                                                               \
			fail_msg("after \"%s\": %s is %llu, expected %llu", said, #got, got_, want_);                            \
	} while (0)

struct acts {
	const char *names;                      /* a character a letter */
	bool (*act)(void *ctx, uint8_t letter); /* false: there is nothing to do it with; then the word is left */
	void (*check)(void *ctx);               /* after a word that was done */
	void (*start_over)(void *ctx);          /* after each */
	unsigned fsck_every;                    /* so many words that were done, fsck must find nothing */
};

/* Every word of `n` of the letters, n below 16. */
static inline void every_word(const struct acts *a, void *ctx, struct fs *fs, const uint8_t *letters, unsigned n_letters,
			      unsigned n)
{
	unsigned long words = 1, n_done = 0;

	for (unsigned i = 0; i < n; i++)
		words *= n_letters;
	for (unsigned long w = 0; w < words; w++) {
		unsigned long rest = w;
		bool done = true;

		memset(said, 0, sizeof(said));
		for (unsigned i = 0; i < n && done; i++, rest /= n_letters) {
			said[i] = a->names[letters[rest % n_letters]];
			done = a->act(ctx, letters[rest % n_letters]);
		}
		if (done)
			a->check(ctx);
		if (done && ++n_done % a->fsck_every == 0)
			assert_sound(fs);
		a->start_over(ctx);
	}
}

/* ---- files of two blocks ---- */

#define SLOTS 2u

static inline void slot_write(struct fs *fs, uint64_t ino, unsigned slot, unsigned number)
{
	uint8_t block[BLOCK_SIZE] = {0};

	memcpy(block, &number, sizeof(number));
	assert_int_equal(fs_write(fs, &history_cred, ino, slot * BLOCK_SIZE, sizeof(block), block, false), 0);
}

static inline void file_resize(struct fs *fs, uint64_t ino, uint64_t size)
{
	const struct record_attr a = {.mask = ATTR_SIZE, .size = size};
	struct fs_attr now;

	assert_int_equal(fs_setattr(fs, &history_cred, ino, &a, &now), 0);
}

/* 0: a hole, or behind the end. */
static inline void slots_check(struct fs *fs, uint64_t ino, const unsigned want[SLOTS])
{
	_Alignas(DISK_BLOCK) uint8_t room[(SLOTS + 2) * BLOCK_SIZE];
	void *at;
	size_t len;

	assert_int_equal(fs_read(fs, ino, 0, SLOTS * BLOCK_SIZE, room, &at, &len), 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		unsigned got = 0;

		if (len >= (i + 1) * BLOCK_SIZE)
			memcpy(&got, (uint8_t *)at + i * BLOCK_SIZE, sizeof(got));
		SAME(got, want[i]);
	}
}

/* ---- snapshots with numbers ---- */

static inline void snap_name(unsigned number, char ret[16])
{
	snprintf(ret, 16, "s%u", number);
}
