/*
 * definition.c: see definition.h.  A URL, then options in any order, each at most once; a table says what each may be.
 *
 * Two defaults depend on the rest and are filled in last: a bucket of AWS is spoken to by its own host name, any other in the
 * path (what servers of one's own have without wildcard names); and prices are AWS's for the class, or nothing elsewhere.
 * Messages show the names of options and never a value: it might be a secret in the wrong place.
 */
#include "tier/definition.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tier/object.h"
#include "tier/values.h"

#define PACK_MIN     (8 * MIB)
#define PACK_MAX     (64 * MIB)
#define PACK_DEFAULT (16 * MIB)
#define RATE_MIN     (16 * KIB) /* slower, and a pack takes most of an hour */
#define RATE_MAX     (1024 * GIB)
#define REQUESTS_MAX 1000000u
#define BUDGET_MAX   UINT64_C(1000000000000)
#define TIMEOUT_S    30
#define GRACE_DAYS   7

typedef bool read_fn(const char *value, struct store_definition *d);
/* The value's text; false when it is the default. */
typedef bool print_fn(const struct store_definition *d, char *ret_text);
struct option {
	const char *name;
	const char *expected; /* in words */
	read_fn *read;
	print_fn *print;
	bool s3_only;
};

static bool read_id(const char *value, struct store_definition *d)
{
	uint64_t n;

	if (!value_read_number(value, 1, UINT32_MAX, &n))
		return false;
	d->id = (uint32_t)n;
	return true;
}
static bool print_id(const struct store_definition *d, char *ret_text)
{
	sprintf(ret_text, "%u", d->id);
	return d->id != 0;
}

static bool read_encrypt(const char *value, struct store_definition *d)
{
	return value_read_switch(value, &d->encrypt);
}
static bool print_encrypt(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, "off");
	return !d->encrypt;
}

static bool read_pack(const char *value, struct store_definition *d)
{
	return value_read_size(value, PACK_MIN, PACK_MAX, &d->pack_bytes);
}
static bool print_pack(const struct store_definition *d, char *ret_text)
{
	value_print_size(d->pack_bytes, ret_text);
	return d->pack_bytes != PACK_DEFAULT;
}

static bool read_verify(const char *value, struct store_definition *d)
{
	d->verify = strcmp(value, "read") == 0 ? VERIFY_READ : VERIFY_CHECKSUM;
	return d->verify == VERIFY_READ || strcmp(value, "checksum") == 0;
}
static bool print_verify(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, "read");
	return d->verify == VERIFY_READ;
}

static bool read_rate(const char *value, struct store_definition *d)
{
	uint64_t n;

	if (!value_read_size(value, 0, RATE_MAX, &n) || (n && n < RATE_MIN))
		return false;
	d->rate_bytes = n;
	return true;
}
static bool print_rate(const struct store_definition *d, char *ret_text)
{
	value_print_size(d->rate_bytes, ret_text);
	return d->rate_bytes != 0;
}

static bool read_requests(const char *value, struct store_definition *d)
{
	uint64_t n;

	if (!value_read_number(value, 0, REQUESTS_MAX, &n))
		return false;
	d->requests = (uint32_t)n;
	return true;
}
static bool print_requests(const struct store_definition *d, char *ret_text)
{
	sprintf(ret_text, "%u", d->requests);
	return d->requests != 0;
}

static bool read_budget(const char *value, struct store_definition *d)
{
	return value_read_number(value, 0, BUDGET_MAX, &d->budget);
}
static bool print_budget(const struct store_definition *d, char *ret_text)
{
	sprintf(ret_text, "%ju", (uintmax_t)d->budget);
	return d->budget != 0;
}

static bool read_timeout(const char *value, struct store_definition *d)
{
	return value_read_time(value, 1, 3600, &d->timeout_ns);
}
static bool print_timeout(const struct store_definition *d, char *ret_text)
{
	sprintf(ret_text, "%jd", (intmax_t)(d->timeout_ns / NSEC_PER_SEC));
	return d->timeout_ns != TIMEOUT_S * NSEC_PER_SEC;
}

static bool read_grace(const char *value, struct store_definition *d)
{
	return value_read_time(value, 0, 3650 * 86400u, &d->grace_ns);
}
static bool print_grace(const struct store_definition *d, char *ret_text)
{
	value_print_time(d->grace_ns, ret_text);
	return d->grace_ns != GRACE_DAYS * 86400 * NSEC_PER_SEC;
}

static bool read_endpoint(const char *value, struct store_definition *d)
{
	return value_read_endpoint(value, d->endpoint, sizeof(d->endpoint));
}
static bool print_endpoint(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, d->endpoint);
	return d->endpoint[0] != '\0';
}

