/*
 * test_peers.c: the list of peers: names, addresses, changes, and its JSON from files and from peers that mean no good.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "replicate/peerfile.h"
#include "replicate/peers.h"
#include "tests/unit/tempdir.h"

static const uint8_t node_a[16] = {0xa, 1}, node_b[16] = {0xb, 2}, node_c[16] = {0xc, 3};

static struct peers three(void)
{
	struct peers p = {0};
	uint32_t id;

	assert_int_equal(peers_add(&p, node_a, "a", "10.0.0.1:7400", &id), 0);
	assert_int_equal(id, 1);
	assert_int_equal(peers_add(&p, node_b, "b.example-2_x", "[fd00::2]:7400", &id), 0);
	assert_int_equal(id, 2);
	assert_int_equal(peers_add(&p, node_c, "c", "", &id), 0);
	assert_int_equal(id, 3);
	return p;
}

static void assert_same(const struct peers *x, const struct peers *y)
{
	assert_int_equal(x->version, y->version);
	assert_int_equal(x->next_id, y->next_id);
	assert_int_equal(x->n, y->n);
	for (uint32_t i = 0; i < x->n; i++) {
		assert_int_equal(x->peer[i].node_id, y->peer[i].node_id);
		assert_memory_equal(x->peer[i].node, y->peer[i].node, 16);
		assert_string_equal(x->peer[i].name, y->peer[i].name);
		assert_string_equal(x->peer[i].address, y->peer[i].address);
	}
}

static void a_name_has_letters_digits_and_a_few_marks(void **state)
{
	static const struct {
		const char *name;
		bool ok;
	} names[] = {
	    {"a", true},    {"A9", true},        {"9", true},   {"node-1.site_b", true}, {"", false},
	    {"-a", false},  {".a", false},       {"_a", false}, {"a b", false},          {"a/b", false},
	    {"a\n", false}, {"\xc3\xa4", false}, {"..", false}, {"a:b", false},          {"a\"b", false},
	};
	char longest[WIRE_NAME_MAX + 2];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (peer_name_ok(names[i].name) != names[i].ok)
			fail_msg("\"%s\"", names[i].name);
	memset(longest, 'x', sizeof(longest));
	longest[WIRE_NAME_MAX] = '\0';
	assert_true(peer_name_ok(longest));
	longest[WIRE_NAME_MAX] = 'x';
	longest[WIRE_NAME_MAX + 1] = '\0';
	assert_false(peer_name_ok(longest));
}

static void addresses_are_parsed_as_the_table_says(void **state)
{
	static const struct {
		const char *text, *host;
		int port; /* -1: none */
	} table[] = {
	    {"host:7400", "host", 7400},
	    {"10.0.0.1:1", "10.0.0.1", 1},
	    {"a.b-c_d:65535", "a.b-c_d", 65535},
	    {"[::1]:7400", "::1", 7400},
	    {"[fe80::1%eth0]:7400", "fe80::1%eth0", 7400},
	    {"[1.2.3.4]:5", "1.2.3.4", 5},
	    {"h:0", "h", 0},
	    {"h:00080", "h", 80},
	    {"", "", -1},
	    {":7400", "", -1},
	    {"h", "", -1},
	    {"h:", "", -1},
	    {"h:65536", "", -1},
	    {"h:999999", "", -1},
	    {"h:-1", "", -1},
	    {"h:+1", "", -1},
	    {"h: 1", "", -1},
	    {"h:1 ", "", -1},
	    {"h:1x", "", -1},
	    {"h:0x10", "", -1},
	    {"::1:7400", "", -1},
	    {"[]:1", "", -1},
	    {"[::1]7400", "", -1},
	    {"[::1]", "", -1},
	    {"[::1]:", "", -1},
	    {"[::1:7400", "", -1},
	    {"a b:1", "", -1},
	    {"a/b:1", "", -1},
	    {"a\"b:1", "", -1},
	    {"a@b:1", "", -1},
	};
	char host[64];
	uint16_t port;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		int r = address_parse(table[i].text, host, sizeof(host), &port);

		if (r != (table[i].port < 0 ? -EINVAL : 0))
			fail_msg("%s: %d", table[i].text, r);
		if (r < 0)
			continue;
		assert_string_equal(host, table[i].host);
		assert_int_equal(port, table[i].port);
	}
	assert_int_equal(address_parse("abcd:1", host, 5, &port), 0);
	assert_int_equal(address_parse("abcd:1", host, 4, &port), -ENAMETOOLONG);
}

