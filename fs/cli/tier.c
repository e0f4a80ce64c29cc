/*
 * tier.c: the verbs about stores: add, list, test, remove, and gc.
 *
 * The daemon asks the store; what it had to say is an attribute (clawfs.tier.result.KIND).  Only credentials go another way: they
 * are a file in the volume's directory, and pass neither through an attribute nor through an argument.
 */
#include "fs/cli/acts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tier/definition.h"
#include "tier/object.h"

static const struct {
	size_t offset; /* in struct args, of a text */
	const char *key;
} text_options[] = {
#define TEXT(member, key)                                                                                                        \
	{                                                                                                                        \
		offsetof(struct args, member), key                                                                               \
	}
    TEXT(endpoint, "endpoint"),   TEXT(region, "region"),     TEXT(storage_class, "class"),   TEXT(ca_file, "ca"),
    TEXT(verify, "verify"),       TEXT(pack_size, "pack"),    TEXT(store_rate, "rate"),       TEXT(store_requests, "requests"),
    TEXT(store_budget, "budget"), TEXT(store_grace, "grace"), TEXT(store_timeout, "timeout"), TEXT(prices, "prices"),
#undef TEXT
};

void tier_definition_text(const struct args *a, const char *url, struct buf *out)
{
	buf_printf(out, "%s", url);
	for (size_t i = 0; i < ARRAY_SIZE(text_options); i++) {
		const char *value = *(const char *const *)((const char *)a + text_options[i].offset);

		if (value)
			buf_printf(out, " %s=%s", text_options[i].key, value);
	}
	if (a->path_style)
		buf_printf(out, " style=path");
	if (a->insecure)
		buf_printf(out, " insecure=on");
	if (a->no_encrypt)
		buf_printf(out, " encrypt=off");
	buf_put_u8(out, '\0');
}

/* What the daemon had to say of the last job of a kind, to `to`. */
static void print_result(FILE *to, const char *kind, const char *path)
{
	CLEANUP_BUF struct buf text = {0};
	char name[64];

	snprintf(name, sizeof(name), "tier.result.%s", kind);
	if (attribute_read(path, name, &text) == 0)
		fputs((const char *)text.p, to);
}

static int job_failed(const char *what, const char *kind, const char *path, int error)
{
	if (error == -EPERM || error == -EROFS)
		complain_admin(what, path, error);
	else if (error == -ENODATA || error == -EOPNOTSUPP || error == -ENOTCONN)
		complain_unreachable(path, error);
	else
		complain("%s: %s", what, strerror(-error));
	print_result(stderr, kind, path);
	return EXIT_FAILED;
}

static bool is_follower(const char *path)
{
	CLEANUP_BUF struct buf role = {0};

	return attribute_read(path, "role", &role) == 0 && strcmp((const char *)role.p, "follower") == 0;
}

static int keep_credentials(const struct args *a, const char *dir, const char *name)
{
	const struct data_key none = {0}; /* the volume is mounted: its daemon enters it */
	char value[STORE_NAME_MAX + 32];
	struct act act;

	snprintf(value, sizeof(value), "%s, its credentials", name);
	int r = act_begin("tier add", dir, a->operand[2], &none, value, &act);
	if (r < 0)
		return r;
	r = stores_keep_credentials(dir, name, a->credentials, a->profile);
	act_end(&act, r, NULL);
	return r;
}

