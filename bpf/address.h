/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Addresses of both families in one shape: IPv6 in network order, IPv4 mapped into it. */
#ifndef ACKTRAIL_ADDRESS_H
#define ACKTRAIL_ADDRESS_H

struct endpoints {
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port;
	__u16 remote_port;
};

static __always_inline void map_ipv4(__u32 *address, __u32 ipv4)
{
	address[0] = 0;
	address[1] = 0;
	address[2] = bpf_htonl(0xffff);
	address[3] = ipv4;
}

/* One of 127.0.0.0/8. */
static __always_inline bool is_loopback4(const __u32 *address)
{
	return !address[0] && !address[1] && address[2] == bpf_htonl(0xffff) && bpf_ntohl(address[3]) >> 24 == 127;
}

#endif
