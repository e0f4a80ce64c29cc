/*
 * net.h: TCP sockets: listening, connecting by name within a time, polling together with a wake-up.
 *
 * All sockets are non-blocking, close-on-exec, without delay (TCP_NODELAY), and find a dead peer within seconds (keepalive,
 * TCP_USER_TIMEOUT).  `wake_fd` is an eventfd of the caller: whoever writes to it ends the wait with -ECANCELED; -1: nobody does.
 * Ownership: sockets are the caller's.  Threads: any.
 * Errors: -errno; -ENXIO a name that is not known, -ETIMEDOUT, -ECANCELED.
 */
#pragma once

#include "base/util.h"

#define NET_HOST_TEXT 64

MUST_CHECK int net_listen(const char *address, int *ret_fd, uint16_t *ret_port);
/* -EAGAIN: nobody is waiting; -EMFILE and the like. */
MUST_CHECK int net_accept(int listen_fd, int *ret_fd);
void net_peer_host(int fd, char ret_text[NET_HOST_TEXT]); /* numeric; empty when it is gone */
/* Every address of the name in turn, until `deadline_ns` of clock_system. */
MUST_CHECK int net_connect(const char *address, int64_t deadline_ns, int wake_fd, int *ret_fd);
/* Waits for `events` on fd until the deadline: 0, -ETIMEDOUT, -ECANCELED. */
MUST_CHECK int net_wait(int fd, short events, int64_t deadline_ns, int wake_fd);

/* "0.0.0.0:7" and "[::]:7" listen everywhere; nobody can dial them. */
bool address_is_any(const char *address);
/* "host:port" with the brackets that an IPv6 host takes.  -ENAMETOOLONG. */
MUST_CHECK int address_print(const char *host, uint16_t port, char *ret, size_t cap);
/* The first address of this machine that others may reach; -EADDRNOTAVAIL. */
MUST_CHECK int net_own_host(char ret_text[NET_HOST_TEXT]);