int verb_tier_add(const struct args *a)
{
	const char *name = a->operand[0], *path = a->operand[2];
	char message[OBJECT_MESSAGE_MAX], attribute[64];
	struct store_definition d;
	CLEANUP_BUF struct buf text = {0};

	tier_definition_text(a, a->operand[1], &text);
	if (text.failed || !store_name_valid(name)) {
		complain("%s: the name of a store has up to %u of a-z, 0-9, - and _, the first a letter or digit", name,
			 STORE_NAME_MAX);
		return EXIT_USAGE;
	}
	if (store_definition_parse((const char *)text.p, &d, message) < 0) {
		complain("not added: %s", message);
		return EXIT_USAGE;
	}
	CLEANUP_FREE char *dir = directory_of(path);
	json_t *facts;
	int r = status_read(path, &facts);
	if (r < 0 || !dir) {
		complain_unreachable(path, r);
		return EXIT_FAILED;
	}
	json_decref(facts);
	if (d.kind == STORE_S3 && keep_credentials(a, dir, name) < 0)
		return EXIT_FAILED;
	if (is_follower(path))
		return EXIT_OK; /* the leader tells what the store is; the credentials are this node's */
	if (d.kind == STORE_DIRECTORY && stores_make_directory(&d) < 0)
		return EXIT_FAILED;
	snprintf(attribute, sizeof(attribute), "tier.store.%s", name);
	r = attribute_set(path, attribute, (const char *)text.p);
	return r < 0 ? job_failed("not added", "add", path, r) : EXIT_OK;
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

static void print_store(const char *name, const json_t *s)
{
	char stored[32], live[32];

	size_text((uint64_t)json_integer_value(json_object_get(s, "stored_bytes")), stored, sizeof(stored));
	size_text((uint64_t)json_integer_value(json_object_get(s, "live_bytes")), live, sizeof(live));
	printf("%-16s %-9s %8" PRIu64 " objects  %s stored, %s of files  $%.2f a month  %s\n", name, text_of(s, "breaker"),
	       (uint64_t)json_integer_value(json_object_get(s, "objects")), stored, live,
	       json_number_value(json_object_get(s, "cost_month")), text_of(s, "definition"));
	if (*text_of(s, "message"))
		printf("%-16s %s\n", "", text_of(s, "message"));
}

int verb_tier_list(const struct args *a)
{
	json_t *facts, *store;
	const char *name;
	int r = status_read(a->operand[0], &facts);

	if (r < 0) {
		complain_unreachable(a->operand[0], r);
		return EXIT_FAILED;
	}
	json_t *stores = json_object_get(json_object_get(facts, "tier"), "stores");
	if (a->json && stores)
		json_print(stores);
	else if (a->json)
		printf("{}\n");
	else
		json_object_foreach(stores, name, store) print_store(name, store);
	json_decref(facts);
	return EXIT_OK;
}

int verb_tier_test(const struct args *a)
{
	int r = attribute_set(a->operand[1], "tier.store-test", a->operand[0]);

	if (r < 0)
		return job_failed("the store does not do", "test", a->operand[1], r);
	print_result(stdout, "test", a->operand[1]);
	return EXIT_OK;
}

int verb_tier_remove(const struct args *a)
{
	const char *name = a->operand[0], *path = a->operand[1];
	CLEANUP_FREE char *dir = directory_of(path);
	int r = attribute_set(path, "tier.store-remove", name);

	if (r < 0)
		return job_failed("not removed", "remove", path, r);
	if (dir && stores_drop_credentials(dir, name) < 0)
		complain("its credentials are left in %s/credentials", dir);
	return EXIT_OK;
}

static int gc_store(const char *name, bool dry, const char *path)
{
	char value[STORE_NAME_MAX + 8];

	snprintf(value, sizeof(value), "%s%s", name, dry ? " dry" : "");
	int r = attribute_set(path, "tier.store-gc", value);
	if (r < 0)
		return job_failed("not done", "gc", path, r);
	print_result(stdout, "gc", path);
	return EXIT_OK;
}

int verb_gc(const struct args *a)
{
	const char *name, *path = a->operand[0];
	int code = EXIT_OK, r;
	json_t *facts, *store;

	r = status_read(path, &facts);
	if (r < 0) {
		complain_unreachable(path, r);
		return EXIT_FAILED;
	}
	json_object_foreach(json_object_get(json_object_get(facts, "tier"), "stores"), name,
			    store) if (gc_store(name, a->dry_run, path) != EXIT_OK) code = EXIT_FAILED;
	json_decref(facts);
	return code;
}
