/*
 * sdnotify.c: what a service of Type=notify tells systemd, as sd_notify(3) describes it: one datagram to $NOTIFY_SOCKET.
 *
 * The manager may itself be waiting for this very mount, so the send has a limit: a word that nobody takes is lost, a mount that
 * waits for ever for its manager would be worse.
 */
#include "fs/cli/sdnotify.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include "base/util.h"

#ifndef SDNOTIFY_WAIT_MS
#define SDNOTIFY_WAIT_MS 5000
#endif

/* "/path", or "@name" for one in the abstract namespace, where the @ stands for a NUL and nothing ends the name. */
static int address_make(const char *text, struct sockaddr_un *ret, socklen_t *ret_len)
{
	const size_t len = strlen(text);

	if ((text[0] != '/' && text[0] != '@') || len < 2)
		return -EAFNOSUPPORT;
	if (len >= sizeof(ret->sun_path))
		return -ENAMETOOLONG;
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(ret->sun_path, text, len);
	if (text[0] == '@')
		ret->sun_path[0] = '\0';
	*ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
	return 0;
}

int sdnotify(const char *assignments)
{
	const struct timeval wait = {SDNOTIFY_WAIT_MS / 1000, SDNOTIFY_WAIT_MS % 1000 * 1000};
	const char *text = getenv(SDNOTIFY_VARIABLE);
	struct sockaddr_un address;
	socklen_t len;

	if (!text || !*text)
		return 0;
	int r = address_make(text, &address, &len);
	if (r < 0)
		return r;
	CLEANUP_FD int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0)
		return -errno;
	while (sendto(fd, assignments, strlen(assignments), MSG_NOSIGNAL, (const struct sockaddr *)&address, len) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}
