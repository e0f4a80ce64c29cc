/*
 * upgrade.c: `clawfs upgrade --check`: can this release mount that volume, before anybody unmounts it from another one?
 *
 * Reads the superblock past the lock, so the release that has the volume mounted goes on.  The rule is FORMAT.md's: a higher
 * version or an unknown incompat feature shuts out, an unknown ro_compat feature leaves reading, an unknown compat feature
 * changes nothing. What a mount does by the same rule is fs/core/open.c; a test asks both about every single bit.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "fs/store/super_format.h"

enum feature_kind { KIND_COMPAT, KIND_RO_COMPAT, KIND_INCOMPAT, N_KINDS };

static const char *const kind_names[N_KINDS] = {"compat", "ro_compat", "incompat"};

/* What this release knows. */
static const struct {
	enum feature_kind kind;
	uint64_t bit;
	const char *name;
} features[] = {
    {KIND_INCOMPAT, SUPER_TIERED, "tiered"},         {KIND_INCOMPAT, SUPER_SNAPSHOTS, "snapshots"},
    {KIND_INCOMPAT, SUPER_SHARED, "shared blocks"},  {KIND_INCOMPAT, SUPER_ROLLBACK, "rollback"},
    {KIND_INCOMPAT, SUPER_COMPRESSED, "compressed"}, {KIND_INCOMPAT, SUPER_ENCRYPTED, "encrypted"},
};

/* Each with its exit code. */
enum access { ACCESS_WRITE = EXIT_OK, ACCESS_READ = EXIT_FAILED, ACCESS_NONE = EXIT_DAMAGED };

struct verdict {
	char volume[UUID_TEXT]; /* "" of a newer version: only magic, version and CRC are where they were */
	uint32_t version;
	uint64_t bits[N_KINDS];
	uint64_t unknown[N_KINDS];
	enum access access;
};

/* What a whole copy of the superblock says; -EPROTONOSUPPORT with *ret_version set. */
static int read_copy(int fd, unsigned copy, struct super *ret, uint32_t *ret_version)
{
	struct super_block block;
	ssize_t n = pread(fd, &block, sizeof(block), copy * (off_t)SUPER_BYTES);

	if (n != (ssize_t)sizeof(block))
		return n < 0 ? -errno : -EBADMSG;
	int r = super_decode(&block, ret);
	if (r == -EPROTONOSUPPORT)
		*ret_version = le32_get(block.version);
	return r;
}

static int open_super(const char *dir)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir_fd < 0)
		return -errno;
	int fd = openat(dir_fd, "super", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	return fd >= 0 ? fd : errno == ENOENT ? -ENODATA : -errno;
}

static uint64_t known(enum feature_kind kind)
{
	uint64_t bits = 0;

	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		bits |= features[i].kind == kind ? features[i].bit : 0;
	return bits;
}

static void judge_features(const struct super *s, struct verdict *v)
{
	const uint64_t bits[N_KINDS] = {s->compat, s->ro_compat, s->incompat};

	for (enum feature_kind k = 0; k < N_KINDS; k++) {
		v->bits[k] = bits[k];
		v->unknown[k] = bits[k] & ~known(k);
	}
	v->access = v->unknown[KIND_INCOMPAT] ? ACCESS_NONE : v->unknown[KIND_RO_COMPAT] ? ACCESS_READ : ACCESS_WRITE;
}

/* A copy of a newer version is never skipped in favour of an older one: it may be the one in force. */
static int judge(const char *dir, struct verdict *ret)
{
	struct super copy[2];
	bool valid[2];
	int r[2];
	CLEANUP_FD int fd = open_super(dir);

	if (fd < 0)
		return fd;
	*ret = (struct verdict){.access = ACCESS_NONE};
	for (unsigned i = 0; i < 2; i++) {
		uint32_t version = 0;

		r[i] = read_copy(fd, i, &copy[i], &version);
		valid[i] = r[i] == 0;
		ret->version = version > ret->version ? version : ret->version;
	}
	if (ret->version)
		return 0;
	const struct super *s = volume_newest(copy, valid);
	if (!s)
		return r[0] == -EUCLEAN ? r[0] : r[1];
	ret->version = s->version;
	uuid_text(s->volume, ret->volume);
	judge_features(s, ret);
	return 0;
}

