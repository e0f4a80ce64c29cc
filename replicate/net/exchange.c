/* exchange.c: see exchange.h. */
#include "replicate/net/exchange.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "replicate/net/net.h"

#define BODY_MAX     WIRE_JSON_MAX
#define LINGER_NS    (NSEC_PER_SEC / 2)
#define LINGER_READS 64

static int wait_for(struct exchange *x, bool writing)
{
	return net_wait(x->fd, channel_events(x->channel, writing), x->deadline_ns, x->wake_fd);
}

int exchange_handshake(struct exchange *x)
{
	for (;;) {
		int r = channel_handshake(x->channel);

		if (r == -EAGAIN)
			r = wait_for(x, false);
		else
			return r;
		if (r < 0)
			return r;
	}
}

static int send_all(struct exchange *x, const struct buf *out)
{
	size_t done = 0;

	if (out->failed)
		return -ENOMEM;
	while (done < out->len) {
		size_t n = 0;

		int r = channel_write(x->channel, out->p + done, out->len - done, &n);
		done += n;
		if (r == -EAGAIN)
			r = wait_for(x, true);
		if (r < 0)
			return r;
	}
	return 0;
}

int exchange_send(struct exchange *x, enum message_type type, const char *json)
{
	CLEANUP_SECRET struct buf out = {0};

	secret_reserve(&out, FRAME_HEADER_BYTES + BODY_MAX);
	size_t at = frame_begin(&out, type);
	text_put(&out, json);
	frame_end(&out, at, x->n_sent++);
	return send_all(x, &out);
}

int exchange_refuse(struct exchange *x, const struct refuse *why)
{
	CLEANUP_BUF struct buf out = {0};

	size_t at = frame_begin(&out, MESSAGE_REFUSE);
	refuse_put(&out, why);
	frame_end(&out, at, x->n_sent++);
	return send_all(x, &out);
}

/* Reads until `n` bytes are there. */
static int receive(struct exchange *x, size_t n)
{
	while (x->in.len < n) {
		size_t got = 0;

		int r = channel_read(x->channel, x->in.p + x->in.len, n - x->in.len, &got);
		x->in.len += got;
		if (r == -EAGAIN)
			r = wait_for(x, false);
		if (r < 0)
			return r;
	}
	return 0;
}

int exchange_receive(struct exchange *x, enum message_type wanted, enum message_type *ret_type, struct slice *ret_body)
{
	size_t need = 0;

	buf_reset(&x->in);
	secret_reserve(&x->in, FRAME_HEADER_BYTES + BODY_MAX);
	if (x->in.failed)
		return -ENOMEM;
	int r = receive(x, FRAME_HEADER_BYTES);
	if (r == 0)
		r = frame_peek(x->in.p, x->in.len, x->n_received, &need);
	if (r < 0)
		return r;
	/* Other types have larger limits than there is room for here. */
	unsigned type = ((const struct frame_header *)x->in.p)->type;
	if (need > FRAME_HEADER_BYTES + BODY_MAX || (type != wanted && type != MESSAGE_REFUSE))
		return -EPROTO;
	r = receive(x, need);
	if (r == 0)
		r = frame_open(x->in.p, x->in.len, ret_type, ret_body);
	if (r == 0)
		x->n_received++;
	return r;
}

void exchange_end(struct exchange *x)
{
	secret_free(&x->in);
}

void exchange_linger(struct exchange *x)
{
	int64_t deadline_ns = clock_mono_ns(&clock_system) + LINGER_NS;
	char scratch[4096];

	channel_close(x->channel);
	shutdown(x->fd, SHUT_WR);
	for (int i = 0; i < LINGER_READS; i++) {
		if (net_wait(x->fd, POLLIN, deadline_ns, x->wake_fd) < 0)
			return;
		ssize_t n = recv(x->fd, scratch, sizeof(scratch), 0);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return;
	}
}
