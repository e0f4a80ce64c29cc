/*
 * md5.c: see md5.h.  RFC 1321, sections 3.1 to 3.5, for one, two or three bodies whose steps take turns.
 *
 * A lane is one body on its way.  It shows the next of its 64-byte blocks that lie together: in the caller's memory, or, where a
 * block goes from one piece into the next one or is padding, one by one in a buffer of its own.  As many blocks are done for all
 * lanes as each of them has; a lane that is at its end makes room, and the others go on.
 */
#include "tier/s3/md5.h"

#include <assert.h>
#include <string.h>

#include "base/le.h"

#define BLOCK_BYTES  64u
#define LENGTH_BYTES 8u

struct state {
	uint32_t a, b, c, d;
};
struct lane {
	struct md5_body *body;
	struct state state;
	int i_iov; /* the next byte of the body */
	size_t at;
	uint64_t bits;
	bool padded;      /* the one bit is placed */
	bool ended;       /* the length is */
	const uint8_t *p; /* blocks that are next */
	size_t n_blocks;
	uint8_t own[BLOCK_BYTES];
};

/* ---- the steps ---- */

static inline uint32_t load(const uint8_t *p)
{
	le32 v;

	memcpy(&v, p, sizeof(v));
	return le32_get(v);
}

static inline uint32_t turn(uint32_t x, unsigned n)
{
	return x << n | x >> (32 - n);
}

/* Section 3.4.  G's terms have no bit in common: their sum is as good as their union, and takes no more than its turn. */
#define F(x, y, z) (((x) & ((y) ^ (z))) ^ (z))
#define G(x, y, z) (((x) & (z)) + ((y) & ~(z)))
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))

/* One step of the lane s, whose block is at s##_p. */
#define STEP(s, f, a, b, c, d, word, bits, k) s.a = s.b + turn(s.a + (k) + load(s##_p + 4 * (word)) + f(s.b, s.c, s.d), bits);
#define EACH_1(...)                           STEP(x, __VA_ARGS__)
#define EACH_2(...)                           EACH_1(__VA_ARGS__) STEP(y, __VA_ARGS__)
#define EACH_3(...)                           EACH_2(__VA_ARGS__) STEP(z, __VA_ARGS__)

