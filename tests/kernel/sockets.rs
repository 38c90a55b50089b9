//! Sockets that the standard library cannot make: bound before connecting, with chosen sequence numbers, in another
//! network namespace.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use std::thread;

use crate::support::Pair;

/// setsockopt with any plain value.
pub fn set_option<T: ?Sized>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) {
    let length = size_of_val(value) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes from `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    assert_eq!(result, 0, "setsockopt {level} {name}: {}", io::Error::last_os_error());
}

/// A client socket that will use this local address.
pub fn bound(address: &str) -> TcpStream {
    // SAFETY: a new descriptor, owned by nobody else.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(socket >= 0);
    // SAFETY: as above.
    let socket = unsafe { TcpStream::from_raw_fd(socket) };
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1i32);
    with_address(address.parse().unwrap(), |address, length| {
        // SAFETY: the kernel reads `length` bytes.
        unsafe { libc::bind(socket.as_raw_fd(), address, length) }
    });
    socket
}

/// Connects a bound socket to the listener, and accepts it.
pub fn connect_bound(client: TcpStream, listener: &TcpListener) -> Pair {
    connect(&client, listener.local_addr().unwrap());
    Pair { client, server: listener.accept().unwrap().0 }
}

/// One end of a connection that was never opened on the wire, with chosen sequence numbers (TCP_REPAIR, tcp(7)).
pub fn repaired(local: &str, remote: &str, send_next: u32, receive_next: u32) -> TcpStream {
    const TCP_RECV_QUEUE: i32 = 1;
    const TCP_SEND_QUEUE: i32 = 2;
    const TCP_REPAIR_WINDOW: i32 = 29;
    const WINDOW: u32 = 60_000;
    // Without the window probe that the other end, not there yet, would answer with a reset.
    const TCP_REPAIR_OFF_NO_WP: i32 = -1;
    let socket = bound(local);
    // Its end is a reset: no TIME_WAIT keeps its numbers.
    set_option(&socket, libc::SOL_SOCKET, libc::SO_LINGER, &[1i32, 0]);
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1i32);
    for (queue, sequence) in [(TCP_SEND_QUEUE, send_next), (TCP_RECV_QUEUE, receive_next)] {
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, &queue);
        set_option(&socket, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &sequence);
    }
    connect(&socket, remote.parse().unwrap());
    // struct tcp_repair_window: snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup. Without it, both wait for a window update.
    let window = [receive_next, WINDOW, WINDOW, WINDOW, receive_next];
    set_option(&socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &window);
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &TCP_REPAIR_OFF_NO_WP);
    socket
}

fn connect(socket: &TcpStream, address: SocketAddr) {
    with_address(address, |address, length| {
        // SAFETY: the kernel reads `length` bytes.
        unsafe { libc::connect(socket.as_raw_fd(), address, length) }
    });
}

fn with_address(address: SocketAddr, call: impl FnOnce(*const libc::sockaddr, libc::socklen_t) -> i32) {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let raw = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    };
    let result = call((&raw const raw).cast(), size_of_val(&raw) as libc::socklen_t);
    assert_eq!(result, 0, "{address}: {}", io::Error::last_os_error());
}

/// Two network namespaces, joined by a veth pair with the addresses 10.213.7.1 and 10.213.7.2; gone when dropped.
pub struct Namespaces(&'static str, &'static str);

impl Namespaces {
    pub fn new(first: &'static str, second: &'static str) -> Namespaces {
        let namespaces = Namespaces(first, second);
        ip(&["netns", "add", first]);
        ip(&["netns", "add", second]);
        ip(&["-n", first, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", second]);
        for (name, address) in [(first, "10.213.7.1/24"), (second, "10.213.7.2/24")] {
            ip(&["-n", name, "link", "set", "lo", "up"]);
            ip(&["-n", name, "address", "add", address, "dev", "veth0"]);
            ip(&["-n", name, "link", "set", "veth0", "up"]);
        }
        namespaces
    }
}

impl Namespaces {
    /// Lets the loopback device of the first namespace carry packets of up to 512 KiB.
    pub fn allow_big_tcp(&self) {
        ip(&["-n", self.0, "link", "set", "lo", "gso_max_size", "524280", "gro_max_size", "524280"]);
    }

    /// Translates addresses inside of the first namespace: `from` becomes `to`, and the sender's own port another one.
    pub fn translate(&self, from: &str, to: &str) {
        let (address, port) = from.rsplit_once(':').unwrap();
        let rules = format!(
            "table ip acktrail {{
                chain out {{
                    type nat hook output priority -100;
                    ip daddr {address} tcp dport {port} dnat to {to}
                }}
                chain post {{
                    type nat hook postrouting priority 100;
                    ip daddr {} meta l4proto tcp snat to 10.213.7.1:40000-40100
                }}
            }}",
            to.rsplit_once(':').unwrap().0
        );
        let nft = Command::new("ip").args(["netns", "exec", self.0, "nft", &rules]).output().unwrap();
        assert!(nft.status.success(), "nft (of nftables): {}", String::from_utf8_lossy(&nft.stderr));
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in [self.0, self.1] {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `work` on a thread inside of a network namespace. Its sockets stay there.
pub fn in_namespace<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let namespace = File::open(format!("/run/netns/{name}")).unwrap();
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            // SAFETY: changes the namespace of this thread only, which ends below.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            work()
        });
        worker.join().unwrap()
    })
}
