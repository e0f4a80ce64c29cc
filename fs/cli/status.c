/*
 * status.c: `status`, `info` and `sync`: what can be asked of a volume while it is mounted.
 *
 * status asks the daemon, through the extended attribute clawfs.status of the mountpoint.  info reads the superblock, so
 * it also answers for a volume that is not mounted.  sync is a barrier: fsync of a directory covers everything before it.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/store/super_format.h"

int status_read(const char *path, json_t **ret_object)
{
	json_t *object;
	int r = attribute_json(path, "status", &object);

	if (r < 0)
		return r;
	if (!json_is_object(object)) {
		json_decref(object);
		return -EPROTO;
	}
	*ret_object = object;
	return 0;
}

void complain_unreachable(const char *path, int error)
{
	switch (-error) {
	case ENODATA:
		complain("%s: no clawfs volume is mounted here; `findmnt -t fuse.clawfs` lists them", path);
		break;
	case ENOTCONN:
	case ECONNABORTED:
		complain("%s: the daemon of this mount is gone, its log says why; `clawfs umount %s`, then mount it again", path,
			 path);
		break;
	case EPERM:
		complain("%s: only root and the owner of the mount's root directory may ask this", path);
		break;
	case EPROTO:
		complain("%s: the daemon's status cannot be understood: is it of another version?", path);
		break;
	default:
		complain("%s: %s", path, strerror(-error));
	}
}

/* First of all, where it is. */
static json_t *facts_with_mount(json_t *facts, const char *path)
{
	struct mount_entry m;
	json_t *all;

	if (mounts_find(path, &m) < 0)
		return facts;
	all = json_pack("{s:o, s:o}", "mountpoint", bytes_json((struct slice){m.mountpoint, strlen(m.mountpoint)}), "source",
			bytes_json((struct slice){m.source, strlen(m.source)}));
	mount_entry_free(&m);
	if (!all)
		return facts;
	json_object_update(all, facts);
	json_decref(facts);
	return all;
}

static void facts_show(const json_t *facts, bool json)
{
	if (json)
		json_print(facts);
	else
		facts_print(facts);
}

int verb_status(const struct args *a)
{
	json_t *facts;
	int r = status_read(a->operand[0], &facts);

	if (r < 0) {
		complain_unreachable(a->operand[0], r);
		return EXIT_FAILED;
	}
	facts = facts_with_mount(facts, a->operand[0]);
	facts_show(facts, a->json);
	json_decref(facts);
	return EXIT_OK;
}

json_t *super_facts(const struct super *s)
{
	const uint64_t segment = s->journal_segment_kib * KIB;
	char volume[UUID_TEXT], node[UUID_TEXT];
	const struct {
		const char *name;
		uint64_t n;
	} numbers[] = {
	    {"format_version", s->version},
	    {"compat_features", s->compat},
	    {"ro_compat_features", s->ro_compat},
	    {"incompat_features", s->incompat},
	    {"epoch", s->epoch},
	    {"incarnation", s->incarnation},
	    {"generation", s->generation},
	    {"created_seconds", (uint64_t)(s->created_ns / NSEC_PER_SEC)},
	    {"journal_bytes", segment * s->journal_segments},
	    {"journal_segment_bytes", segment},
	    {"chunk_bytes", s->chunk_kib * KIB},
	    {"host_reserve_bytes", s->host_reserve},
	};
	json_t *facts = json_object();

	uuid_text(s->volume, volume);
	uuid_text(s->node, node);
	json_object_set_new(facts, "volume", json_string(volume));
	json_object_set_new(facts, "encrypted", json_boolean(s->incompat & SUPER_ENCRYPTED));
	json_object_set_new(facts, "node", json_string(node));
	json_object_set_new(facts, "label", bytes_json((struct slice){s->label, strlen(s->label)}));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_set_new(facts, numbers[i].name, json_integer((json_int_t)numbers[i].n));
	json_object_set_new(facts, "size_limit_bytes",
			    s->max_blocks == UINT64_MAX ? json_null() : json_integer((json_int_t)(s->max_blocks * BLOCK_SIZE)));
	json_object_set_new(facts, "closed_cleanly", json_boolean(s->clean));
	return facts;
}

char *directory_of(const char *path)
{
	struct mount_entry m;
	json_t *facts;
	char *dir = NULL;

	if (mounts_find(path, &m) < 0 || !mount_is_clawfs(&m))
		return realpath(path, NULL);
	if (status_read(path, &facts) == 0) {
		const char *source = json_string_value(json_object_get(facts, "source"));

		dir = strdup(source ? source : m.source);
		json_decref(facts);
	} else {
		dir = strdup(m.source);
	}
	mount_entry_free(&m);
	return dir;
}

int verb_info(const struct args *a)
{
	struct super copy[2];
	bool valid[2];
	CLEANUP_FREE char *dir = directory_of(a->operand[0]);
	int r = dir ? volume_peek(dir, copy, valid) : -errno;

	if (r < 0) {
		volume_complain("no facts about", a->operand[0], r);
		return EXIT_FAILED;
	}
	const struct super *s = volume_newest(copy, valid);
	if (!s) {
		volume_complain("no facts about", a->operand[0], -EBADMSG);
		return EXIT_FAILED;
	}
	json_t *facts = super_facts(s);
	json_object_set_new(facts, "superblock_copies_valid", json_integer(valid[0] + valid[1]));
	json_object_set_new(facts, "source", json_string(dir));
	facts = facts_with_mount(facts, a->operand[0]);
	facts_show(facts, a->json);
	json_decref(facts);
	return EXIT_OK;
}

/*
 * syncfs(2) makes the kernel hand over the dirty pages it holds; fsync of the directory then makes the daemon commit. In
 * that order, so that the pages are among what the commit covers.
 */
int verb_sync(const struct args *a)
{
	const char *path = a->operand[0];
	json_t *facts;
	int r = status_read(path, &facts);

	if (r < 0) {
		complain_unreachable(path, r);
		return EXIT_FAILED;
	}
	json_decref(facts);
	CLEANUP_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		complain("%s: %s", path, strerror(errno));
		return EXIT_FAILED;
	}
	if (syncfs(fd) < 0 || fsync(fd) < 0) {
		complain("%s: not everything is durable: %s; `clawfs status %s` says why", path, strerror(errno), path);
		return EXIT_FAILED;
	}
	return EXIT_OK;
}
