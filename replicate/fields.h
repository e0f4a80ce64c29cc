/*
 * fields.h: the values of a JSON object that came from a file or a peer, each with its limit.
 *
 * Fields that are not asked for are passed over: a later version may have more.  Memory that jansson gives back is wiped,
 * everywhere in the process, since some of these objects hold keys.
 * Ownership: field_*() copy, but field_slice() and field_array(), which borrow from the object.
 * Threads: no state.  Errors: -EUCLEAN a field that is missing, of another type or over its limit; -ENOMEM.
 */
#pragma once

#include <jansson.h>

#include "base/buf.h"

/* A whole text that is one object, without duplicate keys; json_decref() it. */
MUST_CHECK int fields_parse(struct slice text, json_t **ret_object);
/* Appends the object as text; takes the reference.  NULL, which is what json_pack() gives without memory, sets out->failed. */
void fields_print(json_t *object, struct buf *out);

MUST_CHECK int field_text(const json_t *object, const char *key, char *ret, size_t cap);
MUST_CHECK int field_slice(const json_t *object, const char *key, size_t max, struct slice *ret);
MUST_CHECK int field_number(const json_t *object, const char *key, uint64_t max, uint64_t *ret);
MUST_CHECK int field_bool(const json_t *object, const char *key, bool *ret);
MUST_CHECK int field_array(const json_t *object, const char *key, size_t max, const json_t **ret);
/* Exactly n bytes, as lower-case hex. */
MUST_CHECK int field_bytes(const json_t *object, const char *key, uint8_t *ret, size_t n);
MUST_CHECK int field_uuid(const json_t *object, const char *key, uint8_t ret[16]);
json_t *json_hex(const uint8_t *p, size_t n); /* NULL without memory */

static inline void cleanup_json(json_t **o) { json_decref(*o); }
#define CLEANUP_JSON __attribute__((cleanup(cleanup_json)))
