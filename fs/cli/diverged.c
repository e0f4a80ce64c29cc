/*
 * diverged.c: what was kept aside when this node followed another history than its own: listed, and written out as files.
 *
 * Everything is in the volume's directory and may be read while it is mounted; a mountpoint only says which directory that is.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/store/diverged.h"

static int complain_volume(const char *path)
{
	volume_complain("no volume at", path, -errno);
	return EXIT_FAILED;
}

static void list_print(const json_t *tails)
{
	const json_t *tail;
	size_t i;

	if (json_array_size(tails) == 0)
		printf("nothing was kept aside\n");
	json_array_foreach((json_t *)(uintptr_t)tails, i, tail) facts_print(tail);
}

int verb_diverged_list(const struct args *a)
{
	CLEANUP_FREE char *dir = directory_of(a->operand[0]);
	CLEANUP_BUF struct buf text = {0};

	if (!dir)
		return complain_volume(a->operand[0]);
	int r = diverged_list(dir, &text);
	json_t *tails = r < 0 ? NULL : json_loadb((const char *)text.p, text.len, 0, NULL);
	if (!json_is_array(tails)) {
		volume_complain("cannot list what was kept aside in", dir, r < 0 ? r : -EUCLEAN);
		json_decref(tails);
		return EXIT_FAILED;
	}
	if (a->json)
		json_print(tails);
	else
		list_print(tails);
	json_decref(tails);
	return EXIT_OK;
}

int verb_diverged_export(const struct args *a)
{
	const char *id = a->operand[0], *to = a->operand[2];
	CLEANUP_FREE char *dir = directory_of(a->operand[1]);
	struct data_key key;

	if (!dir)
		return complain_volume(a->operand[1]);
	if (volume_unlock(a, dir, &key) < 0)
		return EXIT_FAILED;
	int r = diverged_export(dir, id, to, key.mode == ENCRYPTION_NONE ? NULL : &key);
	data_key_wipe(&key);
	if (r == -ENOENT || r == -EINVAL)
		complain("%s: nothing of that id was kept aside here; `clawfs diverged list %s` names what was", id,
			 a->operand[1]);
	else if (r == -EEXIST)
		complain("%s is there already: name a directory that is not", to);
	else if (r < 0)
		complain("writing to %s: %s", to, strerror(-r));
	return r < 0 ? EXIT_FAILED : EXIT_OK;
}
