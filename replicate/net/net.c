/*
 * net.c: see net.h.
 *
 * Names are looked up by a thread of their own that nobody waits for longer than he wants: getaddrinfo() may take half a minute
 * and cannot be interrupted.  What such a thread and its caller share is counted, and the last of the two frees it.  There is a
 * limit to how many may be on their way.
 */
#include "replicate/net/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "replicate/peers.h"
#include "replicate/net/thread.h"

#define LOOKUPS_MAX     16
#define USER_TIMEOUT_MS 10000 /* sessions themselves notice a silent peer earlier */
#define BACKLOG         64

static void set_option(int fd, int level, int name, int value)
{
	(void)setsockopt(fd, level, name, &value, sizeof(value)); /* each only makes things better */
}

static void tune(int fd)
{
	set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 2);
	set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
	set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS);
}

/* ---- addresses ---- */

bool address_is_any(const char *address)
{
	char host[WIRE_TEXT_MAX + 1];
	uint16_t port;

	return address_parse(address, host, sizeof(host), &port) == 0 &&
	       (strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0);
}

int address_print(const char *host, uint16_t port, char *ret, size_t cap)
{
	int n = snprintf(ret, cap, strchr(host, ':') ? "[%s]:%u" : "%s:%u", host, port);

	return n >= 0 && (size_t)n < cap ? 0 : -ENAMETOOLONG;
}

static void host_text(const struct sockaddr_storage *a, char ret_text[NET_HOST_TEXT])
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;

	ret_text[0] = '\0';
	if (a->ss_family == AF_INET)
		inet_ntop(AF_INET, &v4->sin_addr, ret_text, NET_HOST_TEXT);
	else if (a->ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) /* a socket for both kinds */
		inet_ntop(AF_INET, &v6->sin6_addr.s6_addr[12], ret_text, NET_HOST_TEXT);
	else if (a->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &v6->sin6_addr, ret_text, NET_HOST_TEXT);
}

void net_peer_host(int fd, char ret_text[NET_HOST_TEXT])
{
	struct sockaddr_storage a = {0};
	socklen_t len = sizeof(a);

	(void)getpeername(fd, (struct sockaddr *)&a, &len); /* leaves AF_UNSPEC */
	host_text(&a, ret_text);
}

static bool is_reachable(const struct ifaddrs *i, int family)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)i->ifa_addr;

	return i->ifa_addr && i->ifa_addr->sa_family == family && (i->ifa_flags & IFF_UP) && !(i->ifa_flags & IFF_LOOPBACK) &&
	       !(family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr));
}

int net_own_host(char ret_text[NET_HOST_TEXT])
{
	static const int families[] = {AF_INET, AF_INET6};
	struct ifaddrs *all;
	int r = -EADDRNOTAVAIL;

	if (getifaddrs(&all) < 0)
		return -errno;
	for (size_t f = 0; r < 0 && f < ARRAY_SIZE(families); f++)
		for (const struct ifaddrs *i = all; r < 0 && i; i = i->ifa_next)
			if (is_reachable(i, families[f])) {
				struct sockaddr_storage a = {0};

				memcpy(&a, i->ifa_addr,
				       families[f] == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
				host_text(&a, ret_text);
				r = 0;
			}
	freeifaddrs(all);
	return r;
}

/* ---- waiting ---- */

static int wait_ms(int64_t deadline_ns)
{
	int64_t left = deadline_ns - clock_mono_ns(&clock_system);

	return left <= 0 ? 0 : (int)min_u64(div_round_up((uint64_t)left, 1000000), 60000);
}

int net_wait(int fd, short events, int64_t deadline_ns, int wake_fd)
{
	struct pollfd p[] = {{.fd = fd, .events = events}, {.fd = wake_fd, .events = POLLIN}};

	for (;;) {
		int n = poll(p, ARRAY_SIZE(p), wait_ms(deadline_ns));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && p[1].revents)
			return -ECANCELED;
		if (n > 0)
			return 0;
		if (clock_mono_ns(&clock_system) >= deadline_ns)
			return -ETIMEDOUT;
	}
}

/* ---- names ---- */

struct lookup {
	atomic_int users; /* the thread and who asked */
	int done_fd;      /* eventfd: written once */
	atomic_bool done; /* what follows is there */
	char host[WIRE_TEXT_MAX + 1], port[8];
	struct addrinfo *found;
	int error; /* 0 or -errno */
};

static atomic_int lookups;

static void lookup_put(struct lookup *l)
{
	if (atomic_fetch_sub(&l->users, 1) > 1)
		return;
	if (l->found)
		freeaddrinfo(l->found);
	close(l->done_fd);
	free(l);
}

static int resolve(const char *host, const char *port, int flags, struct addrinfo **ret)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags};

	switch (getaddrinfo(host, port, &hints, ret)) {
	case 0:
		return 0;
	case EAI_MEMORY:
		return -ENOMEM;
	default:
		return -ENXIO;
	}
}

