/*
 * encrypt.c: an encrypted volume's store and index, from a secret to the two wrappers around them.
 *
 *     format:  a random data key -> sealed into the file `keys` -> wrappers -> fs_format
 *     mount:   superblock says encrypted -> secret -> data key -> (fork) -> wrappers -> fs_open
 *
 * The staging files of the journal are mapped, so they cannot be encrypted: they live on a filesystem in memory, below
 * /run/clawfs, or /dev/shm where that is none, in a directory with the names of volume and node.
 *
 * A volume that is not encrypted is refused when a key is given: it may be another one, put there by somebody who wants to see
 * what is written.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "fs/cli/secret.h"
#include "fs/store/crypt/batch_mac.h"
#include "fs/store/crypt/crypt_store.h"
#include "fs/store/crypt/diverged_crypt.h"
#include "fs/store/crypt/kv_crypt.h"
#include "fs/store/super_format.h"
#include "journal/journal_format.h"

/* ---- keys ---- */

void keys_complain(const char *dir, int error)
{
	static const struct {
		int error;
		const char *reason;
	} table[] = {
	    {ENOKEY, "this key opens none of the volume's slots: it is not the right one"},
	    {ENODATA, "its file 'keys' is missing: bring it back from a copy; without it nothing can be read"},
	    {EBADMSG, "its file 'keys' is damaged: bring it back from a copy; without it nothing can be read"},
	    {EUCLEAN, "its file 'keys' is damaged: bring it back from a copy; without it nothing can be read"},
	    {EPROTONOSUPPORT, "its file 'keys' was made by a newer clawfs: upgrade clawfs on this machine"},
	    {ENOSPC, "all 8 slots are taken: remove one first"},
	    {EEXIST, "there is a slot of that name: choose another with --name"},
	    {ENOENT, "there is no slot of that name: `clawfs key list` tells them"},
	    {EBUSY, "another clawfs changes its keys at this moment"},
	    {ENOMEM, "not enough memory to try a passphrase: it takes 128 MiB"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].error == -error) {
			complain("%s: %s", dir, table[i].reason);
			return;
		}
	complain("%s: its keys: %s", dir, strerror(-error));
}

int keys_unlock(const char *dir, const char *spec, struct keys_block *ret_keys, struct data_key *ret_key, unsigned *ret_slot)
{
	struct secret secret;
	int r = keys_load(dir, ret_keys);

	if (r < 0) {
		keys_complain(dir, r);
		return r;
	}
	r = secret_get(spec, dir, false, &secret);
	if (r < 0)
		return r;
	r = keys_open(ret_keys, &secret, ret_key, ret_slot);
	secret_wipe(&secret);
	if (r < 0)
		keys_complain(dir, r);
	return r;
}

/* The superblock in force; -ENODATA when there is none that can be read: who opens the volume says what is wrong with it. */
static int peek(const char *dir, struct super *ret)
{
	struct super copy[2];
	bool valid[2];
	int r = volume_peek(dir, copy, valid);
	const struct super *s = r == 0 ? volume_newest(copy, valid) : NULL;

	if (!s)
		return -ENODATA;
	*ret = *s;
	return 0;
}

int volume_unlock(const struct args *a, const char *dir, struct data_key *ret)
{
	struct keys_block keys;
	struct super s;

	*ret = (struct data_key){0};
	if (peek(dir, &s) < 0)
		return 0;
	bool encrypted = s.incompat & SUPER_ENCRYPTED;
	if (!encrypted && !a->key)
		return 0;
	if (!encrypted) {
		complain("%s: the volume is not encrypted, and a key was given: is it the right one?", dir);
		return -EINVAL;
	}
	if (!a->key) {
		complain("%s: the volume is encrypted: say where its key is with --key, or -o key=", dir);
		return -ENOKEY;
	}
	int r = keys_unlock(dir, a->key, &keys, ret, NULL);
	if (r == 0 && memcmp(keys.volume, s.volume, sizeof(s.volume)) != 0) {
		complain("%s: its file 'keys' belongs to another volume", dir);
		data_key_wipe(ret);
		r = -EUCLEAN;
	}
	return r;
}

/* ---- memory for the staging files ---- */

static bool is_memory(const char *path)
{
	struct statfs st;

	return statfs(path, &st) == 0 && (st.f_type == TMPFS_MAGIC || st.f_type == RAMFS_MAGIC);
}

/* Ours alone: in /dev/shm anybody may have made it. */
static int own_directory(const char *path)
{
	struct stat st;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return -errno;
	if (lstat(path, &st) < 0)
		return -errno;
	return S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 077) ? 0 : -EPERM;
}

/* The directory in which each volume has one of its own. */
static int memory_base(const char *given, char ret[PATH_MAX])
{
	char shm[64];

	snprintf(shm, sizeof(shm), "/dev/shm/clawfs-%u", (unsigned)geteuid());
	const char *const usual[] = {"/run/clawfs", shm};
	if (given) {
		snprintf(ret, PATH_MAX, "%s", given);
		if (is_memory(given))
			return 0;
		complain("staging=%s: not a filesystem in memory (tmpfs): what is written there would be readable on the disk",
			 given);
		return -EINVAL;
	}
	for (size_t i = 0; i < ARRAY_SIZE(usual); i++) {
		char parent[64];

		snprintf(parent, sizeof(parent), "%s", usual[i]);
		*strrchr(parent, '/') = '\0';
		snprintf(ret, PATH_MAX, "%s", usual[i]);
		if (is_memory(parent) && own_directory(usual[i]) == 0)
			return 0;
	}
	complain("an encrypted volume needs a filesystem in memory for changes that are not committed yet, and neither "
		 "/run/clawfs nor "
		 "%s is one: mount a tmpfs and name it with staging=DIR",
		 shm);
	return -EINVAL;
}

