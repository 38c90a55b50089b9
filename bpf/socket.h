/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What a socket is: its addresses, cgroup, namespace and owner, the verdict about it, and the record that announces it.
 * Nothing here runs per packet: a verdict is kept until the rules change.
 */
#ifndef ACKTRAIL_SOCKET_H
#define ACKTRAIL_SOCKET_H

#include "address.h"
#include "peer.h"
#include "ring.h"

#define AF_INET6 10
#define CGROUP_DEPTH 16 /* levels searched upwards for a configured cgroup */

static __always_inline __u32 netns_of(struct tcp_sock *tp)
{
	return ((struct sock *)tp)->__sk_common.skc_net.net->ns.inum;
}

static __always_inline void read_endpoints(struct tcp_sock *tp, struct endpoints *e)
{
	struct sock_common *sk = &((struct sock *)tp)->__sk_common;

	e->local_port = sk->skc_num;
	e->remote_port = bpf_ntohs(sk->skc_dport);
	if (sk->skc_family == AF_INET6 && bpf_core_field_exists(sk->skc_v6_daddr)) {
		for (int i = 0; i < 4; i++) {
			e->local[i] = sk->skc_v6_rcv_saddr.in6_u.u6_addr32[i];
			e->remote[i] = sk->skc_v6_daddr.in6_u.u6_addr32[i];
		}
	} else {
		map_ipv4(e->local, sk->skc_rcv_saddr);
		map_ipv4(e->remote, sk->skc_daddr);
	}
}

/* The broker's port of a connection, 0 if neither is one. A remote one wins: this end would be a client there. */
__noinline __u16 broker_port_of(__u16 local_port, __u16 remote_port)
{
	__u16 found = 0;

	for (__u32 i = 0; i < WATCH_PORTS && i < control.watch_ports_used; i++) {
		__u16 port = control.watch_ports[i];

		if (port == remote_port)
			return port;
		if (port == local_port)
			found = port;
	}
	return found;
}

/* Whether the socket's cgroup or one above it is configured. */
static __noinline bool in_watched_cgroup(struct tcp_sock *tp)
{
	struct cgroup *cgroup = ((struct sock *)tp)->sk_cgrp_data.cgroup;

	for (int level = 0; level < CGROUP_DEPTH && cgroup; level++) {
		struct cgroup_subsys_state *parent;
		__u64 id = cgroup->kn->id;

		if (bpf_map_lookup_elem(&watch_cgroups, &id))
			return true;
		parent = cgroup->self.parent;
		if (!parent)
			return false;
		cgroup = parent->cgroup;
	}
	return false;
}

/* The same for both ends of a connection, so that sampling keeps or drops it whole. */
static __always_inline __u32 connection_hash(const struct endpoints *e)
{
	__u32 hash = ((__u32)(e->local_port ^ e->remote_port) << 16) | (__u16)(e->local_port + e->remote_port);

	for (int i = 0; i < 4; i++)
		hash = (hash ^ e->local[i] ^ e->remote[i]) * 0x9e3779b1;
	hash ^= hash >> 16;
	hash *= 0x85ebca6b;
	hash ^= hash >> 13;
	hash *= 0xc2b2ae35;
	return hash ^ hash >> 16;
}

static __always_inline __u8 verdict_by_rules(struct tcp_sock *tp, struct socket_state *s)
{
	__u32 *forced = bpf_map_lookup_elem(&overrides, &s->cookie);
	__u8 verdict;

	if (forced)
		return *forced;
	if (control.cgroups_only && !in_watched_cgroup(tp))
		return VERDICT_IGNORE;
	verdict = s->broker_port || s->flags & STATE_PROVEN ? VERDICT_WATCH : control.unmatched;
	if (verdict != VERDICT_IGNORE && control.sample_below != ~0U && s->connection >= control.sample_below) {
		s->flags |= STATE_SAMPLED_OUT;
		return VERDICT_IGNORE;
	}
	return verdict;
}