static void a_uuid_has_one_spelling(void **state)
{
	static const char *const wrong[] = {
	    "",
	    "00112233-4455-6677-8899-aabbccddeef",
	    "00112233-4455-6677-8899-aabbccddeeff0",
	    "00112233-4455-6677-8899-AABBCCDDEEFF",
	    "00112233445566778899aabbccddeeff",
	    "0011223344-55-6677-8899-aabbccddeeff",
	    "00112233-4455-6677-8899-aabbccddeef ",
	    "00112233-4455-6677-8899-aabbccddee f",
	    "g0112233-4455-6677-8899-aabbccddeeff",
	};
	uint8_t node[16];
	char text[NODE_UUID_TEXT];

	(void)state;
	assert_int_equal(node_uuid_parse("00112233-4455-6677-8899-aabbccddeeff", node), 0);
	assert_int_equal(node[1], 0x11);
	assert_int_equal(node[15], 0xff);
	node_uuid_text(node, text);
	assert_string_equal(text, "00112233-4455-6677-8899-aabbccddeeff");
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++)
		assert_int_equal(node_uuid_parse(wrong[i], node), -EINVAL);
}

static void an_id_is_given_once_and_never_again(void **state)
{
	struct peers p = three();
	uint32_t id;

	(void)state;
	assert_int_equal(p.version, 3);
	assert_int_equal(peers_remove(&p, "b.example-2_x"), 0);
	assert_int_equal(p.n, 2);
	assert_int_equal(p.version, 4);
	assert_null(peers_by_id(&p, 2));
	assert_null(peers_by_node(&p, node_b));
	assert_non_null(peers_find(&p, "c"));
	assert_int_equal(peers_remove(&p, "b.example-2_x"), -ENOENT);
	assert_int_equal(peers_add(&p, node_b, "b", "", &id), 0);
	assert_int_equal(id, 4);
}

static void names_and_nodes_are_there_once(void **state)
{
	struct peers p = three();
	uint32_t id = 77;
	static const uint8_t other[16] = {9};

	(void)state;
	assert_int_equal(peers_add(&p, other, "a", "", &id), -EEXIST);
	assert_int_equal(peers_add(&p, node_a, "d", "", &id), -EEXIST);
	assert_int_equal(peers_add(&p, other, "-", "", &id), -EINVAL);
	assert_int_equal(peers_add(&p, other, "d", "nonsense", &id), -EINVAL);
	assert_int_equal(peers_rename(&p, "a", "c"), -EEXIST);
	assert_int_equal(peers_rename(&p, "nobody", "d"), -ENOENT);
	assert_int_equal(peers_rename(&p, "a", "/"), -EINVAL);
	assert_int_equal(p.version, 3);
	assert_int_equal(id, 77);
	assert_int_equal(peers_rename(&p, "a", "z"), 0);
	assert_int_equal(p.version, 4);
	assert_int_equal(peers_find(&p, "z")->node_id, 1);
}

static void the_list_ends_at_its_limits(void **state)
{
	struct peers p = {0};
	uint32_t id;
	char name[16];

	(void)state;
	for (uint32_t i = 0; i < PEERS_MAX; i++) {
		const uint8_t node[16] = {1, (uint8_t)i};

		snprintf(name, sizeof(name), "n%u", i);
		assert_int_equal(peers_add(&p, node, name, "", &id), 0);
	}
	assert_int_equal(peers_add(&p, node_b, "more", "", &id), -E2BIG);
	/* Ids of 16 bits run out as well. */
	p = (struct peers){.next_id = 65535};
	assert_int_equal(peers_add(&p, node_a, "last", "", &id), 0);
	assert_int_equal(id, 65535);
	assert_int_equal(peers_add(&p, node_b, "more", "", &id), -E2BIG);
}

static void a_printed_list_parses_to_itself(void **state)
{
	struct peers p = three(), q;
	CLEANUP_BUF struct buf json = {0}, again = {0};

	(void)state;
	p.version = INT64_MAX;
	peers_print(&p, &json);
	assert_false(json.failed);
	assert_int_equal(strlen((const char *)json.p), json.len);
	assert_int_equal(peers_parse(buf_slice(&json), &q), 0);
	assert_same(&p, &q);
	peers_print(&q, &again);
	assert_int_equal(again.len, json.len);
	assert_memory_equal(again.p, json.p, json.len);
}

