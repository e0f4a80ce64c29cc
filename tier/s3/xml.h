/*
 * xml.h: the two documents that an S3 store answers with: a page of a listing (ListObjectsV2), and an error.
 *
 * A listing is parsed as it comes.  What is not expected is passed over, as Amazon asks of its clients; what would need more than
 * bounded memory ends the parsing: a DOCTYPE (and with it entities), elements deeper than XML_DEPTH_MAX, more bytes or keys than
 * a page can have, a key longer than any.
 *
 * Ownership: a page owns its names: s3_page_free().  Threads: one at a time for each parser.
 * Errors: -EPROTO no such document, -ENOMEM.
 */
#pragma once

#include "base/buf.h"

#define XML_DEPTH_MAX 8u
#define XML_LIST_MAX  (8u * 1024 * 1024)
#define XML_ERROR_MAX (16u * 1024)
#define S3_PAGE_MAX   10000u /* keys; a store may give fewer or more than were asked for */
#define S3_TOKEN_MAX  1024u

struct s3_entry {
	uint32_t name; /* offset in names, NUL behind it */
	uint64_t size;
	int64_t modified_ns; /* 0: unknown */
};
struct s3_page {
	struct buf names, entries; /* entries: struct s3_entry */
	bool truncated;
	char token[S3_TOKEN_MAX + 1]; /* for the next page; "" when there is none */
};
static inline unsigned s3_page_count(const struct s3_page *p)
{
	return (unsigned)(p->entries.len / sizeof(struct s3_entry));
}
static inline const struct s3_entry *s3_page_entry(const struct s3_page *p, unsigned i)
{
	return (const struct s3_entry *)(const void *)p->entries.p + i;
}
static inline const char *s3_page_name(const struct s3_page *p, unsigned i)
{
	return (const char *)p->names.p + s3_page_entry(p, i)->name;
}
void s3_page_free(struct s3_page *p);

struct s3_list_parser;
/* `page` is borrowed and empty. */
MUST_CHECK int s3_list_parser_new(struct s3_page *page, struct s3_list_parser **ret);
struct s3_list_parser *s3_list_parser_free(struct s3_list_parser *x);
MUST_CHECK int s3_list_feed(struct s3_list_parser *x, const void *p, size_t len);
/* The document is over: whole, and a listing?  Keys are decoded when it says that they are encoded. */
MUST_CHECK int s3_list_end(struct s3_list_parser *x);

/* Printable ASCII, cut to what fits. */
struct s3_error {
	char code[64], message[160], region[32]; /* region: the one the store wants */
};
/* -EPROTO: no error of S3; `ret` is empty then. */
MUST_CHECK int s3_error_parse(struct slice body, struct s3_error *ret);
