/*
 * test_token.c: tokens as text, and the file of invitations.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "replicate/net/invites.h"
#include "tests/unit/tempdir.h"

static struct token sample(void)
{
	struct token t = {
	    .address = "[fd00::1]:7400",
	    .volume = {1, 2, 3},
	    .id = "0123456789abcdef0123456789abcdef",
	    .expires_s = 1800000000,
	    .name = "b",
	};

	for (unsigned i = 0; i < 32; i++) {
		t.ca_sha256[i] = (uint8_t)(i * 7);
		t.secret[i] = (uint8_t)(255 - i);
	}
	return t;
}

static void assert_same(const struct token *x, const struct token *y)
{
	assert_string_equal(x->address, y->address);
	assert_memory_equal(x->volume, y->volume, 16);
	assert_memory_equal(x->ca_sha256, y->ca_sha256, 32);
	assert_string_equal(x->id, y->id);
	assert_memory_equal(x->secret, y->secret, 32);
	assert_int_equal(x->expires_s, y->expires_s);
	assert_string_equal(x->name, y->name);
}

static void a_printed_token_parses_to_itself(void **state)
{
	struct token t = sample(), u;
	char padded[5000];

	(void)state;
	/* Names of rising length bring every remainder of three. */
	for (unsigned n = 1; n <= WIRE_NAME_MAX; n++) {
		CLEANUP_BUF struct buf text = {0};

		memset(t.name, 'x', n);
		t.name[n] = '\0';
		token_print(&t, &text);
		assert_false(text.failed);
		assert_int_equal(strncmp((const char *)text.p, TOKEN_PREFIX, strlen(TOKEN_PREFIX)), 0);
		assert_int_equal(strspn((const char *)text.p + strlen(TOKEN_PREFIX),
					"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
				 text.len - strlen(TOKEN_PREFIX));
		assert_int_equal(token_parse((const char *)text.p, &u), 0);
		assert_same(&t, &u);
		snprintf(padded, sizeof(padded), " \t%s\r\n", (const char *)text.p);
		assert_int_equal(token_parse(padded, &u), 0);
	}
}

/* Every prefix, and every other character in every place: none is a token, but for characters within texts that say no less. */
static void a_damaged_token_is_refused_or_means_what_it_says(void **state)
{
	struct token t = sample(), u;
	CLEANUP_BUF struct buf text = {0};
	unsigned taken = 0;

	(void)state;
	token_print(&t, &text);
	char *p = (char *)text.p;
	for (size_t n = 0; n < text.len; n++) {
		char kept = p[n];

		p[n] = '\0';
		assert_int_equal(token_parse(p, &u), -EINVAL);
		for (int c = 1; c < 256; c++) {
			p[n] = (char)c;
			int r = token_parse(p, &u);
			assert_true(r == 0 || r == -EINVAL);
			if (r == 0) {
				char host[WIRE_TEXT_MAX + 1];
				uint16_t port;

				taken++;
				assert_true(peer_name_ok(u.name));
				assert_int_equal(address_parse(u.address, host, sizeof(host), &port), 0);
				assert_int_equal(strlen(u.id), 32);
			}
		}
		p[n] = kept;
	}
	assert_in_range(taken, text.len / 4, text.len * 64);
	assert_int_equal(token_parse(p, &u), 0);
}

/* base64url of a text, written independently of token.c. */
static void encode(const char *json, char *out)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	unsigned bits = 0, n = 0;

	out += sprintf(out, TOKEN_PREFIX);
	for (; *json; json++) {
		bits = bits << 8 | (unsigned char)*json;
		for (n += 8; n >= 6; n -= 6)
			*out++ = digits[bits >> (n - 6) & 63];
	}
	if (n)
		*out++ = digits[bits << (6 - n) & 63];
	*out = '\0';
}

#define HEX_64 "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
#define TOKEN_JSON(address, volume, ca, id, secret, expires, name)                                                               \
	"{\"address\":" address ",\"volume\":" volume ",\"ca\":" ca ",\"id\":" id ",\"secret\":" secret ",\"expires\":" expires  \
	",\"name\":" name "}"
#define GOOD_VOLUME "\"00112233-4455-6677-8899-aabbccddeeff\""
#define GOOD_ID     "\"00112233445566778899aabbccddeeff\""
#define GOOD_HEX    "\"" HEX_64 "\""

