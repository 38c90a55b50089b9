/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Birth and death of sockets: the tracepoint inet_sock_set_state, passed a few times in a connection's life; and an
 * iterator over all open files, which userspace reads once after attaching to find the sockets that are older.
 */
#ifndef ACKTRAIL_CONNECTIONS_H
#define ACKTRAIL_CONNECTIONS_H

#include "socket.h"

/* Whether a rule decides without having seen bytes; so nothing is kept about connections that interest nobody. */
static __always_inline bool rules_decide(struct tcp_sock *tp)
{
	struct sock_common *sk = &((struct sock *)tp)->__sk_common;

	return control.unmatched == VERDICT_WATCH || broker_port_of(sk->skc_num, bpf_ntohs(sk->skc_dport));
}

/* Unless configured otherwise, RabbitMQ's nodes connect to each other at the AMQP port and this (rabbitmq.com/docs/networking). */
#define NODE_PORT_DISTANCE 20000

/* Whether nodes of a broker's cluster connect to each other at one of these ports. */
__noinline int leads_to_node(__u16 local_port, __u16 remote_port)
{
	for (__u32 i = 0; i < WATCH_PORTS && i < control.watch_ports_used; i++) {
		__u32 port = control.watch_ports[i] + NODE_PORT_DISTANCE;

		if (port == local_port || port == remote_port)
			return 1;
	}
	for (__u32 i = 0; i < NODE_PORTS && i < control.node_ports_used; i++) {
		__u16 port = control.node_ports[i];

		if (port == local_port || port == remote_port)
			return 1;
	}
	return 0;
}

/* Loopback addresses may differ, as that of the name `localhost` and that of the host's own name do. */
static __always_inline bool leaves_host(const struct endpoints *e)
{
	for (int i = 0; i < 4; i++) {
		if (e->local[i] != e->remote[i])
			return !is_loopback4(e->remote);
	}
	return false;
}

/*
 * Counts a connection between nodes of a broker's cluster. What a node on another host gives to its clients is not seen
 * here; what a tool on this host asks a node is no reason to think that there is one.
 */
static __always_inline void note_node(struct tcp_sock *tp)
{
	struct sock_common *sk = &((struct sock *)tp)->__sk_common;
	struct counters *c;
	struct endpoints e;

	if (!leads_to_node(sk->skc_num, bpf_ntohs(sk->skc_dport)))
		return;
	read_endpoints(tp, &e);
	c = leaves_host(&e) ? own_counters() : NULL;
	if (c)
		__sync_fetch_and_add(&c->node_connections, 1);
}

static __always_inline struct socket_state *keep(struct sock *sk)
{
	struct socket_state *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (s)
		s->cookie = bpf_get_socket_cookie(sk);
	else
		count_untracked();
	return s;
}

/* connect() was called: the one moment at which the client's process is certain. Its local port may not be known yet. */
static __always_inline void connecting(struct sock *sk, struct tcp_sock *tp)
{
	struct socket_state *s;

	if (!rules_decide(tp))
		return;
	s = keep(sk);
	if (s)
		set_owner(s, bpf_get_current_task_btf(), bpf_get_current_pid_tgid() >> 32);
}

static __always_inline void established(struct sock *sk, struct tcp_sock *tp, int before)
{
	struct socket_state *s;

	note_node(tp);
	if (!rules_decide(tp))
		return;
	s = keep(sk);
	if (!s)
		return;
	if (before == BPF_TCP_SYN_SENT)
		begin_streams(s, ORIGIN_CONNECTED, tp->snd_nxt, tp->copied_seq);
	else if (before == BPF_TCP_SYN_RECV)
		begin_streams(s, ORIGIN_ACCEPTED, tp->snd_nxt, tp->copied_seq);
	decide(tp, s);
	if (s->verdict == VERDICT_WATCH)
		announce(tp, s);
}

static __always_inline void closed(struct sock *sk, struct tcp_sock *tp)
{
	struct socket_state *s = bpf_sk_storage_get(&sockets, sk, 0, 0);

	if (!s)
		return;
	unlist_egress(s);
	if (s->verdict == VERDICT_WATCH && s->announced)
		report_closed(tp, s);
}

static __always_inline void listening(struct tcp_sock *tp, struct task_struct *task, __u32 pid)
{
	struct listen_record *r;
	struct endpoints e;

	if (!control.announce_listeners)
		return;
	read_endpoints(tp, &e);
	if (!e.local_port)
		return;
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r) {
		count_ring_full(0);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	fill_head(&r->head, RECORD_LISTEN, 0);
	__builtin_memcpy(r->local, e.local, sizeof(r->local));
	r->local_port = e.local_port;
	r->netns = netns_of(tp);
	r->pid = pid;
	read_executable(task, r->executable);
	bpf_ringbuf_submit(r, wake_flags());
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(acktrail_states, struct sock *sk, int before, int after)
{
	struct tcp_sock *tp;

	(void)ctx;
	if (after != BPF_TCP_SYN_SENT && after != BPF_TCP_ESTABLISHED && after != BPF_TCP_CLOSE && after != BPF_TCP_LISTEN)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (after == BPF_TCP_SYN_SENT)
		connecting(sk, tp);
	else if (after == BPF_TCP_ESTABLISHED)
		established(sk, tp, before);
	else if (after == BPF_TCP_CLOSE)
		closed(sk, tp);
	else
		listening(tp, bpf_get_current_task_btf(), bpf_get_current_pid_tgid() >> 32);
	return 0;
}

/* A socket found open. Several files and processes may hold it: the first one is its owner until a read says otherwise. */
static __always_inline void found(struct sock *sk, struct tcp_sock *tp, struct task_struct *task)
{
	struct socket_state *s;

	note_node(tp);
	if (!rules_decide(tp))
		return;
	s = keep(sk);
	if (!s)
		return;
	if (!s->owner_pid) {
		set_owner(s, task, task->tgid);
		s->announced = 0;
	}
	if (s->generation != control.rules_generation)
		decide(tp, s);
	if (s->verdict == VERDICT_WATCH && !s->announced)
		announce(tp, s);
}

SEC("iter/task_file")
int acktrail_open(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct tcp_sock *tp;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (sk->__sk_common.skc_state == BPF_TCP_LISTEN)
		listening(tp, task, task->tgid);
	else if (sk->__sk_common.skc_state != BPF_TCP_CLOSE && sk->__sk_common.skc_state != BPF_TCP_SYN_SENT)
		found(sk, tp, task);
	return 0;
}

#endif
