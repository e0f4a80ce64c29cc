/*
 * xml.c: see xml.h.
 *
 * Both documents are trees of depth three at most, with text in the leaves.  So the parser keeps the names of the elements it is
 * in and the text of the innermost one, and tells whoever collects of each element that ends: its depth, its parent's name, its
 * own and its text.
 */
#include "tier/s3/xml.h"

#include <errno.h>
#include <expat.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NAME_CAP 32u
#define TEXT_CAP 4096u /* a key of 1024 bytes, each percent-encoded, and some */

struct walk;
/* `w->text`, cut when w->cut, is the text of element `name`. */
typedef int element_fn(void *ctx, const struct walk *w, unsigned depth, const char *parent, const char *name);

struct walk {
	XML_Parser parser;
	element_fn *element;
	void *ctx;
	size_t n_bytes, max_bytes;
	unsigned depth;
	char name[XML_DEPTH_MAX][NAME_CAP]; /* of the elements that are open */
	char text[TEXT_CAP];
	size_t len;
	bool cut;
	int error; /* sticky */
};

static void stop(struct walk *w, int error)
{
	if (w->error == 0)
		w->error = error;
	XML_StopParser(w->parser, XML_FALSE);
}

static void XMLCALL on_start(void *ctx, const XML_Char *name, const XML_Char **attributes)
{
	struct walk *w = ctx;

	(void)attributes;
	if (w->error < 0 || w->depth == XML_DEPTH_MAX) {
		stop(w, -EPROTO);
		return;
	}
	snprintf(w->name[w->depth++], NAME_CAP, "%s", name);
	w->len = 0;
	w->cut = false;
}

static void XMLCALL on_end(void *ctx, const XML_Char *name)
{
	struct walk *w = ctx;

	(void)name;
	if (w->error < 0 || w->depth == 0)
		return;
	w->text[w->len] = 0;
	const unsigned at = --w->depth;
	int r = w->element(w->ctx, w, at, at > 0 ? w->name[at - 1] : "", w->name[at]);
	if (r < 0)
		stop(w, r);
	w->len = 0;
	w->cut = false;
}

static void XMLCALL on_text(void *ctx, const XML_Char *p, int n)
{
	struct walk *w = ctx;
	const size_t len = (size_t)min_u64((uint64_t)n, TEXT_CAP - 1 - w->len);

	memcpy(w->text + w->len, p, len);
	w->len += len;
	w->cut |= len < (size_t)n;
}

static void XMLCALL on_doctype(void *ctx, const XML_Char *name, const XML_Char *system, const XML_Char *public, int internal)
{
	(void)name, (void)system, (void)public, (void)internal;
	stop(ctx, -EPROTO);
}

static int walk_begin(struct walk *w, size_t max_bytes, element_fn *element, void *ctx)
{
	*w = (struct walk){.parser = XML_ParserCreate(NULL), .element = element, .ctx = ctx, .max_bytes = max_bytes};
	if (!w->parser)
		return -ENOMEM;
	XML_SetUserData(w->parser, w);
	XML_SetElementHandler(w->parser, on_start, on_end);
	XML_SetCharacterDataHandler(w->parser, on_text);
	XML_SetStartDoctypeDeclHandler(w->parser, on_doctype);
	return 0;
}

static void walk_end(struct walk *w)
{
	if (w->parser)
		XML_ParserFree(w->parser);
	w->parser = NULL;
}

static int walk_feed(struct walk *w, const void *p, size_t len, bool final)
{
	if (w->error < 0)
		return w->error;
	w->n_bytes += len;
	if (len > w->max_bytes || w->n_bytes > w->max_bytes)
		w->error = -EPROTO;
	else if (XML_Parse(w->parser, p, (int)len, final) != XML_STATUS_OK && w->error == 0)
		w->error = XML_GetErrorCode(w->parser) == XML_ERROR_NO_MEMORY ? -ENOMEM : -EPROTO;
	return w->error;
}

/* ---- a page of a listing */

struct s3_list_parser {
	struct walk walk;
	struct s3_page *page;
	struct s3_entry entry; /* the one that is being read */
	bool has_key, has_size, encoded, done;
};

void s3_page_free(struct s3_page *p)
{
	buf_free(&p->names);
	buf_free(&p->entries);
	*p = (struct s3_page){0};
}

static int parse_number(const char *text, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && *end == 0 && errno == 0 ? 0 : -EPROTO;
}

/* "2013-05-24T00:00:00.000Z"; what is no time is unknown. */
static int64_t parse_time(const char *text)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);

	if (!end || (*end != 'Z' && *end != '.'))
		return 0;
	const int64_t seconds = timegm(&tm);
	return seconds < 0 || seconds > INT64_MAX / NSEC_PER_SEC ? 0 : seconds * NSEC_PER_SEC;
}

static int take_key(struct s3_list_parser *x, const struct walk *w)
{
	if (w->cut || x->has_key)
		return -EPROTO;
	x->entry.name = (uint32_t)x->page->names.len;
	buf_put(&x->page->names, w->text, w->len + 1);
	x->has_key = true;
	return x->page->names.failed ? -ENOMEM : 0;
}

