/*
 * test_replica_roles.c: followers that become leaders and leaders that become followers: epochs, histories, held writers, and a
 * crash anywhere in a change of role.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/log.h"
#include "tests/unit/replica_case.h"

static bool holds_prefix(struct fs *of, struct fs *fs)
{
	return ops_of(of)->is_prefix(fs_replica(of), point_of(fs).history, point_of(fs).applied_seq);
}

static void a_promoted_follower_leads_and_the_old_leader_follows(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0], *c = &w->follower[1];
	struct fs_attr a;
	uint64_t e2 = epoch_make(2, 2), ino;
	struct message m;
	bool more = true;

	for (unsigned i = 0; i < 30; i++)
		leader_step(w);
	ino = make_file(leader(w), "orphan");
	put_bytes(leader(w), ino, 0, 100 * KIB, 1);
	OK(fs_unlink(leader(w), &cred, FS_ROOT_INO, "orphan"));
	OK(fs_sync(leader(w)));
	ship(leader(w), &w->cursor, c->fs);
	make_file(leader(w), "late");
	ship_all(w);
	node_kill(c); /* it has everything but the end, then nothing for a while */
	node_open(w, c);
	commit(b->fs);
	assert_true(holds_prefix(leader(w), b->fs) && holds_prefix(leader(w), c->fs));
	FAILS(-ESTALE, ops_of(b->fs)->promote(fs_replica(b->fs), point_of(b->fs).promised));
	promote(b->fs, e2);
	assert_true(holds_prefix(b->fs, leader(w)));
	while (more) /* the orphan, which nobody here has open */
		OK(fs_reap_step(b->fs, &more));
	FAILS(-ENOENT, fs_getattr(b->fs, ino, &a));
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a));

	/* The old leader is heard no more by who heard of the new one. */
	make_file(leader(w), "lost");
	OK(fs_sync(leader(w)));
	OK(ops_of(c->fs)->note_epoch(fs_replica(c->fs), e2));
	OK(message_read(leader(w), &w->cursor, point_of(c->fs).applied_seq + 1, &m));
	FAILS(-ESTALE, message_deliver(c->fs, &m));
	message_free(&m);
	/* And follows once it hears itself. */
	OK(ops_of(leader(w))->note_epoch(fs_replica(leader(w)), e2));
	assert_int_equal(fs_role(leader(w)), ROLE_FOLLOWER);
	FAILS(-EROFS, fs_mknod(leader(w), &cred, FS_ROOT_INO, "x", S_IFREG | 0644, 0, &a));
	FAILS(-EROFS, message_read(leader(w), &w->cursor, 1, &m));
	assert_false(holds_prefix(b->fs, leader(w))); /* it has what nobody else has */
	assert_true(holds_prefix(b->fs, c->fs));
	OK(ops_of(b->fs)->note_epoch(fs_replica(b->fs), e2)); /* its own is nothing new */
	assert_int_equal(fs_role(b->fs), ROLE_LEADER);

	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, c->fs);
	assert_same_tree(c->fs, b->fs);
	assert_int_equal(point_of(c->fs).history, e2);
	node_kill(c);
	node_open(w, c);
	assert_int_equal(point_of(c->fs).history, e2);
	assert_same_tree(c->fs, b->fs);
	assert_clean(w, c->fs);
	node_close(b); /* and it is still the leader afterwards */
	node_open(w, b);
	assert_int_equal(fs_role(b->fs), ROLE_LEADER);
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "newer", S_IFREG | 0644, 0, &a));
	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, c->fs);
	assert_same_tree(c->fs, b->fs);
	assert_clean(w, b->fs);
}

