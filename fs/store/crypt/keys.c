/*
 * keys.c: slots, as keys_format.h has them, opened and sealed.
 *
 * Nothing of a slot is used before its bounds are checked: the cost of scrypt is memory and time that a forged file could ask
 * for.  A changed slot that passes those is refused by the tag, which covers all of it.
 */
#include "fs/store/crypt/keys.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <string.h>

#include "base/crc32c.h"

#define COST_BYTES_MAX (512 * MIB)
#define COST_P_MAX     16u
#define LIBRARY_SPARE  (MIB)
#define SLOT_INFO      "clawfs slot"
#define KEK_BYTES      32u

struct slot_aad {
	uint8_t volume[16];
	le32 version, mode;
	uint8_t slot[offsetof(struct key_slot, sealed)];
};

static uint32_t block_crc(const struct keys_block *b)
{
	return crc32c(0, b, offsetof(struct keys_block, crc));
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

static bool cost_ok(const struct key_cost *c)
{
	return c->log2_n >= 10 && c->log2_n <= 22 && c->r >= 1 && c->r <= 64 && c->p >= 1 && c->p <= COST_P_MAX &&
	       (UINT64_C(128) * c->r << c->log2_n) <= COST_BYTES_MAX;
}

static struct key_cost slot_cost(const struct key_slot *s)
{
	return (struct key_cost){.log2_n = le32_get(s->log2_n), .r = le32_get(s->r), .p = le32_get(s->p)};
}

static bool slot_ok(const struct key_slot *s)
{
	const struct key_cost cost = slot_cost(s);

	switch (le32_get(s->kind)) {
	case KEY_NONE:
		return all_zero((const uint8_t *)s, sizeof(*s));
	case KEY_RAW:
		return !cost.log2_n && !cost.r && !cost.p && s->name[0] && all_zero(s->zero, sizeof(s->zero));
	case KEY_PASSPHRASE:
		return cost_ok(&cost) && s->name[0] && all_zero(s->zero, sizeof(s->zero));
	default:
		return false;
	}
}

int keys_check(const struct keys_block *b)
{
	if (le64_get(b->magic) != KEYS_MAGIC || le32_get(b->crc) != block_crc(b))
		return -EBADMSG;
	if (le32_get(b->version) > KEYS_VERSION)
		return -EPROTONOSUPPORT;
	bool mode_ok = le32_get(b->mode) == ENCRYPTION_XTS || le32_get(b->mode) == ENCRYPTION_AEAD;
	if (le32_get(b->version) != KEYS_VERSION || !mode_ok || !all_zero(b->zero, sizeof(b->zero)))
		return -EUCLEAN;
	for (unsigned i = 0; i < KEYS_SLOTS; i++)
		if (!slot_ok(&b->slot[i]))
			return -EUCLEAN;
	return 0;
}

void keys_init(struct keys_block *b, const uint8_t volume[16], enum encryption mode)
{
	memset(b, 0, sizeof(*b));
	b->magic = le64_make(KEYS_MAGIC);
	b->version = le32_make(KEYS_VERSION);
	b->mode = le32_make(mode);
	memcpy(b->volume, volume, sizeof(b->volume));
	b->crc = le32_make(block_crc(b));
}

static int sealing_key(const struct key_slot *s, const struct secret *secret, uint8_t ret[KEK_BYTES])
{
	const struct slice salt = {s->salt, sizeof(s->salt)};
	const struct key_cost cost = slot_cost(s);

	if (secret->kind == KEY_RAW)
		return key_derive((struct slice){secret->bytes, secret->len}, salt, (struct slice){SLOT_INFO, strlen(SLOT_INFO)},
				  ret, KEK_BYTES);
	uint64_t memory = (UINT64_C(128) * cost.r << cost.log2_n) + UINT64_C(128) * cost.r * (cost.p + 2) + LIBRARY_SPARE;
	return EVP_PBE_scrypt((const char *)secret->bytes, secret->len, s->salt, sizeof(s->salt), UINT64_C(1) << cost.log2_n,
			      cost.r, cost.p, memory, ret, KEK_BYTES) == 1
		   ? 0
		   : -ENOMEM; /* parameters are bounded: it is the only reason left */
}

static void make_aad(const struct keys_block *b, const struct key_slot *s, struct slot_aad *ret)
{
	memcpy(ret->volume, b->volume, sizeof(ret->volume));
	ret->version = b->version;
	ret->mode = b->mode;
	memcpy(ret->slot, s, sizeof(ret->slot));
}

/* AES-256-GCM of the data key, either way; -ENOKEY when the tag is not that of the slot. */
static int gcm(const uint8_t kek[KEK_BYTES], const struct slot_aad *aad, bool seal, const uint8_t *in, uint8_t *out, uint8_t *tag)
{
	static const uint8_t nonce[12];
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	EVP_CIPHER_CTX *ctx = cipher ? EVP_CIPHER_CTX_new() : NULL;
	int len, r = ctx ? 0 : -ENOMEM;

	if (r == 0 && (EVP_CipherInit_ex2(ctx, cipher, kek, nonce, seal, NULL) != 1 ||
		       EVP_CipherUpdate(ctx, NULL, &len, (const uint8_t *)aad, sizeof(*aad)) != 1 ||
		       EVP_CipherUpdate(ctx, out, &len, in, DATA_KEY_BYTES) != 1 ||
		       (!seal && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, KEY_TAG_BYTES, tag) != 1)))
		r = -EIO;
	if (r == 0 && EVP_CipherFinal_ex(ctx, out + DATA_KEY_BYTES, &len) != 1)
		r = seal ? -EIO : -ENOKEY;
	if (r == 0 && seal && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, KEY_TAG_BYTES, tag) != 1)
		r = -EIO;
	EVP_CIPHER_CTX_free(ctx);
	EVP_CIPHER_free(cipher);
	return r;
}

