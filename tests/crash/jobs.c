/* jobs.c: a process a job, and the signals they end by. */
#include "tests/crash/jobs.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(const struct jobs *j, const pid_t *pids, unsigned n)
{
	int status;
	pid_t pid = wait(&status);

	for (unsigned i = 0; i < n; i++)
		if (pid > 0 && pids[i] == pid && WIFSIGNALED(status))
			j->died(j->ctx, i, WTERMSIG(status) == SIGALRM ? "does not end" : strsignal(WTERMSIG(status)));
}

void jobs_run(const struct jobs *j, unsigned n)
{
	pid_t pids[JOBS_MAX] = {0};

	if (n == 1) {
		j->work(j->ctx, 0);
		return;
	}
	for (unsigned i = 0; i < n; i++) {
		fflush(stdout);
		pids[i] = fork();
		if (pids[i] == 0) {
			j->work(j->ctx, i);
			_exit(0);
		}
	}
	for (unsigned i = 0; i < n; i++)
		reap(j, pids, n);
}
