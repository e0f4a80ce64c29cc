/*
 * help.c: what the program says of its verbs and options: for people, and as a table for programs.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "fs/cli/acts.h"
#include "fs/cli/options.h"

static void help_row(const struct option_row *row, bool in_list)
{
	char name[64], left[96];
	const char *arg = row->arg ? row->arg : "", *equals = row->arg ? "=" : "";

	snprintf(name, sizeof(name), "%s", row->name);
	for (char *p = name; in_list && *p; p++)
		*p = *p == '-' ? '_' : *p;
	if (in_list)
		snprintf(left, sizeof(left), "  %s%s%s", name, equals, arg);
	else if (row->letter)
		snprintf(left, sizeof(left), "  -%c, --%s%s%s", row->letter, name, equals, arg);
	else
		snprintf(left, sizeof(left), "      --%s%s%s", name, equals, arg);
	printf("%-28s %s\n", left, row->help);
}

/* The words of -o, and that they are options of `mount` too. */
static void help_list(void)
{
	printf("\nmount options, after -o or each as --option:\n");
	for (size_t i = 0; i < n_option_rows; i++)
		if (option_rows[i].verbs & IN_LIST)
			help_row(&option_rows[i], true);
	printf("ignored, for fstab:");
	for (size_t i = 0; i < n_ignored_words; i++)
		printf("%s %s", i % 12 == 11 ? "\n                   " : "", ignored_words[i]);
	printf(" x-*\n");
}

static void help_verb(const struct verb *verb)
{
	const bool list = verb->bit & VERB_MOUNT;

	printf("usage: clawfs %s [OPTIONS] %s\n\n%c%s.\n%s\n\noptions:\n", verb->name, verb->operands,
	       toupper((unsigned char)*verb->summary), verb->summary + 1, verb->details);
	for (size_t i = 0; i < n_option_rows; i++)
		if (option_rows[i].verbs & verb->bit && option_rows[i].help &&
		    (!list || !(option_rows[i].verbs & IN_LIST) || option_rows[i].letter))
			help_row(&option_rows[i], false);
	if (list)
		help_list();
}

static void help_line(const struct verb *verb)
{
	printf("  %-15s %-26s %s\n", verb->name, verb->operands, verb->summary);
}

void help_group(const char *group)
{
	printf("usage: clawfs %s COMMAND ...\n\ncommands:\n", group);
	for (size_t i = 0; i < n_verbs; i++)
		if (verb_in_group(&verbs[i], group))
			help_line(&verbs[i]);
	printf("\n`clawfs %s COMMAND --help` tells more.\n", group);
}

static void help_program(void)
{
	printf(
	    "usage: clawfs COMMAND ...\n"
	    "       clawfs SOURCE MOUNTPOINT [-o OPTIONS]    as mount -t fuse.clawfs calls it\n\n"
	    "A filesystem in a directory: what was fsynced survives a power cut, every block read is verified.\n\ncommands:\n");
	for (size_t i = 0; i < n_verbs; i++)
		if (verbs[i].bit != VERB_HELPER)
			help_line(&verbs[i]);
	printf("\n`clawfs COMMAND --help` tells more, `clawfs help --table` all of it for programs; `clawfs --version` names the "
	       "version.\n\n"
	       "exit codes: 0 done; 1 failed (fsck: repaired); 4 fsck, dump: damaged; 8 fsck, upgrade: could not check; 16 wrong "
	       "usage;\n"
	       "32 not mounted.\n");
}

/* Text between tabs: a newline is written \n. */
static void table_put(const char *text)
{
	putchar('\t');
	for (; text && *text; text++)
		if (*text == '\n')
			fputs("\\n", stdout);
		else
			putchar(*text);
}

static void table_option(const char *verb, const struct option_row *row)
{
	const char letter[2] = {row->letter, '\0'};

	fputs("option", stdout);
	table_put(verb);
	table_put(row->name);
	table_put(letter);
	table_put(row->arg);
	table_put(row->help);
	putchar('\n');
}

static void table_verb(const struct verb *verb)
{
	fputs("verb", stdout);
	table_put(verb->name);
	table_put(verb->operands);
	table_put(verb->summary);
	table_put(verb->details);
	putchar('\n');
	for (size_t i = 0; i < n_option_rows; i++)
		if (option_rows[i].verbs & verb->bit)
			table_option(verb->name, &option_rows[i]);
}

static void table_act(const struct verb *verb)
{
	fputs("act", stdout);
	table_put(verb->name);
	table_put(act_kind_name(act_kind_of(verb->name)));
	putchar('\n');
}

/*
 * Man pages, completions and their test are made from this.  Lines of fields between tabs: verb NAME OPERANDS SUMMARY DETAILS,
 * option VERB NAME LETTER VALUE HELP, act VERB WHO for who enters it in the audit log (fs/cli/acts.h), word NAME VALUE HELP for
 * what goes into -o, ignored WORD for what -o takes and ignores.
 */
void help_table(void)
{
	for (size_t i = 0; i < n_verbs; i++)
		table_verb(&verbs[i]);
	for (size_t i = 0; i < n_verbs; i++)
		table_act(&verbs[i]);
	for (size_t i = 0; i < n_option_rows; i++) {
		if (!(option_rows[i].verbs & IN_LIST))
			continue;
		fputs("word\t", stdout);
		for (const char *p = option_rows[i].name; *p; p++)
			putchar(*p == '-' ? '_' : *p);
		table_put(option_rows[i].arg);
		table_put(option_rows[i].help);
		putchar('\n');
	}
	for (size_t i = 0; i < n_ignored_words; i++)
		printf("ignored\t%s\n", ignored_words[i]);
}

void help_print(const struct verb *verb)
{
	if (verb && verb->bit != VERB_HELPER)
		help_verb(verb);
	else
		help_program();
}
