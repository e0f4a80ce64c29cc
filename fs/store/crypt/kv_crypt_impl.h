/* kv_crypt_impl.h: what kv_crypt.c and kv_crypt_iter.c share. */
#pragma once

#include <stdatomic.h>

#include "fs/store/crypt/kv_crypt.h"
#include "fs/store/crypt/siv.h"

#define KV_KEY_MAX     300u
#define KV_VALUE_MAX   70000u
#define TABLE_OF_NAMES 'D' /* fs/core/index_format.h */
#define NAME_AT        9u  /* behind the table and the number of the directory */

struct crypt_kv {
	struct kv base;
	struct kv *inner;
	struct siv *names, *values;
	size_t window;
	struct data_key key; /* for snapshots, which outlive this */
	atomic_bool logged;
};

struct stored_key {
	uint8_t b[KV_KEY_MAX];
	size_t len;
};

/* Whether the key is of a row whose name is sealed. */
static inline bool key_has_name(struct slice key)
{
	return key.len >= NAME_AT && *(const uint8_t *)key.p == TABLE_OF_NAMES;
}
static inline struct slice key_parent(struct slice key) { return (struct slice){key.p, NAME_AT}; }

static inline struct crypt_kv *to_crypt_kv(struct kv *kv) { return container_of(kv, struct crypt_kv, base); }

/* Logs it, the first time, and returns `error`. */
int kv_crypt_bad(struct crypt_kv *kv, int error);

/* kv_crypt_iter.c */
int kv_crypt_iter_open(struct kv *kv, struct kv_iter **ret_iter);
void kv_crypt_iter_seek(struct kv_iter *it, struct slice key);
void kv_crypt_iter_next(struct kv_iter *it);
bool kv_crypt_iter_valid(struct kv_iter *it);
struct slice kv_crypt_iter_key(struct kv_iter *it);
struct slice kv_crypt_iter_value(struct kv_iter *it);
int kv_crypt_iter_error(struct kv_iter *it);
void kv_crypt_iter_close(struct kv_iter *it);