static void *lookup_main(void *p)
{
	struct lookup *l = p;

	l->error = resolve(l->host, l->port, AI_ADDRCONFIG, &l->found);
	atomic_store(&l->done, true);
	(void)eventfd_write(l->done_fd, 1);
	lookup_put(l);
	atomic_fetch_sub(&lookups, 1);
	return NULL;
}

static int lookup_start(const char *host, const char *port, struct lookup **ret)
{
	pthread_t thread;
	struct lookup *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = l->done_fd < 0 ? -errno : 0;
	if (r < 0) {
		free(l);
		return r;
	}
	atomic_init(&l->users, 2);
	snprintf(l->host, sizeof(l->host), "%s", host);
	snprintf(l->port, sizeof(l->port), "%s", port);
	r = thread_start(&thread, "lookup", lookup_main, l);
	if (r < 0) {
		atomic_store(&l->users, 1);
		lookup_put(l);
		return r;
	}
	pthread_detach(thread);
	*ret = l;
	return 0;
}

static int lookup_slowly(const char *host, const char *port, int64_t deadline_ns, int wake_fd, struct addrinfo **ret)
{
	struct lookup *l;

	if (atomic_fetch_add(&lookups, 1) >= LOOKUPS_MAX) {
		atomic_fetch_sub(&lookups, 1);
		return -EBUSY;
	}
	int r = lookup_start(host, port, &l);
	if (r < 0) {
		atomic_fetch_sub(&lookups, 1);
		return r;
	}
	r = net_wait(l->done_fd, POLLIN, deadline_ns, wake_fd);
	if (r == 0)
		r = atomic_load(&l->done) ? l->error : -EIO;
	if (r == 0)
		*ret = TAKE_PTR(l->found);
	lookup_put(l);
	return r;
}

static int lookup(const char *address, int64_t deadline_ns, int wake_fd, struct addrinfo **ret)
{
	char host[WIRE_TEXT_MAX + 1], port[8];
	uint16_t number;

	int r = address_parse(address, host, sizeof(host), &number);
	if (r < 0)
		return r;
	snprintf(port, sizeof(port), "%u", number);
	/* Numbers need nobody to be asked. */
	if (resolve(host, port, AI_NUMERICHOST, ret) == 0)
		return 0;
	return lookup_slowly(host, port, deadline_ns, wake_fd, ret);
}

/* ---- sockets ---- */

static int connect_one(const struct addrinfo *a, int64_t deadline_ns, int wake_fd, int *ret_fd)
{
	CLEANUP_FD int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int error = 0;
	socklen_t len = sizeof(error);

	if (fd < 0)
		return -errno;
	tune(fd);
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS)
		return -errno;
	int r = net_wait(fd, POLLOUT, deadline_ns, wake_fd);
	if (r < 0)
		return r;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
		return -errno;
	if (error == 0)
		*ret_fd = TAKE_FD(fd);
	return -error;
}

int net_connect(const char *address, int64_t deadline_ns, int wake_fd, int *ret_fd)
{
	struct addrinfo *all = NULL;
	uint64_t left = 0;

	int r = lookup(address, deadline_ns, wake_fd, &all);
	if (r < 0)
		return r;
	for (const struct addrinfo *a = all; a; a = a->ai_next)
		left++;
	r = -EHOSTUNREACH;
	/* An address that does not answer takes no more than its share of the time. */
	for (const struct addrinfo *a = all; a && r < 0 && r != -ECANCELED; a = a->ai_next, left--) {
		int64_t now = clock_mono_ns(&clock_system);

		r = connect_one(a, now + (deadline_ns - now) / (int64_t)left, wake_fd, ret_fd);
	}
	freeaddrinfo(all);
	return r;
}

static int listen_one(const struct addrinfo *a, int *ret_fd)
{
	CLEANUP_FD int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (a->ai_family == AF_INET6)
		set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int port_of(int fd, uint16_t *ret)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		return -errno;
	*ret = ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
	return 0;
}

int net_listen(const char *address, int *ret_fd, uint16_t *ret_port)
{
	char host[WIRE_TEXT_MAX + 1], port[8];
	CLEANUP_FD int fd = -1;
	struct addrinfo *all = NULL;
	uint16_t number;

	int r = address_parse(address, host, sizeof(host), &number);
	if (r < 0)
		return r;
	snprintf(port, sizeof(port), "%u", number);
	r = resolve(host, port, AI_PASSIVE, &all);
	if (r < 0)
		return r;
	r = -EADDRNOTAVAIL;
	for (const struct addrinfo *a = all; a && r < 0; a = a->ai_next)
		r = listen_one(a, &fd);
	freeaddrinfo(all);
	if (r == 0)
		r = port_of(fd, ret_port);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

int net_accept(int listen_fd, int *ret_fd)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	/* Errors of a connection that came and went are that connection's (accept(2)). */
	if (fd < 0)
		return errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM ? -errno : -EAGAIN;
	tune(fd);
	*ret_fd = fd;
	return 0;
}