#define PEER(id, node, name, address) "{\"id\":" id ",\"node\":\"" node "\",\"name\":\"" name "\",\"address\":\"" address "\"}"
#define NODE_1                        "00000000-0000-0000-0000-000000000001"
#define NODE_2                        "00000000-0000-0000-0000-000000000002"
#define LIST(peers)                   "{\"version\":1,\"next_id\":9,\"peers\":[" peers "]}"

static void hostile_json_is_refused(void **state)
{
	static const char *const texts[] = {
	    "",
	    "x",
	    "null",
	    "[]",
	    "{}",
	    "{\"version\":1}",
	    "{\"version\":1,\"next_id\":1}",
	    "{\"version\":1,\"next_id\":1,\"peers\":{}}",
	    "{\"version\":-1,\"next_id\":1,\"peers\":[]}",
	    "{\"version\":1.5,\"next_id\":1,\"peers\":[]}",
	    "{\"version\":\"1\",\"next_id\":1,\"peers\":[]}",
	    "{\"version\":99999999999999999999,\"next_id\":1,\"peers\":[]}",
	    "{\"version\":1,\"next_id\":65537,\"peers\":[]}",
	    "{\"version\":1,\"version\":2,\"next_id\":1,\"peers\":[]}",
	    "{\"version\":1,\"next_id\":1,\"peers\":[]} x",
	    LIST("null"),
	    LIST("{}"),
	    LIST("[]"),
	    LIST(PEER("0", NODE_1, "a", "")),
	    LIST(PEER("9", NODE_1, "a", "")),
	    LIST(PEER("-1", NODE_1, "a", "")),
	    LIST(PEER("4294967297", NODE_1, "a", "")),
	    LIST(PEER("\"1\"", NODE_1, "a", "")),
	    LIST(PEER("1", "x", "a", "")),
	    LIST(PEER("1", NODE_1 "0", "a", "")),
	    LIST(PEER("1", NODE_1, "", "")),
	    LIST(PEER("1", NODE_1, "../a", "")),
	    LIST(PEER("1", NODE_1, "a\\u0000b", "")),
	    LIST(PEER("1", NODE_1, "a", "nowhere")),
	    LIST(PEER("1", NODE_1, "a", "h:1\\n")),
	    LIST(PEER("1", NODE_1, "a", "") "," PEER("1", NODE_2, "b", "")),
	    LIST(PEER("1", NODE_1, "a", "") "," PEER("2", NODE_1, "b", "")),
	    LIST(PEER("1", NODE_1, "a", "") "," PEER("2", NODE_2, "a", "")),
	};
	struct peers p = {.version = 1234};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (peers_parse((struct slice){texts[i], strlen(texts[i])}, &p) != -EUCLEAN)
			fail_msg("%s", texts[i]);
	assert_int_equal(p.version, 1234);
	/* And the frame they are in is right. */
	const char *good = LIST(PEER("1", NODE_1, "a", "") "," PEER("8", NODE_2, "b", "h:1"));
	assert_int_equal(peers_parse((struct slice){good, strlen(good)}, &p), 0);
	assert_int_equal(p.n, 2);
}

static void a_list_that_is_too_long_or_too_deep_is_refused(void **state)
{
	CLEANUP_BUF struct buf json = {0};
	struct peers p;

	(void)state;
	buf_printf(&json, "{\"version\":1,\"next_id\":60000,\"peers\":[");
	for (unsigned i = 1; i <= PEERS_MAX + 1; i++)
		buf_printf(&json,
			   "%s{\"id\":%u,\"node\":\"00000000-0000-0000-0000-0000000000%02x\",\"name\":\"n%u\",\"address\":\"\"}",
			   i > 1 ? "," : "", i, i, i);
	buf_printf(&json, "]}");
	assert_int_equal(peers_parse(buf_slice(&json), &p), -E2BIG);
	buf_reset(&json);
	for (unsigned i = 0; i < 60000; i++)
		buf_put_u8(&json, '[');
	assert_int_equal(peers_parse(buf_slice(&json), &p), -EUCLEAN);
}

