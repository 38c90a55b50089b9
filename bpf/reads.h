/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The read tap: tcp_rcv_space_adjust, which the kernel passes whenever an application has taken bytes out of a receive
 * queue (recv, read, splice, io_uring), in that application's context: who read, and how far. A raw tracepoint with BTF
 * costs a few nanoseconds for sockets that are not watched.
 */
#ifndef ACKTRAIL_READS_H
#define ACKTRAIL_READS_H

#include "socket.h"

/* Each record says where its read began, so that the one behind a lost one tells which bytes that one had taken. */
static __always_inline void report_read(struct socket_state *s, __u32 copied, __u32 pid)
{
	struct read_record *r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	__u32 from = s->reported_copied;

	s->reported_copied = copied;
	if (!r) {
		count_ring_full(0);
		return;
	}
	fill_head(&r->head, RECORD_READ, s->cookie);
	r->head.from = from;
	r->copied = copied;
	r->pid = pid;
	bpf_ringbuf_submit(r, wake_flags());
}

SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(acktrail_reads, struct sock *sk)
{
	struct socket_state *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
	struct tcp_sock *tp;
	__u32 copied, pid;
	bool up_to_date;

	(void)ctx;
	if (!s || s->verdict == VERDICT_IGNORE)
		return 0;
	pid = bpf_get_current_pid_tgid() >> 32;
	up_to_date = s->generation == control.rules_generation;
	if (up_to_date && s->flags & STATE_BROKER_END && pid == s->owner_pid && s->announced)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 0;
	if (!up_to_date)
		decide(tp, s);
	if (s->verdict != VERDICT_WATCH)
		return 0;
	if (pid != s->owner_pid) {
		set_owner(s, bpf_get_current_task_btf(), pid);
		s->announced = 0;
	}
	if (!s->announced)
		announce(tp, s);
	copied = tp->copied_seq;
	if (copied != s->reported_copied && !(s->flags & STATE_BROKER_END))
		report_read(s, copied, pid);
	return 0;
}

#endif
