/*
 * credentials.c: see credentials.h.
 *
 * A source is opened once: it finds out where the credentials are and reads them.  When the store refuses them, the file is read
 * again if it is another one than last time: keys are rotated by writing the file, without a restart.  Credentials from the
 * environment stay what they are.
 */
#include "tier/s3/credentials.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/lock.h"
#include "base/log.h"
#include "tier/object.h"

#define PROFILE_MAX 128u

/* What tells one content of a file from another. */
struct version {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec modified, changed;
};
struct credential_source {
	char *path; /* NULL: from the environment */
	char profile[PROFILE_MAX];
	struct mutex lock;
	/* guarded by lock */
	struct version version;
	struct credentials now;
};

void credentials_wipe(struct credentials *c)
{
	OPENSSL_cleanse(c, sizeof(*c));
}

static int complain(char *message, int error, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int complain(char *message, int error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, OBJECT_MESSAGE_MAX, fmt, ap);
	va_end(ap);
	return error;
}

/* Values become parts of HTTP headers: printable, and no spaces. */
static bool is_plain(const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((uint8_t)p[i] <= ' ' || (uint8_t)p[i] >= 127)
			return false;
	return true;
}

/* ---- the formats */

struct parser {
	struct credentials *ret;
	const char *profile;
	char *message;
	bool sections; /* one was seen */
	bool inside;   /* the lines are those of the profile */
	bool found;    /* the profile was seen, or there are no sections */
	unsigned line;
};

static struct slice trim(struct slice s)
{
	const char *p = s.p;
	size_t n = s.len;

	while (n > 0 && strchr(" \t\r", p[0]))
		p++, n--;
	while (n > 0 && strchr(" \t\r", p[n - 1]))
		n--;
	return (struct slice){p, n};
}

