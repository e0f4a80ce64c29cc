/*
 * key.c: `clawfs key`: who can open an encrypted volume.
 *
 * Every change is one of the file `keys` alone: the data key in it is sealed for another secret, what is encrypted with it stays
 * as it is.  So it takes no time, and can be done while the volume is mounted.  Who asks for a change shows that a secret of
 * theirs opens the volume afterwards, too.  It is entered in the audit log before it is done (acts.c).
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fs/cli/acts.h"
#include "fs/cli/secret.h"

struct opened {
	char *dir; /* owned */
	int lock;
	struct keys_block keys;
	struct data_key key;
	unsigned slot; /* that --key opened */
};

static void opened_close(struct opened *o)
{
	data_key_wipe(&o->key);
	if (o->lock >= 0)
		close(o->lock);
	free(o->dir);
}

static int find_dir(const char *operand, struct opened *o)
{
	*o = (struct opened){.dir = directory_of(operand), .lock = -1};
	if (o->dir)
		return 0;
	int r = -errno;
	volume_complain("cannot open", operand, r);
	return r;
}

/* With the lock, so that nobody changes them meanwhile. */
static int open_keys(const struct args *a, const char *operand, struct opened *o)
{
	int r = find_dir(operand, o);

	if (r < 0)
		return r;
	if (!a->key) {
		complain("say where a secret is that opens the volume now, with --key");
		return -EINVAL;
	}
	r = keys_lock(o->dir, &o->lock);
	if (r < 0) {
		keys_complain(o->dir, r);
		return r;
	}
	return keys_unlock(o->dir, a->key, &o->keys, &o->key, &o->slot);
}

/* The act is the slot, by its name. */
static int save(struct opened *o, const char *verb, const char *place, const char *slot)
{
	struct act act;
	int r = act_begin(verb, o->dir, place, &o->key, slot, &act);

	if (r < 0)
		return r;
	r = keys_save(o->dir, &o->keys);
	act_end(&act, r, NULL);
	if (r < 0)
		keys_complain(o->dir, r);
	return r;
}

/* A slot called `name` for the secret of --new-key. */
static int add(const struct args *a, struct opened *o, const char *name)
{
	struct secret secret;
	int r = secret_get(a->new_key, o->dir, true, &secret);

	if (r < 0)
		return r;
	r = keys_add(&o->keys, &o->key, &secret, &KEY_COST_USUAL, name, clock_real_ns(&clock_system));
	secret_wipe(&secret);
	if (r < 0)
		keys_complain(o->dir, r);
	return r;
}

static bool has_new_key(const struct args *a)
{
	if (!a->new_key)
		complain("say where the new secret is, with --new-key");
	return a->new_key;
}

static int finish(struct opened *o, int r)
{
	opened_close(o);
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}

int verb_key_add(const struct args *a)
{
	struct opened o;

	if (!has_new_key(a))
		return EXIT_USAGE;
	const char *name = a->slot ? a->slot : secret_source(a->new_key);
	int r = open_keys(a, a->operand[0], &o);
	if (r == 0)
		r = add(a, &o, name);
	if (r == 0)
		r = save(&o, "key add", a->operand[0], name);
	return finish(&o, r);
}

int verb_key_change(const struct args *a)
{
	char name[KEY_NAME_BYTES + 1] = "";
	struct opened o;

	if (!has_new_key(a))
		return EXIT_USAGE;
	int r = open_keys(a, a->operand[0], &o);
	if (r == 0) {
		memcpy(name, o.keys.slot[o.slot].name, KEY_NAME_BYTES);
		keys_remove(&o.keys, o.slot);
		r = add(a, &o, a->slot ? a->slot : name);
	}
	if (r == 0)
		r = save(&o, "key change", a->operand[0], name);
	return finish(&o, r);
}

int verb_key_remove(const struct args *a)
{
	struct opened o;
	unsigned slot;
	int r = open_keys(a, a->operand[1], &o);

	if (r == 0) {
		r = keys_find(&o.keys, a->operand[0], &slot);
		if (r < 0)
			keys_complain(o.dir, r);
	}
	if (r == 0 && slot == o.slot) {
		complain("the slot \"%s\" is the one that --key opens: remove it with the secret of another one, or change it",
			 a->operand[0]);
		r = -EPERM;
	}
	if (r == 0) {
		keys_remove(&o.keys, slot);
		r = save(&o, "key remove", a->operand[1], a->operand[0]);
	}
	return finish(&o, r);
}

static json_t *slot_json(const struct key_slot *s)
{
	const bool words = le32_get(s->kind) == KEY_PASSPHRASE;
	json_t *o = json_object();

	json_object_set_new(o, "slot", bytes_json((struct slice){s->name, strnlen((const char *)s->name, KEY_NAME_BYTES)}));
	json_object_set_new(o, "kind", json_string(words ? "passphrase" : "key"));
	json_object_set_new(o, "created_seconds", json_integer((json_int_t)(le64_get(s->created_ns) / (uint64_t)NSEC_PER_SEC)));
	if (words)
		json_object_set_new(o, "memory_bytes",
				    json_integer((json_int_t)(UINT64_C(128) * le32_get(s->r) << le32_get(s->log2_n))));
	return o;
}

int verb_key_list(const struct args *a)
{
	json_t *list = json_array(), *o;
	struct opened v;
	size_t i;
	int r = find_dir(a->operand[0], &v);

	if (r == 0) {
		r = keys_load(v.dir, &v.keys);
		if (r == -ENODATA)
			complain("%s: not encrypted", v.dir);
		else if (r < 0)
			keys_complain(v.dir, r);
	}
	for (i = 0; r == 0 && i < KEYS_SLOTS; i++)
		if (le32_get(v.keys.slot[i].kind) != KEY_NONE)
			json_array_append_new(list, slot_json(&v.keys.slot[i]));
	if (r == 0 && a->json)
		json_print(list);
	else
		json_array_foreach(list, i, o) facts_print(o);
	json_decref(list);
	return finish(&v, r);
}
