/* test_sdnotify.c: words to a service manager, over sockets with a path and in the abstract namespace. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "fs/cli/sdnotify.h"
#include "tests/unit/tempdir.h"

#define WORDS "READY=1\nSTATUS=mounted"

/* A manager's socket with `text` as its $NOTIFY_SOCKET; the longest there is fills sun_path. */
static int listen_at(const char *text)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	assert_true(fd >= 0);
	memcpy(a.sun_path, text, strlen(text));
	if (*text == '@')
		a.sun_path[0] = '\0';
	assert_int_equal(bind(fd, (struct sockaddr *)&a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text))), 0);
	assert_int_equal(setenv(SDNOTIFY_VARIABLE, text, 1), 0);
	return fd;
}

static void expect(int fd, const char *words)
{
	char got[256];
	ssize_t n = recv(fd, got, sizeof(got) - 1, 0);

	assert_int_equal(n, strlen(words));
	got[n] = '\0';
	assert_string_equal(got, words);
	assert_int_equal(recv(fd, got, sizeof(got), 0), -1); /* one datagram, and no more */
	assert_int_equal(errno, EAGAIN);
}

static unsigned n_descriptors(void)
{
	unsigned n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Every length of a name that fits, up to the 107 bytes and the last one without a NUL behind it. */
static void a_word_arrives_whatever_the_length_of_the_address(void **state)
{
	const size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;
	char text[128], dir[256];

	(void)state;
	tempdir_make(dir);
	for (size_t len = 2; len <= most; len++) {
		int n = snprintf(text, sizeof(text), "@t%d-", (int)getpid());

		memset(text + n, 'a', sizeof(text) - (size_t)n);
		text[len] = '\0';
		if (len <= (size_t)n)
			continue; /* shorter names might be somebody else's */
		int fd = listen_at(text);
		assert_int_equal(sdnotify(WORDS), 0);
		expect(fd, WORDS);
		close(fd);
	}
	for (size_t len = strlen(dir) + 2; len <= most; len++) {
		int n = snprintf(text, sizeof(text), "%s/", dir);

		memset(text + n, 'a', sizeof(text) - (size_t)n);
		text[len] = '\0';
		int fd = listen_at(text);
		assert_int_equal(sdnotify(WORDS), 0);
		expect(fd, WORDS);
		close(fd);
		assert_int_equal(unlink(text), 0);
	}
	tempdir_remove(dir);
}

static void nobody_asked_is_no_error(void **state)
{
	(void)state;
	unsetenv(SDNOTIFY_VARIABLE);
	assert_int_equal(sdnotify(WORDS), 0);
	setenv(SDNOTIFY_VARIABLE, "", 1);
	assert_int_equal(sdnotify(WORDS), 0);
}

static void what_is_no_address_is_refused(void **state)
{
	static const struct {
		const char *text;
		int error;
	} cases[] = {{"/", -EAFNOSUPPORT},        {"@", -EAFNOSUPPORT},
		     {"relative", -EAFNOSUPPORT}, {"vsock:2:1234", -EAFNOSUPPORT},
		     {"/not/there", -ENOENT},     {"@clawfs-test-nobody-is-here", -ECONNREFUSED}};
	char text[256];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		setenv(SDNOTIFY_VARIABLE, cases[i].text, 1);
		assert_int_equal(sdnotify(WORDS), cases[i].error);
	}
	for (size_t len = sizeof(((struct sockaddr_un *)0)->sun_path); len < sizeof(text); len++) {
		memset(text, 'a', len);
		text[0] = len % 2 ? '/' : '@';
		text[len] = '\0';
		setenv(SDNOTIFY_VARIABLE, text, 1);
		assert_int_equal(sdnotify(WORDS), -ENAMETOOLONG);
	}
}

/* A manager that takes nothing must not hold up the mount it may be waiting for. */
static void a_manager_that_hangs_is_given_up(void **state)
{
	char text[64];
	int r = 0, n = 0;

	(void)state;
	snprintf(text, sizeof(text), "@t%d-full", (int)getpid());
	int fd = listen_at(text);
	while (r == 0 && n++ < 100000)
		r = sdnotify(WORDS);
	assert_int_equal(r, -EAGAIN);
	close(fd);
}

static void no_descriptor_is_left(void **state)
{
	char text[64];
	unsigned before = n_descriptors();

	(void)state;
	snprintf(text, sizeof(text), "@t%d-fds", (int)getpid());
	int fd = listen_at(text);
	assert_int_equal(sdnotify(WORDS), 0);
	close(fd);
	assert_int_equal(sdnotify(WORDS), -ECONNREFUSED);
	assert_int_equal(n_descriptors(), before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_word_arrives_whatever_the_length_of_the_address),
	    cmocka_unit_test(nobody_asked_is_no_error),
	    cmocka_unit_test(what_is_no_address_is_refused),
	    cmocka_unit_test(a_manager_that_hangs_is_given_up),
	    cmocka_unit_test(no_descriptor_is_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
