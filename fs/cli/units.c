/* units.c: sizes and times as people write them. */
#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "fs/cli/cli.h"

int size_parse(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "KMGTP";
	char *end;

	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	uint64_t n = strtoull(text, &end, 10);
	if (errno)
		return -ERANGE;
	const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
	unsigned shift = 0;
	if (unit) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		if (end[0] == 'i' && end[1] == 'B')
			end += 2;
		else if (end[0] == 'B')
			end++;
	}
	if (*end)
		return -EINVAL;
	if (n > UINT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = n << shift;
	return 0;
}

int seconds_parse(const char *text, uint64_t *ret_ns)
{
	static const struct {
		const char *name;
		uint64_t seconds;
	} units[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
	uint64_t ns = 0, unit = (uint64_t)NSEC_PER_SEC;
	bool digits = false;

	for (; isdigit((unsigned char)*text); text++, digits = true) {
		if (ns > UINT64_C(1000000000) * unit) /* over thirty years: no option allows it */
			return -ERANGE;
		ns = ns * 10 + (uint64_t)(*text - '0') * unit;
	}
	if (*text == '.') {
		for (text++; isdigit((unsigned char)*text); text++, digits = true) {
			unit /= 10; /* digits beyond nanoseconds count nothing */
			ns += (uint64_t)(*text - '0') * unit;
		}
	}
	if (!digits)
		return -EINVAL;
	if (strcmp(text, "ms") == 0) {
		*ret_ns = ns / 1000;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (strcmp(text, units[i].name) == 0)
			return __builtin_mul_overflow(ns, units[i].seconds, ret_ns) ? -ERANGE : 0;
	return -EINVAL;
}
