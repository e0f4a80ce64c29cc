/* printable.c: a walk over the characters of a text; each byte of one that must not be shown becomes '?'. */
#include "base/printable.h"

#include <stdbool.h>
#include <stddef.h>

/* Bytes of the character at `s`, as its first two bytes say; 0: there is none.  Reads no byte behind a NUL. */
static size_t length_of(const unsigned char *s)
{
	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xc2 || s[0] > 0xf4 || s[1] < 0x80 || s[1] > 0xbf)
		return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
}

static bool is_control(const unsigned char *s)
{
	return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}

/* Bytes of the character at `s` that may be shown; 0: there is none. */
static size_t shown_length(const unsigned char *s)
{
	const size_t len = is_control(s) ? 0 : length_of(s);

	for (size_t i = 2; i < len; i++)
		if (s[i] < 0x80 || s[i] > 0xbf)
			return 0;
	return len;
}

void make_printable(char *text)
{
	for (size_t n; *text; text += n) {
		n = shown_length((const unsigned char *)text);
		if (n == 0) {
			*text = '?';
			n = 1;
		}
	}
}