static void an_old_leader_without_changes_of_its_own_goes_on_as_a_follower(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0];
	struct fs_attr a;

	for (unsigned i = 0; i < 30; i++)
		leader_step(w);
	ship_all(w);
	OK(ops_of(leader(w))->hold_writers(fs_replica(leader(w)), true));
	ship(leader(w), &w->cursor, b->fs);
	promote(b->fs, epoch_make(2, 2));
	OK(ops_of(leader(w))->note_epoch(fs_replica(leader(w)), epoch_make(2, 2)));
	OK(ops_of(leader(w))->hold_writers(fs_replica(leader(w)), false));
	assert_true(holds_prefix(b->fs, leader(w)));
	OK(fs_mknod(b->fs, &cred, FS_ROOT_INO, "new", S_IFREG | 0644, 0, &a));
	OK(fs_sync(b->fs));
	ship(b->fs, &b->cursor, leader(w));
	assert_same_tree(leader(w), b->fs);
	/* And back again, twice as high. */
	promote(leader(w), epoch_make(4, 1));
	OK(ops_of(b->fs)->note_epoch(fs_replica(b->fs), epoch_make(4, 1)));
	OK(fs_mknod(leader(w), &cred, FS_ROOT_INO, "again", S_IFREG | 0644, 0, &a));
	ship_all(w);
	assert_same_tree(b->fs, leader(w));
	assert_same_tree(w->follower[1].fs, leader(w)); /* which saw both epochs in one go */
	assert_clean(w, leader(w));
	for (uint64_t seq = point_of(b->fs).applied_seq - 1; seq <= point_of(b->fs).applied_seq; seq++)
		assert_true(sum_of(leader(w), seq) == sum_of(b->fs, seq));
}

/* A leader crashed while it becomes a follower, a follower while it becomes the leader: one or the other, with all that was
 * durable. */
static void a_change_of_role_is_one_or_the_other(void **state)
{
	struct world *w = *state;
	struct node *b = &w->follower[0];
	struct rng rng = rng_derive(5, 5, 5);
	bool seen[2][2] = {0};

	for (unsigned i = 0; i < 20; i++)
		leader_step(w);
	ship_all(w);
	commit(b->fs);
	make_file(leader(w), "not synced");
	struct {
		struct fs *fs;
		struct sim_image *image;
		enum replica_role to;
		uint64_t first, last, durable;
	} side[2] = {{leader(w), &w->run.image, ROLE_FOLLOWER, 0, 0, 0}, {b->fs, &b->image, ROLE_LEADER, 0, 0, 0}};
	for (unsigned i = 0; i < 2; i++) {
		side[i].durable = point_of(side[i].fs).durable_seq;
		side[i].first = simstore_mark(side[i].image->store);
		OK(i ? ops_of(side[i].fs)->promote(fs_replica(side[i].fs), epoch_make(2, 2))
		     : ops_of(side[i].fs)->note_epoch(fs_replica(side[i].fs), epoch_make(2, 2)));
		side[i].last = simstore_mark(side[i].image->store);
		struct simcut *c = simcut_new(side[i].image->store);
		for (uint64_t cut = side[i].first; cut <= side[i].last; cut++) {
			simcut_advance(c, cut);
			for (unsigned v = 0; v < SIMCUT_VARIANTS; v++) {
				struct node n = {.image.store = simcut_image(c, (enum simcut_variant)v, &rng, false)};
				n.image.index = kv_disk_at(side[i].image->index, cut, n.image.store);
				node_open(w, &n);
				struct replica_point p = point_of(n.fs);
				assert_true(p.durable_seq >= side[i].durable);
				assert_true(p.role == fs_role(n.fs));
				/* The new role and the promise are one step. */
				assert_int_equal(p.role == side[i].to, p.promised == epoch_make(2, 2));
				if (p.role == ROLE_LEADER)
					assert_true(p.history == p.promised);
				seen[i][p.role == side[i].to] = true;
				if (cut == side[i].last)
					assert_int_equal(p.role, side[i].to);
				assert_clean(w, n.fs);
				node_kill(&n);
				sim_image_free(&n.image);
			}
		}
		simcut_free(c);
	}
	assert_true(seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1]);
}

static void edit_old(struct super *s, uint32_t arg)
{
	(void)arg;
	s->epoch = 1;
	s->node_id = 0;
}

