/* program.c: posix_spawn(3), which asks for no memory a large daemon would have to double, and waitpid(2). */
#include "base/program.h"

#include <errno.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

int program_run(const char *const argv[], int *ret_status)
{
	pid_t pid;
	int r = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)(uintptr_t)argv, environ);

	if (r)
		return -r;
	while (waitpid(pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}