static bool read_region(const char *value, struct store_definition *d)
{
	return value_read_word(value, "-_", d->region, sizeof(d->region));
}
static bool print_region(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, d->region);
	return strcmp(d->region, "us-east-1") != 0;
}

/* What has to be restored by hand before it can be read is no place for a file that may be opened at any time. */
static bool read_class(const char *value, struct store_definition *d)
{
	return strcmp(value, "GLACIER") != 0 && strcmp(value, "DEEP_ARCHIVE") != 0 &&
	       value_read_word(value, "-_", d->storage_class, sizeof(d->storage_class));
}
static bool print_class(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, d->storage_class);
	return d->storage_class[0] != '\0';
}

static bool read_ca(const char *value, struct store_definition *d)
{
	return value_read_path(value, d->ca_file, sizeof(d->ca_file));
}
static bool print_ca(const struct store_definition *d, char *ret_text)
{
	value_print_path(d->ca_file, ret_text);
	return d->ca_file[0] != '\0';
}

static bool read_insecure(const char *value, struct store_definition *d)
{
	return value_read_switch(value, &d->insecure);
}
static bool print_insecure(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, "on");
	return d->insecure;
}

/* A name that can be one label, or several, of a host's: RFC 1123 without capitals. */
static bool bucket_is_host_name(const char *bucket)
{
	for (const char *p = bucket; *p; p++)
		if ((*p >= 'A' && *p <= 'Z') || *p == '_' || (*p == '.' && (p[1] == '.' || p[1] == '-' || p[-1] == '-')))
			return false;
	return true;
}
static bool endpoint_is_address(const char *endpoint)
{
	const char *host = strstr(endpoint, "://");

	return host && (host[3] == '[' || strspn(host + 3, "0123456789.") == strcspn(host + 3, ":"));
}
/* A dot in the bucket's name does not fit a wildcard certificate (RFC 6125, 6.4.3). */
static bool path_style_default(const struct store_definition *d)
{
	return d->endpoint[0] || strchr(d->bucket, '.') || !bucket_is_host_name(d->bucket);
}
static bool read_style(const char *value, struct store_definition *d)
{
	d->path_style = strcmp(value, "path") == 0;
	return d->path_style || strcmp(value, "host") == 0;
}
static bool print_style(const struct store_definition *d, char *ret_text)
{
	strcpy(ret_text, d->path_style ? "path" : "host");
	return d->path_style != path_style_default(d);
}

static bool endpoint_is_aws(const char *endpoint)
{
	const char *at = strstr(endpoint, ".amazonaws.com");

	return !endpoint[0] || (at && (at[14] == '\0' || at[14] == ':' || at[14] == '.'));
}
/* AWS's list prices for us-east-1: dollars per 1000 puts, per 1000 gets, per GB-month.  They change: an estimate. */
static void prices_default(const struct store_definition *d, double ret[3])
{
	static const struct {
		const char *storage_class;
		double prices[3];
	} table[] = {
	    {"", {0.005, 0.0004, 0.023}},
	    {"STANDARD", {0.005, 0.0004, 0.023}},
	    {"INTELLIGENT_TIERING", {0.005, 0.0004, 0.023}},
	    {"STANDARD_IA", {0.01, 0.001, 0.0125}},
	    {"ONEZONE_IA", {0.01, 0.001, 0.01}},
	    {"GLACIER_IR", {0.02, 0.01, 0.004}},
	};

	memset(ret, 0, 3 * sizeof(*ret));
	if (d->kind != STORE_S3 || !endpoint_is_aws(d->endpoint))
		return;
	memcpy(ret, table[0].prices, sizeof(table[0].prices));
	for (size_t i = 1; i < ARRAY_SIZE(table); i++)
		if (strcmp(table[i].storage_class, d->storage_class) == 0)
			memcpy(ret, table[i].prices, sizeof(table[i].prices));
}
static void prices_set(struct store_definition *d, const double prices[3])
{
	d->price_put = prices[0];
	d->price_get = prices[1];
	d->price_gb_month = prices[2];
}
static bool read_prices(const char *value, struct store_definition *d)
{
	double prices[3];

	if (!value_read_prices(value, prices))
		return false;
	prices_set(d, prices);
	return true;
}
static bool print_prices(const struct store_definition *d, char *ret_text)
{
	char usual_text[VALUE_TEXT_MAX];
	double usual[3];

	prices_default(d, usual);
	value_print_prices(usual, usual_text);
	value_print_prices((const double[3]){d->price_put, d->price_get, d->price_gb_month}, ret_text);
	return strcmp(ret_text, usual_text) != 0;
}