static void fields_out_of_order_are_refused(void **state)
{
	static const struct {
		const char *json;
		int r;
	} table[] = {
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"b\""), 0},
	    {TOKEN_JSON("\"h:0\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("7", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", "\"v\"", GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, "\"00\"", GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, "\"" HEX_64 "00\"", GOOD_ID, GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, "\"0011\"", GOOD_HEX, "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, "\"00112233445566778899aabbccddeefG\"", GOOD_HEX, "1", "\"b\""),
	     -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, "\"00112233445566778899aabbccddeeff0\"", GOOD_HEX, "1", "\"b\""),
	     -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, "\"\"", "1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "-1", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1e99", "\"b\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"\""), -EINVAL},
	    {TOKEN_JSON("\"h:1\"", GOOD_VOLUME, GOOD_HEX, GOOD_ID, GOOD_HEX, "1", "\"a/b\""), -EINVAL},
	    {"{}", -EINVAL},
	    {"[]", -EINVAL},
	};
	struct token t;
	char text[2048];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		encode(table[i].json, text);
		if (token_parse(text, &t) != table[i].r)
			fail_msg("%s", table[i].json);
	}
	static const char *const none[] = {
	    "", " ", "clawfs1:", "clawfs2:AAAA", "CLAWFS1:AAAA", "clawfs1:A", "clawfs1:AA==", "clawfs1:AA AA"};
	for (size_t i = 0; i < ARRAY_SIZE(none); i++)
		assert_int_equal(token_parse(none[i], &t), -EINVAL);
	char *huge = calloc(1, 200000);
	memset(huge, 'A', 199999);
	memcpy(huge, TOKEN_PREFIX, strlen(TOKEN_PREFIX));
	assert_int_equal(token_parse(huge, &t), -EINVAL);
	free(huge);
}

/* ---- invitations ---- */

static void invitations_are_kept_with_what_used_them(void **state)
{
	char dir[256], path[300];
	struct invites v = {0}, w;
	const struct invite *i;
	struct stat st;

	(void)state;
	tempdir_make(dir);
	assert_int_equal(invites_load(dir, &w), 0);
	assert_int_equal(w.n, 0);
	assert_int_equal(invites_add(&v, "b", 1000, &i), 0);
	assert_int_equal(strlen(i->id), 32);
	assert_int_equal(invites_add(&v, "c", 2000, &i), 0);
	v.invite[1].used = true;
	memset(v.invite[1].request, 7, 32);
	memset(v.invite[1].node, 9, 16);
	assert_int_equal(invites_save(dir, &v), 0);
	snprintf(path, sizeof(path), "%s/peers/invites.json", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(invites_load(dir, &w), 0);
	assert_int_equal(w.n, 2);
	for (uint32_t k = 0; k < 2; k++) {
		assert_string_equal(w.invite[k].id, v.invite[k].id);
		assert_string_equal(w.invite[k].name, v.invite[k].name);
		assert_memory_equal(w.invite[k].secret, v.invite[k].secret, 32);
		assert_int_equal(w.invite[k].expires_s, v.invite[k].expires_s);
		assert_int_equal(w.invite[k].used, v.invite[k].used);
		assert_memory_equal(w.invite[k].request, v.invite[k].request, 32);
		assert_memory_equal(w.invite[k].node, v.invite[k].node, 16);
	}
	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(invites_load(dir, &w), -EACCES);
	tempdir_remove(dir);
}

static void an_expired_invitation_is_not_found(void **state)
{
	struct invites v = {0};
	const struct invite *i;
	char id[33];

	(void)state;
	assert_int_equal(invites_add(&v, "b", 1000, &i), 0);
	memcpy(id, i->id, sizeof(id));
	assert_non_null(invites_find(&v, id, 999));
	assert_null(invites_find(&v, id, 1000));
	assert_null(invites_find(&v, "0123456789abcdef0123456789abcdef", 0));
	invites_expire(&v, 999);
	assert_int_equal(v.n, 1);
	invites_expire(&v, 1000);
	assert_int_equal(v.n, 0);
}

static void a_name_has_one_invitation_and_the_list_an_end(void **state)
{
	struct invites v = {0};
	const struct invite *i;
	char name[16], first[33];

	(void)state;
	assert_int_equal(invites_add(&v, "n0", 1000, &i), 0);
	memcpy(first, i->id, sizeof(first));
	for (uint32_t k = 0; k < INVITES_MAX; k++) {
		snprintf(name, sizeof(name), "n%u", k);
		assert_int_equal(invites_add(&v, name, 1000, &i), 0);
		assert_int_equal(v.n, k + 1);
	}
	assert_null(invites_find(&v, first, 0));
	assert_int_equal(invites_add(&v, "more", 1000, &i), -ENOSPC);
	assert_int_equal(invites_add(&v, "n3", 1000, &i), 0);
	v.invite[2].used = true;
	v.invite[2].node[0] = 5;
	invites_forget_node(&v, (const uint8_t[16]){5});
	assert_int_equal(v.n, INVITES_MAX - 1);
	invites_forget_node(&v, (const uint8_t[16]){0}); /* unused ones have no node */
	assert_int_equal(v.n, INVITES_MAX - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_printed_token_parses_to_itself),
	    cmocka_unit_test(a_damaged_token_is_refused_or_means_what_it_says),
	    cmocka_unit_test(fields_out_of_order_are_refused),
	    cmocka_unit_test(invitations_are_kept_with_what_used_them),
	    cmocka_unit_test(an_expired_invitation_is_not_found),
	    cmocka_unit_test(a_name_has_one_invitation_and_the_list_an_end),
	};

	return cmocka_run_group_tests_name("token", tests, NULL, NULL);
}