static bool slice_is(struct slice s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static int parse_section(struct parser *x, struct slice line)
{
	if (line.len < 2 || ((const char *)line.p)[line.len - 1] != ']')
		return complain(x->message, -EINVAL, "line %u: a section ends with ']'", x->line);
	const struct slice name = trim((struct slice){(const char *)line.p + 1, line.len - 2});
	x->sections = true;
	x->inside = slice_is(name, x->profile);
	if (x->inside && x->found)
		return complain(x->message, -EINVAL, "line %u: this section is there twice", x->line);
	x->found |= x->inside;
	return 0;
}

static int take(struct parser *x, struct slice value, char *ret, size_t cap)
{
	if (ret[0])
		return complain(x->message, -EINVAL, "line %u: this key is there twice", x->line);
	if (value.len == 0 || value.len >= cap)
		return complain(x->message, -EINVAL, "line %u: the value is %s", x->line, value.len ? "too long" : "missing");
	if (!is_plain(value.p, value.len))
		return complain(x->message, -EINVAL, "line %u: the value has a character that no key has", x->line);
	memcpy(ret, value.p, value.len);
	ret[value.len] = 0;
	return 0;
}

static int parse_pair(struct parser *x, struct slice line)
{
	const char *equals = memchr(line.p, '=', line.len);

	if (!equals)
		return complain(x->message, -EINVAL, "line %u: neither [section] nor key = value", x->line);
	const size_t at = (size_t)(equals - (const char *)line.p);
	const struct slice name = trim((struct slice){line.p, at});
	const struct slice value = trim((struct slice){equals + 1, line.len - at - 1});
	struct credentials *c = x->ret;

	if (x->sections && !x->inside)
		return 0;
	if (slice_is(name, "access_key") || slice_is(name, "aws_access_key_id"))
		return take(x, value, c->access_key, sizeof(c->access_key));
	if (slice_is(name, "secret_key") || slice_is(name, "aws_secret_access_key"))
		return take(x, value, c->secret_key, sizeof(c->secret_key));
	if (slice_is(name, "session_token") || slice_is(name, "aws_session_token"))
		return take(x, value, c->session_token, sizeof(c->session_token));
	/* Files of Amazon's tools hold other things as well; ours do not, and a slip of the pen should be heard of. */
	return x->sections ? 0 : complain(x->message, -EINVAL, "line %u: no key of credentials", x->line);
}

static int parse_line(struct parser *x, struct slice line)
{
	if (line.len == 0 || ((const char *)line.p)[0] == '#' || ((const char *)line.p)[0] == ';')
		return 0;
	return ((const char *)line.p)[0] == '[' ? parse_section(x, line) : parse_pair(x, line);
}

static int parse_lines(struct parser *x, struct slice text)
{
	const char *p = text.p, *const end = p + text.len;

	if (memchr(text.p, 0, text.len))
		return complain(x->message, -EINVAL, "no file of credentials: it is not text");
	while (p < end) {
		const char *stop = memchr(p, '\n', (size_t)(end - p));
		const size_t len = (size_t)((stop ? stop : end) - p);

		x->line++;
		int r = parse_line(x, trim((struct slice){p, len}));
		if (r < 0)
			return r;
		p += len + (stop != NULL);
	}
	return 0;
}

static int check_parsed(const struct parser *x)
{
	if (x->sections && !x->found)
		return complain(x->message, -ENOENT, "there is no profile \"%.64s\"", x->profile);
	if (!x->ret->access_key[0])
		return complain(x->message, -EINVAL, "there is no access key");
	return x->ret->secret_key[0] ? 0 : complain(x->message, -EINVAL, "there is no secret key");
}

int credentials_parse(struct slice text, const char *profile, struct credentials *ret, char *message)
{
	CLEANUP_CREDENTIALS struct credentials c = {0};
	struct parser x = {.ret = &c, .profile = profile, .message = message};

	int r = text.len ? parse_lines(&x, text) : 0;
	if (r == 0)
		r = check_parsed(&x);
	if (r == 0)
		*ret = c;
	return r;
}

/* ---- files */

static int check_file(const struct stat *st, char *message)
{
	if (!S_ISREG(st->st_mode))
		return complain(message, -EACCES, "is no regular file");
	if (st->st_mode & (S_IRWXG | S_IRWXO))
		return complain(message, -EACCES,
				"others can get at it (mode %04o): make it 0600, and replace the keys if somebody may have",
				st->st_mode & 07777);
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return complain(message, -EACCES, "belongs to another user (uid %u)", st->st_uid);
	if (st->st_size > (off_t)CREDENTIALS_FILE_MAX)
		return complain(message, -E2BIG, "is longer than %u bytes", CREDENTIALS_FILE_MAX);
	return 0;
}

static struct version version_of(const struct stat *st)
{
	return (struct version){st->st_dev, st->st_ino, st->st_size, st->st_mtim, st->st_ctim};
}

static bool is_same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static bool is_same_version(const struct version *a, const struct version *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size && is_same_time(&a->modified, &b->modified) &&
	       is_same_time(&a->changed, &b->changed);
}

static int read_text(int fd, uint8_t *p, size_t cap, size_t *ret_len)
{
	size_t done = 0;

	while (done < cap) {
		ssize_t n = read(fd, p + done, cap - done);

		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	*ret_len = done;
	return 0;
}

static int read_fd(int fd, const char *profile, struct credentials *ret, struct version *ret_version, char *message)
{
	uint8_t text[CREDENTIALS_FILE_MAX];
	struct stat st;
	size_t len = 0;

	if (fstat(fd, &st) < 0)
		return complain(message, -errno, "%s", strerror(errno));
	int r = check_file(&st, message);
	if (r < 0)
		return r;
	r = read_text(fd, text, sizeof(text), &len);
	if (r < 0)
		complain(message, r, "%s", strerror(-r));
	else
		r = credentials_parse((struct slice){text, len}, profile, ret, message);
	OPENSSL_cleanse(text, sizeof(text));
	if (r == 0)
		*ret_version = version_of(&st);
	return r;
}

/* Complaints name the file. */
static int read_file(const char *path, const char *profile, struct credentials *ret, struct version *ret_version, char *message)
{
	char what[OBJECT_MESSAGE_MAX] = "";
	CLEANUP_FD int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	int r = fd < 0 ? complain(what, -errno, "%s", strerror(errno)) : read_fd(fd, profile, ret, ret_version, what);
	return r < 0 ? complain(message, r, "credentials in %.120s: %s", path, what) : 0;
}

/* ---- sources */

static const char *environment(const char *name)
{
	const char *v = getenv(name);

	return v && v[0] ? v : NULL;
}

static int take_variable(const char *name, char *ret, size_t cap, char *message)
{
	const char *v = environment(name);

	if (v && (strlen(v) >= cap || !is_plain(v, strlen(v))))
		return complain(message, -EINVAL,
				"credentials: %s of the environment is too long, or has characters that no key has", name);
	snprintf(ret, cap, "%s", v ? v : "");
	return 0;
}

static int read_environment(struct credentials *ret, char *message)
{
	int r = take_variable("AWS_ACCESS_KEY_ID", ret->access_key, sizeof(ret->access_key), message);

	if (r == 0)
		r = take_variable("AWS_SECRET_ACCESS_KEY", ret->secret_key, sizeof(ret->secret_key), message);
	if (r == 0)
		r = take_variable("AWS_SESSION_TOKEN", ret->session_token, sizeof(ret->session_token), message);
	if (r == 0 && !ret->secret_key[0])
		r = complain(message, -EINVAL,
			     "credentials: the environment has AWS_ACCESS_KEY_ID, but no AWS_SECRET_ACCESS_KEY");
	return r;
}

static int shared_path(char **ret, char *message)
{
	const char *named = environment("AWS_SHARED_CREDENTIALS_FILE"), *home = environment("HOME");

	if (!named && !home)
		return complain(message, -ENOENT,
				"credentials: none are given, and neither the environment nor a home directory has any");
	if ((named ? asprintf(ret, "%s", named) : asprintf(ret, "%s/.aws/credentials", home)) < 0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int find_source(struct credential_source *s, const char *file, char *message)
{
	int r = 0;

	if (file) {
		s->path = strdup(file);
		r = s->path ? 0 : -ENOMEM;
	} else if (environment("AWS_ACCESS_KEY_ID")) {
		return read_environment(&s->now, message);
	} else {
		r = shared_path(&s->path, message);
	}
	return r < 0 ? r : read_file(s->path, s->profile, &s->now, &s->version, message);
}

int credential_source_open(const char *file, const char *profile, struct credential_source **ret, char *message)
{
	const char *const chosen = profile ? profile : environment("AWS_PROFILE");

	if (chosen && strlen(chosen) >= PROFILE_MAX)
		return complain(message, -EINVAL, "credentials: the profile's name is too long");
	struct credential_source *s = calloc(1, sizeof(*s));
	if (!s)
		return complain(message, -ENOMEM, "credentials: out of memory");
	mutex_init(&s->lock);
	snprintf(s->profile, sizeof(s->profile), "%s", chosen ? chosen : "default");
	int r = find_source(s, file, message);
	if (r < 0) {
		credential_source_close(s);
		return r;
	}
	*ret = s;
	return 0;
}

struct credential_source *credential_source_close(struct credential_source *s)
{
	if (!s)
		return NULL;
	mutex_destroy(&s->lock);
	credentials_wipe(&s->now);
	free(s->path);
	free(s);
	return NULL;
}

void credential_source_get(struct credential_source *s, struct credentials *ret)
{
	mutex_lock(&s->lock);
	*ret = s->now;
	mutex_unlock(&s->lock);
}

static bool is_same(const struct credentials *a, const struct credentials *b)
{
	return strcmp(a->access_key, b->access_key) == 0 && strcmp(a->secret_key, b->secret_key) == 0 &&
	       strcmp(a->session_token, b->session_token) == 0;
}

static void reread_locked(struct credential_source *s) REQUIRES(&s->lock)
{
	char message[OBJECT_MESSAGE_MAX];
	CLEANUP_CREDENTIALS struct credentials fresh = {0};
	struct stat st;

	if (!s->path || stat(s->path, &st) < 0)
		return;
	struct version version = version_of(&st);
	if (is_same_version(&version, &s->version))
		return;
	if (read_file(s->path, s->profile, &fresh, &version, message) == 0)
		s->now = fresh;
	else
		log_warn("%s (the ones read before stay in use)", message);
	s->version = version; /* said once of each content */
}

bool credential_source_renew(struct credential_source *s, const struct credentials *used)
{
	mutex_lock(&s->lock);
	reread_locked(s);
	const bool changed = !is_same(&s->now, used);
	mutex_unlock(&s->lock);
	return changed;
}
