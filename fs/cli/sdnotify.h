/*
 * sdnotify.h: telling the service manager how a mount in the foreground does.
 *
 * Threads: any, as long as nobody changes the environment.  Errors: -errno of socket(2) or sendto(2); -EAGAIN when nobody took it
 * for five seconds; -EAFNOSUPPORT and -ENAMETOOLONG for what is no address.  Format: sd_notify(3).
 */
#pragma once

#include "base/util.h"

#define SDNOTIFY_VARIABLE "NOTIFY_SOCKET"

/* Lines of NAME=VALUE: "READY=1\nSTATUS=mounted".  0 as well where nobody wants to know. */
MUST_CHECK int sdnotify(const char *assignments);