static int open_memory(const struct args *a, const struct super *s, struct store **ret)
{
	char base[PATH_MAX], path[PATH_MAX], volume[UUID_TEXT], node[UUID_TEXT];
	int r = memory_base(a->staging, base);

	if (r < 0)
		return r;
	uuid_text(s->volume, volume);
	uuid_text(s->node, node);
	if ((size_t)snprintf(path, sizeof(path), "%s/%s-%s", base, volume, node) >= sizeof(path))
		return -ENAMETOOLONG;
	r = own_directory(path);
	if (r == 0)
		r = store_posix_open(path, false, ret);
	if (r == -EBUSY)
		complain("%s is in use: a copy of this volume is mounted", path);
	else if (r < 0)
		complain("%s: %s", path, strerror(-r));
	return r;
}

/* ---- the wrappers ---- */

static int wrap(const struct args *a, struct volume_config *v, const struct data_key *key, const struct super *s)
{
	struct diverged_sink *aside = NULL;
	struct store *memory, *wrapped;
	int r = open_memory(a, s, &memory);

	if (r < 0)
		return r;
	r = diverged_crypt_new(v->fs.diverged, key, &aside);
	if (r == 0)
		v->fs.diverged = aside;
	if (r == 0 && key->mode == ENCRYPTION_AEAD)
		r = batch_mac_new(key, &v->mac);
	if (r == 0)
		r = crypt_store_new(v->fs.store, memory, STAGING_BYTES, key, &wrapped);
	if (r < 0) {
		store_close(memory);
		complain("%s: %s", v->dir, strerror(-r));
		return r;
	}
	v->fs.store = wrapped;
	v->fs.encryption = key->mode;
	if (v->mac)
		v->fs.signer = (struct batch_signer){.sign = batch_mac_sign, .ctx = v->mac};
	v->key = *key;
	/* A core would be the keys on a disk. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		log_warn("the keys could be in a core dump: %s", strerror(errno));
	return 0;
}

int volume_encrypt(const struct args *a, struct volume_config *v, const struct data_key *key)
{
	struct super s;

	if (key->mode == ENCRYPTION_NONE)
		return 0;
	int r = peek(v->dir, &s);
	return r < 0 ? r : wrap(a, v, key, &s);
}

int volume_open_locked(const struct args *a, const char *dir, struct volume_config *v)
{
	struct data_key key;
	int r = volume_unlock(a, dir, &key);

	if (r < 0)
		return r;
	r = volume_open(dir, false, a->memory_bytes, v);
	if (r == 0) {
		r = volume_encrypt(a, v, &key);
		if (r < 0)
			volume_close(v);
	}
	data_key_wipe(&key);
	return r;
}

int volume_wrap_index(const struct volume_config *v, struct kv **kv)
{
	struct kv *wrapped;

	if (v->key.mode == ENCRYPTION_NONE)
		return 0;
	int r = kv_crypt_new(*kv, &v->key, 0, &wrapped);
	if (r < 0)
		*kv = kv_close(*kv);
	else
		*kv = wrapped;
	return r;
}

/* ---- format ---- */

int format_encryption(const struct args *a, enum encryption *ret)
{
	*ret = ENCRYPTION_NONE;
	if (!a->encrypt && !a->key)
		return 0;
	if (!a->encrypt || !a->key) {
		complain("--encrypt and --key go together: how to encrypt, and what opens the volume");
		return -EINVAL;
	}
	if (encryption_parse(a->encrypt, ret) < 0 || *ret == ENCRYPTION_NONE) {
		complain("--encrypt=%s: must be xts or aead", a->encrypt);
		return -EINVAL;
	}
	return 0;
}

static int make_keys(const struct args *a, const struct volume_config *v, const struct super *s, enum encryption mode,
		     struct data_key *ret)
{
	struct keys_block keys;
	struct secret secret;
	int r = secret_get(a->key, v->dir, true, &secret);

	if (r < 0)
		return r;
	r = data_key_random(mode, ret);
	keys_init(&keys, s->volume, mode);
	if (r == 0)
		r = keys_add(&keys, ret, &secret, &KEY_COST_USUAL, secret_source(a->key), clock_real_ns(&clock_system));
	secret_wipe(&secret);
	if (r == 0)
		r = keys_save(v->dir, &keys);
	if (r < 0)
		keys_complain(v->dir, r);
	return r;
}

static int given_or_random(uint8_t uuid[16])
{
	static const uint8_t none[16];

	return memcmp(uuid, none, sizeof(none)) == 0 ? uuid_random(uuid) : 0;
}

int format_encrypt(const struct args *a, struct volume_config *v, struct fs_format_options *o)
{
	struct data_key key;
	struct super s = {0};
	enum encryption mode;
	int r = format_encryption(a, &mode);

	if (r < 0 || mode == ENCRYPTION_NONE)
		return r;
	/* They are part of what is made now. */
	r = given_or_random(o->volume);
	if (r == 0)
		r = given_or_random(o->node);
	if (r < 0)
		return r;
	memcpy(s.volume, o->volume, sizeof(s.volume));
	memcpy(s.node, o->node, sizeof(s.node));
	r = make_keys(a, v, &s, mode, &key);
	if (r == 0)
		r = wrap(a, v, &key, &s);
	data_key_wipe(&key);
	return r;
}
