/*
 * printable.h: names and messages as one line of a log, a terminal or JSON may have them.
 *
 * A name of a file may have any byte but '/' and NUL, and whoever may create one may choose it: a newline would begin a line of a log
 * that nobody wrote, an escape would command the terminal of who reads it, and bytes that are no UTF-8 cannot be in JSON.
 */
#pragma once

/*
 * Puts '?' in place of each byte of control characters (U+0000 to U+001F, U+007F to U+009F) and of what is no UTF-8 (Unicode 15,
 * table 3-7: no overlong forms, no surrogates), such as a character that was cut off.  The length stays.
 */
void make_printable(char *text);