static const struct option options[] = {
    {"id", "a number from 1 on", read_id, print_id, false},
    {"encrypt", "on or off", read_encrypt, print_encrypt, false},
    {"pack", "a size from 8M to 64M", read_pack, print_pack, false},
    {"verify", "checksum or read", read_verify, print_verify, false},
    {"rate", "bytes a second, from 16K to 1024G, or 0", read_rate, print_rate, false},
    {"requests", "a number a second, to 1000000, or 0", read_requests, print_requests, false},
    {"budget", "requests a month, to 1000000000000, or 0", read_budget, print_budget, false},
    {"timeout", "1 to 3600 seconds", read_timeout, print_timeout, false},
    {"grace", "a time to 3650d, as 12h or 7d", read_grace, print_grace, false},
    {"endpoint", "http[s]://HOST[:PORT], and nothing else", read_endpoint, print_endpoint, true},
    {"region", "up to 31 letters, digits, - and _", read_region, print_region, true},
    {"style", "path or host", read_style, print_style, true},
    {"class", "a storage class that can be read at once", read_class, print_class, true},
    {"ca", "an absolute path", read_ca, print_ca, true},
    {"insecure", "on or off", read_insecure, print_insecure, true},
    {"prices", "PUT:GET:GB-MONTH in dollars", read_prices, print_prices, true},
};

