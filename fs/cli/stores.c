/*
 * stores.c: object stores as a mounted volume gets them: the definition is the volume's, the credentials are this node's.
 *
 * Credentials of store NAME are DIR/credentials/NAME, 0600 in a directory 0700, written whole or not at all.
 */
#include "fs/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/replace_file.h"
#include "tier/definition.h"
#include "tier/object.h"
#include "tier/s3/credentials.h"
#include "tier/s3/s3.h"
#include "tier/store_dir.h"

#define FOLDER "credentials"

/* The directory of credentials, opened; `make`: made when it is not there. */
static int open_folder(const char *dir, bool make)
{
	CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dir_fd < 0)
		return -errno;
	if (make && mkdirat(dir_fd, FOLDER, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(dir_fd, FOLDER, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 || (make && fsync(dir_fd) < 0) ? -errno : fd;
}

int stores_keep_credentials(const char *dir, const char *name, const char *file, const char *profile)
{
	char message[OBJECT_MESSAGE_MAX] = "", text[sizeof(struct credentials) + 64];
	CLEANUP_CREDENTIALS struct credentials c = {{0}};
	struct credential_source *source;
	int r = credential_source_open(file, profile, &source, message);

	if (r < 0) {
		complain("no credentials for store %s: %s", name, *message ? message : strerror(-r));
		return r;
	}
	credential_source_get(source, &c);
	credential_source_close(source);
	CLEANUP_FD int folder = open_folder(dir, true);
	r = folder;
	if (r >= 0) {
		snprintf(text, sizeof(text), "access_key = %s\nsecret_key = %s\n%s%s%s", c.access_key, c.secret_key,
			 *c.session_token ? "session_token = " : "", c.session_token, *c.session_token ? "\n" : "");
		r = replace_file(folder, name, (struct slice){text, strlen(text)});
		OPENSSL_cleanse(text, sizeof(text));
	}
	if (r < 0)
		complain("the credentials for store %s cannot be kept in %s/" FOLDER ": %s", name, dir, strerror(-r));
	return r;
}

int stores_make_directory(const struct store_definition *d)
{
	const struct store_dir_config c = {.path = d->path, .create = true};
	char message[OBJECT_MESSAGE_MAX] = "";
	struct object_store *store;
	int r = store_dir_open(&c, &store, message);

	if (r == 0)
		object_store_close(store);
	else
		complain("%s cannot be a store: %s", d->path, *message ? message : strerror(-r));
	return r;
}

int stores_drop_credentials(const char *dir, const char *name)
{
	CLEANUP_FD int folder = open_folder(dir, false);

	if (folder < 0)
		return folder == -ENOENT ? 0 : folder;
	return unlinkat(folder, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int stores_open_object_store(void *dir, const char *name, const struct store_definition *d, struct object_store **ret_store,
			     char *message)
{
	const struct store_dir_config directory = {.path = d->path};
	char file[PATH_MAX];

	if (d->kind == STORE_DIRECTORY)
		return store_dir_open(&directory, ret_store, message);
	if (snprintf(file, sizeof(file), "%s/" FOLDER "/%s", (const char *)dir, name) >= (int)sizeof(file))
		return -ENAMETOOLONG;
	const struct s3_config c = {.definition = d, .credentials_file = access(file, F_OK) == 0 ? file : NULL};
	return s3_open(&c, ret_store, message);
}