static void a_volume_of_before_there_were_epochs_goes_on(void **state)
{
	struct world *w = *state;
	struct node n = {0};
	struct fs_attr a;
	uint64_t e;

	node_format(w, &n, 1, 0);
	super_edit(w, &n.image, edit_old, 0);
	struct fs_config c = sim_config(&w->run, &n.image);
	struct super s;
	OK(super_read(c.store, &s));
	s.follower = false;
	OK(super_write(c.store, &s));
	store_close(c.store);
	for (unsigned i = 0; i < 2; i++) {
		node_open(w, &n);
		e = point_of(n.fs).promised;
		assert_int_equal(e, 1);
		assert_true(epoch_counter(e) == 0 && epoch_node(e) == 1 && point_of(n.fs).node_id == 1);
		assert_int_equal(point_of(n.fs).history, 1);
		assert_true(holds_prefix(n.fs, n.fs));
		OK(fs_mknod(n.fs, &cred, FS_ROOT_INO, i ? "b" : "a", S_IFREG | 0644, 0, &a));
		assert_clean(w, n.fs);
		node_close(&n);
	}
	sim_image_free(&n.image);
}

static void only_a_prefix_is_a_prefix(void **state)
{
	struct world *w = *state;
	struct fs *b = w->follower[0].fs;
	struct replica_volume *v = fs_replica(b);
	uint64_t e1 = point_of(leader(w)).promised, e2 = epoch_make(2, 2), e3 = epoch_make(3, 2);

	make_file(leader(w), "a");
	ship_all(w);
	uint64_t first = point_of(b).applied_seq;
	promote(b, e2);
	make_file(b, "b");
	OK(fs_sync(b));
	uint64_t second = point_of(b).applied_seq;
	promote(b, e3); /* the same node, again */
	uint64_t third = point_of(b).applied_seq;
	const struct {
		uint64_t epoch, seq;
		bool is;
	} cases[] = {
	    {0, 0, true},
	    {0, 1, false},
	    {e1, 1, true},
	    {e1, first, true},
	    {e1, first + 1, false},
	    {e2, first + 1, true},
	    {e2, second, true},
	    {e2, second + 1, false},
	    {e3, third, true},
	    {e3, third + 1, false},
	    {epoch_make(2, 3), first, false},
	    {epoch_make(4, 1), first, false},
	    {1, 1, false},
	};
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		assert_int_equal(v->ops->is_prefix(v, cases[i].epoch, cases[i].seq), cases[i].is);
}

static void *make_one(void *fs)
{
	make_file(fs, "waited");
	return NULL;
}

static void held_writers_wait_until_they_are_let_go(void **state)
{
	struct world *w = *state;
	struct fs *l = leader(w);
	struct fs_attr a;
	pthread_t t;

	make_file(l, "before");
	OK(ops_of(l)->hold_writers(fs_replica(l), true));
	assert_true(point_of(l).durable_seq == point_of(l).applied_seq);
	uint64_t seq = fs_pos(l);
	pthread_create(&t, NULL, make_one, l);
	usleep(30000);
	FAILS(-ENOENT, fs_lookup(l, FS_ROOT_INO, "waited", &a));
	OK(fs_lookup(l, FS_ROOT_INO, "before", &a));
	assert_true(fs_pos(l) == seq);
	OK(ops_of(l)->hold_writers(fs_replica(l), false));
	pthread_join(t, NULL);
	OK(fs_lookup(l, FS_ROOT_INO, "waited", &a));
	assert_true(fs_pos(l) > seq);
	OK(ops_of(l)->hold_writers(fs_replica(l), true)); /* and nobody waits for ever at the end: teardown */
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, world_teardown)
	const struct CMUnitTest cases[] = {
	    CASE(a_promoted_follower_leads_and_the_old_leader_follows),
	    CASE(an_old_leader_without_changes_of_its_own_goes_on_as_a_follower),
	    CASE(a_change_of_role_is_one_or_the_other),
	    CASE(a_volume_of_before_there_were_epochs_goes_on),
	    CASE(only_a_prefix_is_a_prefix),
	    CASE(held_writers_wait_until_they_are_let_go),
	};

	log_setup(LOG_LEVEL_ERROR, false);
	return cmocka_run_group_tests(cases, NULL, NULL);
}