/* Every prefix and every flipped bit of a good text: refused, or a list that is good by itself. */
static void damaged_json_never_gives_a_bad_list(void **state)
{
	struct peers good = three();
	CLEANUP_BUF struct buf json = {0};

	(void)state;
	peers_print(&good, &json);
	for (size_t n = 0; n < json.len; n++) {
		struct peers p;

		assert_int_equal(peers_parse((struct slice){json.p, n}, &p), -EUCLEAN);
	}
	for (size_t bit = 0; bit < json.len * 8; bit++) {
		struct peers p;

		json.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (peers_parse(buf_slice(&json), &p) == 0)
			for (uint32_t i = 0; i < p.n; i++) {
				assert_true(peer_name_ok(p.peer[i].name));
				assert_in_range(p.peer[i].node_id, 1, p.next_id - 1);
			}
		json.p[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
}

static void a_saved_list_is_loaded_and_private(void **state)
{
	char dir[256], path[300];
	struct peers p = three(), q;
	struct stat st;

	(void)state;
	tempdir_make(dir);
	assert_int_equal(peers_load(dir, &q), -ENOENT);
	assert_int_equal(peers_save(dir, &p), 0);
	assert_int_equal(peers_load(dir, &q), 0);
	assert_same(&p, &q);
	assert_int_equal(peers_remove(&p, "c"), 0);
	assert_int_equal(peers_save(dir, &p), 0);
	assert_int_equal(peers_load(dir, &q), 0);
	assert_same(&p, &q);
	snprintf(path, sizeof(path), "%s/peers", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	snprintf(path, sizeof(path), "%s/peers/peers.json", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	tempdir_remove(dir);
}

static void files_behind_symbolic_links_are_refused(void **state)
{
	char dir[256], path[300], other[300];
	struct peers p = three(), q;

	(void)state;
	tempdir_make(dir);
	assert_int_equal(peers_save(dir, &p), 0);
	snprintf(path, sizeof(path), "%s/peers/peers.json", dir);
	snprintf(other, sizeof(other), "%s/peers/other", dir);
	assert_int_equal(rename(path, other), 0);
	assert_int_equal(symlink("other", path), 0);
	assert_int_equal(peers_load(dir, &q), -ELOOP);
	/* A write replaces the link and leaves alone what it pointed to. */
	assert_int_equal(truncate(other, 1), 0);
	assert_int_equal(peers_save(dir, &p), 0);
	assert_int_equal(peers_load(dir, &q), 0);
	struct stat st;
	assert_int_equal(stat(other, &st), 0);
	assert_int_equal(st.st_size, 1);
	tempdir_remove(dir);
}

static void a_secret_that_others_can_read_is_refused(void **state)
{
	static const mode_t modes[] = {0640, 0604, 0660, 0601, 0700, 0600, 0400};
	char dir[256], path[300];

	(void)state;
	tempdir_make(dir);
	assert_int_equal(peerfile_write(dir, "a.key", (struct slice){"secret", 6}), 0);
	snprintf(path, sizeof(path), "%s/peers/a.key", dir);
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		CLEANUP_SECRET struct buf b = {0};

		assert_int_equal(chmod(path, modes[i]), 0);
		assert_int_equal(peerfile_read(dir, "a.key", PEERFILE_SECRET, &b), modes[i] & 077 ? -EACCES : 0);
		assert_int_equal(b.len, modes[i] & 077 ? 0 : 6);
	}
	assert_int_equal(chmod(path, 0644), 0);
	CLEANUP_SECRET struct buf b = {0};
	assert_int_equal(peerfile_read(dir, "a.key", PEERFILE_PLAIN, &b), 0);
	tempdir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_name_has_letters_digits_and_a_few_marks),
	    cmocka_unit_test(addresses_are_parsed_as_the_table_says),
	    cmocka_unit_test(a_uuid_has_one_spelling),
	    cmocka_unit_test(an_id_is_given_once_and_never_again),
	    cmocka_unit_test(names_and_nodes_are_there_once),
	    cmocka_unit_test(the_list_ends_at_its_limits),
	    cmocka_unit_test(a_printed_list_parses_to_itself),
	    cmocka_unit_test(hostile_json_is_refused),
	    cmocka_unit_test(a_list_that_is_too_long_or_too_deep_is_refused),
	    cmocka_unit_test(damaged_json_never_gives_a_bad_list),
	    cmocka_unit_test(a_saved_list_is_loaded_and_private),
	    cmocka_unit_test(files_behind_symbolic_links_are_refused),
	    cmocka_unit_test(a_secret_that_others_can_read_is_refused),
	};

	return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