static int slot_open(const struct keys_block *b, const struct key_slot *s, const struct secret *secret, struct data_key *ret)
{
	struct data_key key = {.mode = (enum encryption)le32_get(b->mode)};
	uint8_t kek[KEK_BYTES], tag[KEY_TAG_BYTES];
	struct slot_aad aad;
	int r = sealing_key(s, secret, kek);

	make_aad(b, s, &aad);
	memcpy(tag, s->tag, sizeof(tag));
	if (r == 0)
		r = gcm(kek, &aad, false, s->sealed, key.bytes, tag);
	key_wipe(kek, sizeof(kek));
	if (r == 0)
		*ret = key;
	data_key_wipe(&key);
	return r;
}

int keys_open(const struct keys_block *b, const struct secret *secret, struct data_key *ret, unsigned *ret_slot)
{
	int r = -ENOKEY;

	for (unsigned i = 0; i < KEYS_SLOTS && r == -ENOKEY; i++) {
		if (le32_get(b->slot[i].kind) != secret->kind)
			continue;
		r = slot_open(b, &b->slot[i], secret, ret);
		if (r == 0 && ret_slot)
			*ret_slot = i;
	}
	return r;
}

int keys_find(const struct keys_block *b, const char *name, unsigned *ret_slot)
{
	for (unsigned i = 0; i < KEYS_SLOTS; i++)
		if (le32_get(b->slot[i].kind) != KEY_NONE &&
		    strncmp((const char *)b->slot[i].name, name, sizeof(b->slot[i].name)) == 0 &&
		    strlen(name) <= KEY_NAME_BYTES) {
			*ret_slot = i;
			return 0;
		}
	return -ENOENT;
}

static int slot_seal(const struct keys_block *b, struct key_slot *s, const struct data_key *key, const struct secret *secret)
{
	uint8_t kek[KEK_BYTES];
	struct slot_aad aad;
	int r = RAND_bytes(s->salt, sizeof(s->salt)) == 1 ? 0 : -EIO;

	if (r == 0)
		r = sealing_key(s, secret, kek);
	make_aad(b, s, &aad);
	if (r == 0)
		r = gcm(kek, &aad, true, key->bytes, s->sealed, s->tag);
	key_wipe(kek, sizeof(kek));
	return r;
}

int keys_add(struct keys_block *b, const struct data_key *key, const struct secret *secret, const struct key_cost *cost,
	     const char *name, int64_t now_ns)
{
	struct key_slot s = {.kind = le32_make(secret->kind), .created_ns = le64_make((uint64_t)now_ns)};
	unsigned i;

	if (!*name || strlen(name) > KEY_NAME_BYTES || (secret->kind == KEY_PASSPHRASE && !cost_ok(cost)))
		return -EINVAL;
	if (keys_find(b, name, &i) == 0)
		return -EEXIST;
	for (i = 0; i < KEYS_SLOTS && le32_get(b->slot[i].kind) != KEY_NONE; i++)
		;
	if (i == KEYS_SLOTS)
		return -ENOSPC;
	if (secret->kind == KEY_PASSPHRASE) {
		s.log2_n = le32_make(cost->log2_n);
		s.r = le32_make(cost->r);
		s.p = le32_make(cost->p);
	}
	memcpy(s.name, name, strlen(name));
	int r = slot_seal(b, &s, key, secret);
	if (r < 0)
		return r;
	b->slot[i] = s;
	b->crc = le32_make(block_crc(b));
	return 0;
}

void keys_remove(struct keys_block *b, unsigned slot)
{
	memset(&b->slot[slot], 0, sizeof(b->slot[slot]));
	b->crc = le32_make(block_crc(b));
}

unsigned keys_count(const struct keys_block *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < KEYS_SLOTS; i++)
		n += le32_get(b->slot[i].kind) != KEY_NONE;
	return n;
}
