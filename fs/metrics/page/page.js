/* The status page: asks /status and /stats every two seconds and shows what they say.  Text goes in as text, never as HTML. */
"use strict";

const PERIOD_MS = 2000;
let before = null; /* the stats of the last look */

const at = id => document.getElementById(id);

function bytes(n) {
	const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
	let i = 0;
	const sign = n < 0 ? "-" : "";

	for (n = Math.abs(n); n >= 1024 && i < units.length - 1; i++)
		n /= 1024;
	return sign + (i ? n.toFixed(1) : Math.round(n)) + " " + units[i];
}

function span(seconds) {
	if (seconds === null || seconds === undefined)
		return "never";
	const steps = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "us"]];
	const [unit, name] = steps.find(([u]) => seconds >= u) || [1e-9, "ns"];

	return seconds === 0 ? "0 s" : (seconds / unit).toPrecision(3) + " " + name;
}

function facts(id, pairs) {
	at(id).replaceChildren(...pairs.flatMap(([name, value]) => {
		const dt = document.createElement("dt"), dd = document.createElement("dd");

		dt.textContent = name;
		dd.textContent = value;
		return [dt, dd];
	}));
}

function rows(id, list) {
	at(id).replaceChildren(...list.map(cells => {
		const tr = document.createElement("tr");

		tr.append(...cells.map(c => {
			const td = document.createElement("td");

			td.textContent = c.text !== undefined ? c.text : c;
			if (c.strange)
				td.className = "strange";
			return td;
		}));
		return tr;
	}));
}

function badge(id, text, kind) {
	at(id).textContent = text;
	at(id).className = "badge " + kind;
}

/* What was counted since `old`, [[bound, count], ...] by bound. */
function since(now, old) {
	const was = new Map(old ? old.buckets : []);
	const buckets = now.buckets.map(([bound, n]) => [bound, n - (was.get(bound) || 0)]).filter(([, n]) => n > 0);

	return {n: now.n - (old ? old.n : 0), buckets};
}

/* The bound below which share q of them are, in seconds. */
function quantile(h, q) {
	let below = 0;

	for (const [bound, n] of h.buckets) {
		below += n;
		if (below >= q * h.n)
			return bound / 1e9;
	}
	return 0;
}

function showHead(s) {
	const state = s.health.state;

	at("name").textContent = s.volume.label || s.source || s.volume.volume;
	document.title = "clawfs " + at("name").textContent + ": " + state;
	badge("health", state, state === "ok" ? "good" : state === "read-only" ? "warn" : "bad");
	badge("role", s.replica.role, "");
	at("reason").hidden = !s.health.reason;
	at("reason").textContent = s.health.reason;
	const strange = Object.entries(s.forecast.latency).filter(([, v]) => v.anomaly).map(([op]) => op);
	at("alarm").hidden = strange.length === 0;
	at("alarm").textContent = "unusual latency: " + strange.join(", ");
}

function showSpace(s) {
	const a = s.arena, total = a.total_bytes + a.growable_bytes;

	at("space").value = total ? (a.used_bytes + a.reserved_bytes) / total : 0;
	facts("space-facts", [
		["used", bytes(a.used_bytes)],
		["free", bytes(Math.max(0, total - a.used_bytes - a.reserved_bytes))],
		["grows, a second", bytes(s.forecast.fill_bytes_per_second)],
		["full in", span(s.forecast.full_seconds)],
		["inodes", s.index.inodes],
	]);
}

function showJournal(s, stats, seconds) {
	const commit = since(stats.background.commit, before && before.background.commit);

	at("ring").value = s.journal.used_bytes / s.journal.ring_bytes;
	facts("journal-facts", [
		["used", bytes(s.journal.used_bytes) + " of " + bytes(s.journal.ring_bytes)],
		["waits for its place", bytes(s.homer.backlog_bytes)],
		["commits a second", (commit.n / seconds).toFixed(1)],
		["commit, half within", span(quantile(commit, 0.5))],
		["commit, 99 % within", span(quantile(commit, 0.99))],
		["last checkpoint", span(s.index.checkpoint_age_ns / 1e9) + " ago"],
	]);
}

function showLatency(s, stats, seconds) {
	rows("latency", Object.entries(stats.ops).filter(([, h]) => h.n > 0).map(([op, h]) => {
		const d = since(h, before && before.ops[op]), f = s.forecast.latency[op];

		return [op, (d.n / seconds).toFixed(1), span(quantile(d, 0.5)), {text: span(quantile(d, 0.99)), strange: f && f.anomaly},
			h.errors.io + h.errors.space + h.errors.refused];
	}));
}

function showOthers(s) {
	rows("peers", Object.entries(s.peers || {}).map(([name, p]) => [
		name, {text: p.state, strange: p.state !== "streaming"}, bytes(p.lag_bytes), span(p.lag_seconds),
		s.forecast.lag[name] ? span(s.forecast.lag[name].caught_up_seconds) : ""]));
	rows("stores", Object.entries(s.tier.stores || {}).map(([name, t]) => {
		const sum = o => Object.values(o).reduce((a, b) => a + b, 0);

		return [name, {text: t.breaker, strange: t.breaker !== "closed"}, bytes(t.stored_bytes || 0), sum(t.requests), sum(t.errors),
			(t.cost_month || 0).toFixed(2)];
	}));
	facts("node-facts", [
		["store", s.source],
		["version", s.build.version],
		["mounted for", span(s.metrics.uptime_seconds)],
		["memory", bytes(s.memory.resident_bytes) + " of " + bytes(s.memory.limit_bytes)],
		["damaged reads", s.health.damaged_reads],
		["fsyncs that wait for followers", s.durability.waiting],
		["reads that wait for a store", s.tier.recall.waiting],
		["last error", s.health.last_error_line || "none"],
	]);
}

async function ask(path) {
	const answer = await fetch(path, {cache: "no-store"});

	if (!answer.ok)
		throw new Error(path + ": " + answer.status);
	return answer.json();
}

async function look() {
	try {
		const [status, stats] = await Promise.all([ask("status"), ask("stats")]);
		const seconds = Math.max(0.001, stats.uptime_seconds - (before ? before.uptime_seconds : 0));

		showHead(status);
		showSpace(status);
		showJournal(status, stats, seconds);
		showLatency(status, stats, seconds);
		showOthers(status);
		before = stats;
		at("lost").hidden = true;
	} catch (e) {
		at("lost").hidden = false;
	}
	setTimeout(look, PERIOD_MS);
}

look();