/* Words, turns and constants of the 64 steps. */
/* clang-format off */
#define STEPS(EACH) do { \
		EACH(F, a, b, c, d, 0, 7, 0xd76aa478u) EACH(F, d, a, b, c, 1, 12, 0xe8c7b756u) \
		EACH(F, c, d, a, b, 2, 17, 0x242070dbu) EACH(F, b, c, d, a, 3, 22, 0xc1bdceeeu) \
		EACH(F, a, b, c, d, 4, 7, 0xf57c0fafu) EACH(F, d, a, b, c, 5, 12, 0x4787c62au) \
		EACH(F, c, d, a, b, 6, 17, 0xa8304613u) EACH(F, b, c, d, a, 7, 22, 0xfd469501u) \
		EACH(F, a, b, c, d, 8, 7, 0x698098d8u) EACH(F, d, a, b, c, 9, 12, 0x8b44f7afu) \
		EACH(F, c, d, a, b, 10, 17, 0xffff5bb1u) EACH(F, b, c, d, a, 11, 22, 0x895cd7beu) \
		EACH(F, a, b, c, d, 12, 7, 0x6b901122u) EACH(F, d, a, b, c, 13, 12, 0xfd987193u) \
		EACH(F, c, d, a, b, 14, 17, 0xa679438eu) EACH(F, b, c, d, a, 15, 22, 0x49b40821u) \
		EACH(G, a, b, c, d, 1, 5, 0xf61e2562u) EACH(G, d, a, b, c, 6, 9, 0xc040b340u) \
		EACH(G, c, d, a, b, 11, 14, 0x265e5a51u) EACH(G, b, c, d, a, 0, 20, 0xe9b6c7aau) \
		EACH(G, a, b, c, d, 5, 5, 0xd62f105du) EACH(G, d, a, b, c, 10, 9, 0x02441453u) \
		EACH(G, c, d, a, b, 15, 14, 0xd8a1e681u) EACH(G, b, c, d, a, 4, 20, 0xe7d3fbc8u) \
		EACH(G, a, b, c, d, 9, 5, 0x21e1cde6u) EACH(G, d, a, b, c, 14, 9, 0xc33707d6u) \
		EACH(G, c, d, a, b, 3, 14, 0xf4d50d87u) EACH(G, b, c, d, a, 8, 20, 0x455a14edu) \
		EACH(G, a, b, c, d, 13, 5, 0xa9e3e905u) EACH(G, d, a, b, c, 2, 9, 0xfcefa3f8u) \
		EACH(G, c, d, a, b, 7, 14, 0x676f02d9u) EACH(G, b, c, d, a, 12, 20, 0x8d2a4c8au) \
		EACH(H, a, b, c, d, 5, 4, 0xfffa3942u) EACH(H, d, a, b, c, 8, 11, 0x8771f681u) \
		EACH(H, c, d, a, b, 11, 16, 0x6d9d6122u) EACH(H, b, c, d, a, 14, 23, 0xfde5380cu) \
		EACH(H, a, b, c, d, 1, 4, 0xa4beea44u) EACH(H, d, a, b, c, 4, 11, 0x4bdecfa9u) \
		EACH(H, c, d, a, b, 7, 16, 0xf6bb4b60u) EACH(H, b, c, d, a, 10, 23, 0xbebfbc70u) \
		EACH(H, a, b, c, d, 13, 4, 0x289b7ec6u) EACH(H, d, a, b, c, 0, 11, 0xeaa127fau) \
		EACH(H, c, d, a, b, 3, 16, 0xd4ef3085u) EACH(H, b, c, d, a, 6, 23, 0x04881d05u) \
		EACH(H, a, b, c, d, 9, 4, 0xd9d4d039u) EACH(H, d, a, b, c, 12, 11, 0xe6db99e5u) \
		EACH(H, c, d, a, b, 15, 16, 0x1fa27cf8u) EACH(H, b, c, d, a, 2, 23, 0xc4ac5665u) \
		EACH(I, a, b, c, d, 0, 6, 0xf4292244u) EACH(I, d, a, b, c, 7, 10, 0x432aff97u) \
		EACH(I, c, d, a, b, 14, 15, 0xab9423a7u) EACH(I, b, c, d, a, 5, 21, 0xfc93a039u) \
		EACH(I, a, b, c, d, 12, 6, 0x655b59c3u) EACH(I, d, a, b, c, 3, 10, 0x8f0ccc92u) \
		EACH(I, c, d, a, b, 10, 15, 0xffeff47du) EACH(I, b, c, d, a, 1, 21, 0x85845dd1u) \
		EACH(I, a, b, c, d, 8, 6, 0x6fa87e4fu) EACH(I, d, a, b, c, 15, 10, 0xfe2ce6e0u) \
		EACH(I, c, d, a, b, 6, 15, 0xa3014314u) EACH(I, b, c, d, a, 13, 21, 0x4e0811a1u) \
		EACH(I, a, b, c, d, 4, 6, 0xf7537e82u) EACH(I, d, a, b, c, 11, 10, 0xbd3af235u) \
		EACH(I, c, d, a, b, 2, 15, 0x2ad7d2bbu) EACH(I, b, c, d, a, 9, 21, 0xeb86d391u) \
	} while (0)
/* clang-format on */

static inline void add(struct state *s, const struct state *o)
{
	s->a += o->a;
	s->b += o->b;
	s->c += o->c;
	s->d += o->d;
}

static void blocks_1(struct state *s, const uint8_t *x_p, size_t n)
{
	for (struct state x = *s; n > 0; n--, x_p += BLOCK_BYTES) {
		STEPS(EACH_1);
		add(&x, s);
		*s = x;
	}
}

static void blocks_2(struct state *s, struct state *t, const uint8_t *x_p, const uint8_t *y_p, size_t n)
{
	for (struct state x = *s, y = *t; n > 0; n--, x_p += BLOCK_BYTES, y_p += BLOCK_BYTES) {
		STEPS(EACH_2);
		add(&x, s);
		add(&y, t);
		*s = x;
		*t = y;
	}
}

static void blocks_3(struct lane *const *l, size_t n)
{
	const uint8_t *x_p = l[0]->p, *y_p = l[1]->p, *z_p = l[2]->p;
	struct state x = l[0]->state, y = l[1]->state, z = l[2]->state;

	for (; n > 0; n--, x_p += BLOCK_BYTES, y_p += BLOCK_BYTES, z_p += BLOCK_BYTES) {
		STEPS(EACH_3);
		add(&x, &l[0]->state);
		add(&y, &l[1]->state);
		add(&z, &l[2]->state);
		l[0]->state = x;
		l[1]->state = y;
		l[2]->state = z;
	}
}

