/*
 * make_entry.c: makes an entry in the root of a volume that is not mounted, past everything that a mount refuses.
 *
 *     make_entry DIR NAME directory|file
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fs/core/fs.h"
#include "fs/store/kv.h"

static int open_index(void *ctx, bool create, struct kv **ret_kv)
{
	const struct kv_rocksdb_options o = {.cache_bytes = 8 * MIB, .max_open_files = 64, .create = create};
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/index", (const char *)ctx);
	return kv_rocksdb_open(path, &o, ret_kv);
}

int main(int argc, char **argv)
{
	const struct fs_cred root = {.umask = 0};
	struct fs_attr a;
	struct fs *fs;

	if (argc != 4)
		return 2;
	struct fs_config config = {.kv_open = open_index, .kv_ctx = argv[1], .n_workers = 1, .no_threads = true};
	int r = store_posix_open(argv[1], false, &config.store);

	if (r == 0)
		r = fs_open(&config, &fs);
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", argv[1], strerror(-r));
		return 1;
	}
	r = fs_mknod(fs, &root, FS_ROOT_INO, argv[2], strcmp(argv[3], "file") == 0 ? S_IFREG | 0644 : S_IFDIR | 0755, 0, &a);
	if (r == 0)
		fs_forget(fs, a.ino, 1);
	else
		fprintf(stderr, "%s: %s\n", argv[2], strerror(-r));
	return fs_close(fs) < 0 || r < 0;
}