static const char *bit_name(enum feature_kind kind, unsigned bit, char *text, size_t cap)
{
	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		if (features[i].kind == kind && features[i].bit == UINT64_C(1) << bit)
			return features[i].name;
	snprintf(text, cap, "bit-%u", bit);
	return text;
}

static json_t *names_json(enum feature_kind kind, uint64_t bits)
{
	json_t *names = json_array();
	char text[16];

	for (unsigned i = 0; i < 64; i++)
		if (bits >> i & 1)
			json_array_append_new(names, json_string(bit_name(kind, i, text, sizeof(text))));
	return names;
}

static const char *access_name(enum access access)
{
	return access == ACCESS_WRITE ? "read-write" : access == ACCESS_READ ? "read-only" : "none";
}

/* Features are null where a newer version may keep them elsewhere. */
static json_t *verdict_json(const struct verdict *v)
{
	json_t *o = json_object(), *unknown = json_object(), *all = json_object();

	json_object_set_new(o, "volume", *v->volume ? json_string(v->volume) : json_null());
	json_object_set_new(o, "format_version", json_integer(v->version));
	json_object_set_new(o, "newest_known_version", json_integer(SUPER_FORMAT_VERSION));
	for (enum feature_kind k = 0; k < N_KINDS; k++) {
		json_object_set_new(o, kind_names[k], *v->volume ? names_json(k, v->bits[k]) : json_null());
		json_object_set_new(unknown, kind_names[k], *v->volume ? names_json(k, v->unknown[k]) : json_null());
		json_object_set_new(all, kind_names[k], names_json(k, known(k)));
	}
	json_object_set_new(o, "unknown", unknown);
	json_object_set_new(o, "known_to_this_release", all);
	json_object_set_new(o, "access", json_string(access_name(v->access)));
	return o;
}

static void print_names(enum feature_kind kind, uint64_t bits, const char *before)
{
	char text[16];

	for (unsigned i = 0; i < 64; i++)
		if (bits >> i & 1) {
			printf("%s%s", before, bit_name(kind, i, text, sizeof(text)));
			before = " ";
		}
}

static void verdict_print(const struct verdict *v)
{
	printf("%-28s %s\n", "volume", *v->volume ? v->volume : "-");
	printf("%-28s %" PRIu32 " (this clawfs knows versions up to %u)\n", "format_version", v->version, SUPER_FORMAT_VERSION);
	for (enum feature_kind k = 0; *v->volume && k < N_KINDS; k++) {
		printf("%-28s", kind_names[k]);
		print_names(k, v->bits[k], " ");
		print_names(k, v->unknown[k], "; not known: ");
		printf("%s\n", v->bits[k] ? "" : " none");
	}
	printf("%-28s %s\n", "access", access_name(v->access));
}

int verb_upgrade(const struct args *a)
{
	struct verdict v;

	if (!a->check) {
		complain("nothing has to be converted: this release mounts volumes of older ones as they are; `clawfs upgrade "
			 "--check` "
			 "tells whether it can mount this one");
		return EXIT_USAGE;
	}
	CLEANUP_FREE char *dir = directory_of(a->operand[0]);
	int r = dir ? judge(dir, &v) : -errno;
	if (r < 0) {
		volume_complain("cannot check", a->operand[0], r);
		return EXIT_FSCK_ERROR;
	}
	if (a->json) {
		json_t *o = verdict_json(&v);

		json_print(o);
		json_decref(o);
	} else {
		verdict_print(&v);
	}
	return (int)v.access;
}