static int take_entry(struct s3_list_parser *x)
{
	if (!x->has_key || !x->has_size || s3_page_count(x->page) == S3_PAGE_MAX)
		return -EPROTO;
	buf_put(&x->page->entries, &x->entry, sizeof(x->entry));
	x->entry = (struct s3_entry){0};
	x->has_key = x->has_size = false;
	return x->page->entries.failed ? -ENOMEM : 0;
}

static int take_of_contents(struct s3_list_parser *x, const struct walk *w, const char *name)
{
	if (strcmp(name, "Key") == 0)
		return take_key(x, w);
	if (strcmp(name, "Size") == 0) {
		x->has_size = true;
		return parse_number(w->text, &x->entry.size);
	}
	if (strcmp(name, "LastModified") == 0)
		x->entry.modified_ns = parse_time(w->text);
	return 0;
}

static int take_of_page(struct s3_list_parser *x, const struct walk *w, const char *name)
{
	if (strcmp(name, "Contents") == 0)
		return take_entry(x);
	if (strcmp(name, "IsTruncated") == 0)
		x->page->truncated = strcmp(w->text, "true") == 0;
	else if (strcmp(name, "EncodingType") == 0)
		x->encoded = strcmp(w->text, "url") == 0;
	else if (strcmp(name, "NextContinuationToken") == 0) {
		if (w->len > S3_TOKEN_MAX)
			return -EPROTO;
		snprintf(x->page->token, sizeof(x->page->token), "%.*s", (int)w->len, w->text);
	}
	return 0;
}

static int on_list_element(void *ctx, const struct walk *w, unsigned depth, const char *parent, const char *name)
{
	struct s3_list_parser *x = ctx;

	if (depth == 0) {
		x->done = strcmp(name, "ListBucketResult") == 0;
		return x->done ? 0 : -EPROTO;
	}
	if (depth == 1)
		return take_of_page(x, w, name);
	return depth == 2 && strcmp(parent, "Contents") == 0 ? take_of_contents(x, w, name) : 0;
}

int s3_list_parser_new(struct s3_page *page, struct s3_list_parser **ret)
{
	struct s3_list_parser *x = calloc(1, sizeof(*x));

	if (!x)
		return -ENOMEM;
	x->page = page;
	int r = walk_begin(&x->walk, XML_LIST_MAX, on_list_element, x);
	if (r < 0) {
		free(x);
		return r;
	}
	*ret = x;
	return 0;
}

struct s3_list_parser *s3_list_parser_free(struct s3_list_parser *x)
{
	if (!x)
		return NULL;
	walk_end(&x->walk);
	free(x);
	return NULL;
}

int s3_list_feed(struct s3_list_parser *x, const void *p, size_t len)
{
	return walk_feed(&x->walk, p, len, false);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* In place; a text with a NUL in it ends there, which makes it a key that is none of ours. */
static int decode(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (*from == '%') {
			const int high = hex_digit(from[1]), low = high < 0 ? -1 : hex_digit(from[2]);

			if (low < 0)
				return -EPROTO;
			*to = (char)(high << 4 | low);
			from += 3;
		} else {
			*to = *from == '+' ? ' ' : *from;
			from++;
		}
	}
	*to = 0;
	return 0;
}

int s3_list_end(struct s3_list_parser *x)
{
	int r = walk_feed(&x->walk, "", 0, true);

	if (r == 0 && !x->done)
		r = -EPROTO;
	for (unsigned i = 0; x->encoded && i < s3_page_count(x->page) && r == 0; i++)
		r = decode((char *)x->page->names.p + s3_page_entry(x->page, i)->name);
	return r;
}

/* ---- an error */

static void copy_printable(const char *text, char *ret, size_t cap)
{
	size_t n = 0;

	for (; *text && n < cap - 1; text++)
		ret[n++] = *text >= ' ' && *text < 127 ? *text : ' ';
	ret[n] = 0;
}

static int on_error_element(void *ctx, const struct walk *w, unsigned depth, const char *parent, const char *name)
{
	struct s3_error *e = ctx;

	if (depth == 0)
		return strcmp(name, "Error") == 0 ? 0 : -EPROTO;
	if (depth != 1 || strcmp(parent, "Error") != 0)
		return 0;
	if (strcmp(name, "Code") == 0)
		copy_printable(w->text, e->code, sizeof(e->code));
	else if (strcmp(name, "Message") == 0)
		copy_printable(w->text, e->message, sizeof(e->message));
	else if (strcmp(name, "Region") == 0)
		copy_printable(w->text, e->region, sizeof(e->region));
	return 0;
}

int s3_error_parse(struct slice body, struct s3_error *ret)
{
	struct s3_error e = {0};
	struct walk w;

	*ret = (struct s3_error){0};
	int r = walk_begin(&w, XML_ERROR_MAX, on_error_element, &e);
	if (r == 0)
		r = walk_feed(&w, body.p, body.len, true);
	walk_end(&w);
	if (r == 0 && !e.code[0])
		r = -EPROTO;
	if (r == 0)
		*ret = e;
	return r;
}
