/*
 * record_impl.h: what the files of records share: record.c (the verifier), record_encode.c, record_decode.c.
 */
#pragma once

#include "journal/journal_format.h"
#include "journal/record.h"

_Static_assert(sizeof(((struct body_tier *)0)->sealed) == RECORD_SEALED_BYTES, "");
_Static_assert(RECORD_PLACES_MAX <= UINT16_MAX, "");

bool record_check(const struct record *r); /* whether every field is within its bounds */