/* Decides about a socket by the rules of this moment, and remembers what does not change about it. */
static __noinline void decide(struct tcp_sock *tp, struct socket_state *s)
{
	struct sock *sk = (struct sock *)tp;
	struct endpoints e;
	__u8 verdict;

	read_endpoints(tp, &e);
	s->generation = control.rules_generation;
	s->netns = netns_of(tp);
	s->cgroup = sk->sk_cgrp_data.cgroup->kn->id;
	if (!(s->flags & STATE_PROVEN) || !s->broker_port)
		s->broker_port = broker_port_of(e.local_port, e.remote_port);
	s->connection = connection_hash(&e);
	s->flags &= ~(STATE_SAMPLED_OUT | STATE_PEER_CAPTURED | STATE_PEER_FOUND | STATE_BROKER_END);
	if (s->broker_port == e.local_port)
		s->flags |= STATE_BROKER_END;
	if (!(s->flags & STATE_FROM_START))
		estimate_starts(tp, s);
	s->undecided_packets = 0;
	s->searches = 0;
	verdict = verdict_by_rules(tp, s);
	if (verdict == VERDICT_WATCH) {
		list_egress(s);
	} else {
		unlist_egress(s);
		s->announced = 0;
	}
	s->verdict = verdict;
}

/* Tells userspace about the socket. A record that does not fit is sent with the next packet or read. */
static __noinline void announce(struct tcp_sock *tp, struct socket_state *s)
{
	struct socket_record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	__u32 send_next, copied;
	struct endpoints e;

	if (!r) {
		count_ring_full(0);
		return;
	}
	read_endpoints(tp, &e);
	fill_head(&r->head, RECORD_SOCKET, s->cookie);
	__builtin_memcpy(r->local, e.local, sizeof(r->local));
	__builtin_memcpy(r->remote, e.remote, sizeof(r->remote));
	r->local_port = e.local_port;
	r->remote_port = e.remote_port;
	r->broker_port = s->broker_port;
	r->origin = s->origin;
	r->pad = 0;
	r->netns = s->netns;
	r->pid = s->owner_pid;
	r->cgroup = s->cgroup;
	send_next = tp->snd_nxt;
	copied = tp->copied_seq;
	/* Else the compiler makes one load of two kinds of pointer, which no verifier lets pass. */
	barrier_var(send_next);
	barrier_var(copied);
	if (s->flags & STATE_FROM_START) {
		r->head.flags = SOCKET_FROM_START;
		send_next = s->send_start;
		copied = s->receive_start;
	}
	r->send_next = send_next;
	r->copied = copied;
	__builtin_memcpy(r->executable, s->executable, sizeof(r->executable));
	s->announced = 1;
	bpf_ringbuf_submit(r, wake_flags());
}

static __always_inline void report_closed(struct tcp_sock *tp, struct socket_state *s)
{
	struct closed_record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);

	if (!r) {
		count_ring_full(0);
		return;
	}
	fill_head(&r->head, RECORD_CLOSED, s->cookie);
	r->copied = tp->copied_seq;
	r->pad = 0;
	bpf_ringbuf_submit(r, wake_flags());
}

/* Remembers where both streams begin, for a connection seen from its first byte on. */
static __always_inline void begin_streams(struct socket_state *s, __u8 origin, __u32 send, __u32 copied)
{
	s->origin = origin;
	s->flags |= STATE_FROM_START;
	s->send_start = send;
	s->receive_start = copied;
	s->reported_copied = copied;
}

/* The base name of a process's executable, or its command name. */
static __always_inline void read_executable(struct task_struct *task, char *name)
{
	const unsigned char *path = BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name);

	if (!path || bpf_probe_read_kernel_str(name, EXECUTABLE_BYTES, path) <= 0)
		BPF_CORE_READ_STR_INTO((char(*)[EXECUTABLE_BYTES])name, task, group_leader, comm);
}

static __always_inline void set_owner(struct socket_state *s, struct task_struct *task, __u32 pid)
{
	s->owner_pid = pid;
	read_executable(task, s->executable);
}

#endif