/* ---- lanes ---- */

static void begin(struct lane *l, struct md5_body *b)
{
	*l = (struct lane){.body = b, .state = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}};
}

/* Bytes of the body for a block of our own, at most all of it. */
static size_t collect(struct lane *l)
{
	size_t n = 0;

	while (n < BLOCK_BYTES && l->i_iov < l->body->n_iov) {
		const struct iovec *v = &l->body->iov[l->i_iov];
		const size_t len = (size_t)min_u64(BLOCK_BYTES - n, v->iov_len - l->at);

		if (len > 0)
			memcpy(l->own + n, (const uint8_t *)v->iov_base + l->at, len);
		n += len;
		l->at += len;
		if (l->at == v->iov_len) {
			l->i_iov++;
			l->at = 0;
		}
	}
	return n;
}

/* Sections 3.1 and 3.2: a one bit, zeros, and the length in bits at the end of a block, which may be the one after this. */
static void pad(struct lane *l, size_t n)
{
	const le64 length = le64_make(l->bits);

	memset(l->own + n, 0, BLOCK_BYTES - n);
	if (!l->padded)
		l->own[n++] = 0x80;
	l->padded = true;
	l->ended = n <= BLOCK_BYTES - LENGTH_BYTES;
	if (l->ended)
		memcpy(l->own + BLOCK_BYTES - LENGTH_BYTES, &length, sizeof(length));
}

/* The next blocks of a lane that has none left; false: it is at its end. */
static bool show_next(struct lane *l)
{
	const struct iovec *v = l->i_iov < l->body->n_iov ? &l->body->iov[l->i_iov] : NULL;

	if (l->ended)
		return false;
	if (v && v->iov_len - l->at >= BLOCK_BYTES) {
		l->p = (const uint8_t *)v->iov_base + l->at;
		l->n_blocks = (v->iov_len - l->at) / BLOCK_BYTES;
		l->at += l->n_blocks * BLOCK_BYTES;
		l->bits += (uint64_t)l->n_blocks * BLOCK_BYTES * 8;
		return true;
	}
	const size_t n = collect(l);
	l->bits += n * 8;
	if (n < BLOCK_BYTES)
		pad(l, n);
	l->p = l->own;
	l->n_blocks = 1;
	return true;
}

static void end(struct lane *l)
{
	const le32 words[] = {le32_make(l->state.a), le32_make(l->state.b), le32_make(l->state.c), le32_make(l->state.d)};

	_Static_assert(sizeof(words) == MD5_BYTES, "");
	memcpy(l->body->digest, words, sizeof(words));
}

/* As many blocks of every lane as each of them has at hand. */
static void advance(struct lane *const *l, unsigned n)
{
	size_t n_blocks = l[0]->n_blocks;

	for (unsigned i = 1; i < n; i++)
		n_blocks = (size_t)min_u64(n_blocks, l[i]->n_blocks);
	assert(n_blocks > 0);
	if (n == 1)
		blocks_1(&l[0]->state, l[0]->p, n_blocks);
	else if (n == 2)
		blocks_2(&l[0]->state, &l[1]->state, l[0]->p, l[1]->p, n_blocks);
	else
		blocks_3(l, n_blocks);
	for (unsigned i = 0; i < n; i++) {
		l[i]->p += n_blocks * BLOCK_BYTES;
		l[i]->n_blocks -= n_blocks;
	}
}

void md5_bodies(struct md5_body *const *body, unsigned n)
{
	struct lane lane[MD5_LANES], *active[MD5_LANES];
	unsigned n_active;

	assert(n >= 1 && n <= MD5_LANES);
	for (unsigned i = 0; i < n; i++)
		begin(&lane[i], body[i]);
	for (;;) {
		n_active = 0;
		for (unsigned i = 0; i < n; i++)
			if (lane[i].n_blocks > 0 || show_next(&lane[i]))
				active[n_active++] = &lane[i];
		if (n_active == 0)
			break;
		advance(active, n_active);
	}
	for (unsigned i = 0; i < n; i++)
		end(&lane[i]);
}
