/*
 * util.h: the small words every file uses: cleanup attributes, checked prototypes, arithmetic.
 *
 * Ownership: a variable marked CLEANUP_x owns what it holds and gives it back at the end of its scope;
 * TAKE_x moves it out.  Threads: no state.  Errors: none.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define NSEC_PER_SEC INT64_C(1000000000)

static inline uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }
static inline uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }
static inline uint64_t div_round_up(uint64_t n, uint64_t d) { return n / d + (n % d != 0); }

/* A borrowed run of bytes; not terminated. */
struct slice {
	const void *p;
	size_t len;
};

static inline void cleanup_free(void *p) { free(*(void **)p); }
static inline void cleanup_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define CLEANUP_FREE __attribute__((cleanup(cleanup_free)))
#define CLEANUP_FD __attribute__((cleanup(cleanup_fd)))
#define TAKE_PTR(p)                   \
	({                            \
		__typeof__(p) t_ = (p); \
		(p) = NULL;           \
		t_;                   \
	})
#define TAKE_FD(fd)        \
	({                 \
		int t_ = (fd); \
		(fd) = -1; \
		t_;        \
	})