static PRINTF_LIKE(2, 3) int fail(char *message, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, OBJECT_MESSAGE_MAX, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

bool store_name_valid(const char *name)
{
	size_t len = strnlen(name, STORE_NAME_MAX + 1);

	for (size_t i = 0; i < len; i++)
		if (!(name[i] >= 'a' && name[i] <= 'z') && !(name[i] >= '0' && name[i] <= '9') &&
		    (i == 0 || (name[i] != '_' && name[i] != '-')))
			return false;
	return len >= 1 && len <= STORE_NAME_MAX;
}

/* "bucket/prefix", from an s3:// URL. */
static int parse_bucket(const char *p, struct store_definition *d, char *message)
{
	size_t len = strcspn(p, "/");
	char name[sizeof(d->bucket)];

	if (strchr(p, '@'))
		return fail(message, "s3://: no user or password belongs in the URL: credentials are a file");
	if (len < 3 || len >= sizeof(name))
		return fail(message, "s3://BUCKET: a bucket's name has 3 to %zu letters, digits, '.', '-' and '_'",
			    sizeof(name) - 1);
	memcpy(name, p, len);
	name[len] = '\0';
	if (!value_read_word(name, "._-", d->bucket, sizeof(d->bucket)) || strchr("._-", name[0]) || strchr("._-", name[len - 1]))
		return fail(message,
			    "s3://BUCKET: a bucket's name has letters, digits, '.', '-' and '_', the last three not at its ends");
	p += len;
	p += strspn(p, "/");
	len = strlen(p);
	while (len && p[len - 1] == '/')
		len--;
	if (len >= sizeof(d->prefix))
		return fail(message, "s3://%s/PREFIX: a prefix has %zu bytes at most", d->bucket, sizeof(d->prefix) - 1);
	memcpy(d->prefix, p, len);
	d->prefix[len] = '\0';
	if (len && !object_key_valid(d->prefix))
		return fail(message, "s3://%s/PREFIX: letters, digits, '.', '_' and '-', in parts between single slashes",
			    d->bucket);
	return 0;
}

static int parse_url(const char *url, struct store_definition *d, char *message)
{
	if (strncmp(url, "file://", 7) == 0) {
		d->kind = STORE_DIRECTORY;
		return value_read_path(url + 7, d->path, sizeof(d->path))
			   ? 0
			   : fail(message,
				  "file://PATH: an absolute path as in file:///mnt/cold, without '.' and '..', %%20 for a space, "
				  "%zu bytes at most",
				  sizeof(d->path) - 1);
	}
	if (strncmp(url, "s3://", 5) == 0) {
		d->kind = STORE_S3;
		return parse_bucket(url + 5, d, message);
	}
	return fail(message, "a store begins with file:// or s3://");
}

/* The table's entry for the first `len` bytes of a word; NULL when there is none. */
static const struct option *option_find(const char *word, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (strlen(options[i].name) == len && memcmp(options[i].name, word, len) == 0)
			return &options[i];
	return NULL;
}

/* Names an unknown word to an admin: its name, shortened, and only when it looks like one. */
static int fail_unknown(char *message, const char *word, size_t len)
{
	bool name = word[len] == '=' && len >= 1 && len <= 24;

	for (size_t i = 0; i < len && name; i++)
		name = (word[i] >= 'a' && word[i] <= 'z') || word[i] == '-' || word[i] == '_';
	if (name)
		return fail(message, "%.*s=: there is no such option of a store", (int)len, word);
	return fail(message, "a word of %zu bytes that is no option (NAME=VALUE)", strlen(word));
}

static int parse_option(const char *word, uint32_t *seen, struct store_definition *d, char *message)
{
	size_t len = strcspn(word, "=");
	const struct option *o = option_find(word, len);

	if (!o || word[len] != '=')
		return fail_unknown(message, word, len);
	if (o->s3_only && d->kind != STORE_S3)
		return fail(message, "%s=: an option of s3:// only", o->name);
	if (*seen & 1u << (o - options))
		return fail(message, "%s=: given twice", o->name);
	*seen |= 1u << (o - options);
	if (!o->read(word + len + 1, d))
		return fail(message, "%s=: expected %s", o->name, o->expected);
	return 0;
}

static bool given(uint32_t seen, const char *name)
{
	return seen & 1u << (option_find(name, strlen(name)) - options);
}

/* What depends on several options. */
static int finish(uint32_t seen, struct store_definition *d, char *message)
{
	char text[STORE_TEXT_MAX + 1];
	double prices[3];

	if (!given(seen, "style"))
		d->path_style = path_style_default(d);
	if (!given(seen, "prices")) {
		prices_default(d, prices);
		prices_set(d, prices);
	}
	if (d->kind == STORE_S3 && !d->path_style && !bucket_is_host_name(d->bucket))
		return fail(message, "style=host: %s cannot be part of a host's name", d->bucket);
	if (d->kind == STORE_S3 && !d->path_style && endpoint_is_address(d->endpoint))
		return fail(message, "style=host: the endpoint is an address, which has no names below it");
	if (d->insecure && d->ca_file[0])
		return fail(message, "insecure=on: nothing is checked then, so ca= has no use");
	if (store_definition_print(d, text, sizeof(text)) < 0)
		return fail(message, "the definition takes more than %u bytes", STORE_TEXT_MAX);
	return 0;
}

int store_definition_parse(const char *text, struct store_definition *ret, char *message)
{
	struct store_definition d = {
	    .encrypt = true,
	    .region = "us-east-1",
	    .pack_bytes = PACK_DEFAULT,
	    .timeout_ns = TIMEOUT_S * NSEC_PER_SEC,
	    .grace_ns = GRACE_DAYS * 86400 * NSEC_PER_SEC,
	};
	char copy[STORE_TEXT_MAX + 1], *rest = NULL;
	size_t len = strnlen(text, STORE_TEXT_MAX + 1);
	uint32_t seen = 0;
	int r;

	if (len > STORE_TEXT_MAX)
		return fail(message, "the definition takes more than %u bytes", STORE_TEXT_MAX);
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
			return fail(message, "byte %zu is a control character", i + 1);
	memcpy(copy, text, len + 1);
	const char *word = strtok_r(copy, " ", &rest);
	r = word ? parse_url(word, &d, message) : fail(message, "a store begins with file:// or s3://");
	while (r == 0 && (word = strtok_r(NULL, " ", &rest)))
		r = parse_option(word, &seen, &d, message);
	if (r == 0)
		r = finish(seen, &d, message);
	if (r < 0)
		return r;
	message[0] = '\0';
	*ret = d;
	return 0;
}

/* Adds to a text that ends at *len; -ENAMETOOLONG when it has no room. */
static PRINTF_LIKE(4, 5) int add(char *text, size_t cap, size_t *len, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text + *len, cap - *len, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= cap - *len)
		return -ENAMETOOLONG;
	*len += (size_t)n;
	return 0;
}

int store_definition_print(const struct store_definition *d, char *ret_text, size_t cap)
{
	char text[STORE_TEXT_MAX + 1], value[3 * sizeof(d->path) + 1];
	size_t len = 0;
	int r;

	if (d->kind == STORE_DIRECTORY) {
		value_print_path(d->path, value);
		r = add(text, sizeof(text), &len, "file://%s", value);
	} else {
		r = add(text, sizeof(text), &len, "s3://%s%s%s", d->bucket, d->prefix[0] ? "/" : "", d->prefix);
	}
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(options); i++)
		if ((!options[i].s3_only || d->kind == STORE_S3) && options[i].print(d, value))
			r = add(text, sizeof(text), &len, " %s=%s", options[i].name, value);
	if (r < 0 || len >= cap)
		return -ENAMETOOLONG;
	memcpy(ret_text, text, len + 1);
	return 0;
}
