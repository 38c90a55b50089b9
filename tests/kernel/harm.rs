//! What the capture must never do: lose bytes without saying so, outlive its process, keep privileges, keep a processor
//! busy.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use acktrail::capture::Direction;
use acktrail::kernel::probe::{Standing, probe};
use acktrail::kernel::{Capture, Feature, Options, privileges};
use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter, ProgInfoQueryOptions};

use crate::processes;
use crate::support::{self, Pair, Tap, only, pattern};

fn address(port: u16) -> SocketAddr {
    format!("127.0.0.1:{port}").parse().unwrap()
}

#[test]
#[ignore = "needs root"]
fn a_full_ring_is_counted_to_the_byte() {
    let mut tap = Tap::new(&Options { ring_bytes: 64 << 10, ..only(21040) });
    let listener = support::listen(address(21040));
    let mut pair = Pair::with(&listener, address(21040));
    // Nobody reads the ring meanwhile.
    for size in [100, 900, 3_000, 12_000, 30_000, 60_000, 1 << 20] {
        pair.exchange(&pattern(1, size), &pattern(2, size / 2));
    }
    // Until not even a read fits.
    for _ in 0..1_000 {
        pair.exchange(b"small", b"smaller");
    }
    let before = tap.capture.counters();
    assert!(before.ring_full_records > 0);
    // The ring is full, so this connection cannot be announced when it is made.
    let mut unannounced = Pair::with(&listener, address(21040));
    unannounced.exchange(b"lost", b"lost");
    tap.settle();
    // From here on there is room again, and everything must be exact.
    pair.exchange(b"last", b"answer");
    unannounced.exchange(b"found", b"found");
    let ends = [&pair, &unannounced].map(|pair| (pair.client_address(), pair.server_address()));
    let retransmitted = [&pair, &unannounced].iter().any(|pair| pair.retransmitted());
    pair.close();
    unannounced.close();
    tap.until("all ends", |tap| tap.closed.len() == 4);

    let counters = tap.capture.counters();
    assert_eq!(counters.payload_bytes, counters.captured_bytes + counters.ring_full_bytes);
    assert_eq!(counters.captured_bytes, tap.segments.iter().map(|s| s.bytes.len() as u64).sum::<u64>());
    let (mut lost_segments, mut missing_bytes) = (0, 0);
    for (number, (client, server)) in ends.into_iter().enumerate() {
        let of = |local, remote| {
            let both = tap.sockets.iter().find(|s| s.local == local && s.remote == remote);
            both.unwrap_or_else(|| panic!("never announced: {local} to {remote}"))
        };
        for (socket, last) in [(of(client, server), 0), (of(server, client), 1)] {
            let segments = tap.of(socket.cookie, Direction::Egress);
            let last_segment = segments.last().unwrap();
            let expected: &[u8] = [[&b"last"[..], b"answer"], [b"found", b"found"]][number][last];
            assert_eq!(last_segment.bytes, expected);
            assert_eq!(last_segment.lost, segments.iter().map(|s| s.lost).max().unwrap());
            lost_segments += u64::from(last_segment.lost);
            // The stream's length as the sequence numbers say is what came and what was lost.
            let end = last_segment.sequence.wrapping_add(last_segment.length);
            let missing = end.wrapping_sub(socket.send_next) as usize - tap.captured(socket.cookie, Direction::Egress);
            assert_eq!(missing > 0, last_segment.lost > 0, "{missing} bytes, {} records", last_segment.lost);
            missing_bytes += missing as u64;
        }
    }
    // Reads were lost too. The first one behind them says where it began, and so did all before them.
    let reader = tap.socket(ends[0].0);
    let reads: Vec<_> = tap.reads.iter().filter(|read| read.cookie == reader.cookie).collect();
    let (gaps, contiguous): (Vec<_>, Vec<_>) = reads.windows(2).partition(|pair| pair[0].copied != pair[1].from);
    assert!(!contiguous.is_empty() && gaps.len() == 1, "{reads:?}");
    let behind = gaps[0][1];
    assert_eq!((behind.pid, behind.copied.wrapping_sub(behind.from)), (std::process::id(), "answer".len() as u32));
    // What TCP sent again was lost again.
    assert!(missing_bytes <= counters.ring_full_bytes);
    assert!(missing_bytes == counters.ring_full_bytes || retransmitted);
    assert!(lost_segments > 0 && lost_segments <= counters.ring_full_records, "{lost_segments} {counters:?}");
}

/// A record that finds the reader asleep wakes it; while nothing happens, the reader does nothing either.
#[test]
#[ignore = "needs root"]
fn an_idle_reader_sleeps_until_it_is_woken() {
    let mut tap = Tap::new(&only(21041));
    let mut pair = Pair::new(address(21041));
    tap.settle();
    let before = context_switches();
    for _ in 0..30 {
        tap.take(Duration::from_millis(100));
    }
    // Thirty waits, the first of them naps: 3 s, each a few switches at the most. Polling every 5 ms would be six hundred.
    assert!(context_switches() - before < 100, "{} context switches", context_switches() - before);

    // The naps are behind it: this wait has no end but a record's.
    let (send, receive) = mpsc::channel();
    let reader = thread::spawn(move || {
        let polled = tap.capture.poll(Duration::MAX, &mut |_| {});
        send.send(()).unwrap();
        polled.unwrap().records
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while receive.recv_timeout(Duration::from_millis(50)).is_err() {
        assert!(Instant::now() < deadline, "the reader was never woken");
        pair.exchange(b"wake up", b"yes");
    }
    assert!(reader.join().unwrap() > 0);
}

/// How often this thread has gone to sleep.
fn context_switches() -> i64 {
    // SAFETY: plain numbers, all of them valid as zero; the kernel fills them in.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one rusage.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) }, 0);
    usage.ru_nvcsw
}

#[test]
#[ignore = "needs root"]
fn everything_works_without_privileges() {
    match processes::role() {
        None => {
            let child = processes::spawn(processes::this(), "harm::everything_works_without_privileges", "worker");
            assert!(child.said.starts_with("capabilities 0x0"), "{}", child.said);
            child.wait();
        }
        // The test harness has a thread of its own, which keeps its privileges; a fork has only this one.
        Some(_) => processes::in_a_fork(without_privileges),
    }
}

fn without_privileges() {
    let mut tap = Tap::new(&only(21042));
    tap.capture.start_guard().unwrap();
    assert!(!privileges::of_this_process().unwrap().none(), "there must be something to drop");
    processes::say(&privileges::drop_all().unwrap().to_string());
    assert!(privileges::of_this_process().unwrap().none());
    assert!(Capture::attach(&only(21043)).is_err(), "attaching needs privileges");

    let mut pair = Pair::new(address(21042));
    pair.exchange(b"ring", b"reads");
    tap.capture.watch_port(21043).unwrap();
    tap.capture.set_cgroups(&[]).unwrap();
    tap.capture.set_sampling(1.0).unwrap();
    let mut other = Pair::new(address(21043));
    other.exchange(b"new rule", b"works");
    pair.close();
    other.close();
    tap.until("all ends", |tap| tap.closed.len() == 4);
    let bytes: Vec<u8> = tap.segments.iter().flat_map(|segment| segment.bytes.clone()).collect();
    assert_eq!(bytes.len(), "ringreadsnew ruleworks".len());
    assert_eq!(tap.capture.counters().captured_bytes, bytes.len() as u64);
    let cookie = tap.sockets.first().unwrap().cookie;
    // The one thing that kernels before 5.19 refuse, and the doctor says so.
    let late_rules = probe(&only(21042)).into_iter().find(|finding| finding.name == "rules at run time").unwrap();
    assert_eq!(tap.capture.override_cookie(cookie, None).is_ok(), late_rules.standing == Standing::Ok);
}

/// The kernel's ids of everything that a process holds through BPF links: links, their programs, the programs' maps.
fn held_by(pid: u32) -> BTreeSet<(&'static str, u32)> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        for line in info.lines() {
            for (field, kind) in [("link_id:", "link"), ("prog_id:", "program"), ("map_id:", "map")] {
                held.extend(line.strip_prefix(field).map(|id| (kind, id.trim().parse().unwrap())));
            }
        }
    }
    let with_maps = ProgInfoQueryOptions::default().include_map_ids(true);
    for program in ProgInfoIter::with_query_opts(with_maps) {
        if held.contains(&("program", program.id)) {
            held.extend(program.map_ids.iter().map(|id| ("map", *id)));
        }
    }
    held
}

fn in_the_kernel() -> BTreeSet<(&'static str, u32)> {
    let links = LinkInfoIter::default().map(|link| ("link", link.id));
    let programs = ProgInfoIter::default().map(|program| ("program", program.id));
    let maps = MapInfoIter::default().map(|map| ("map", map.id));
    links.chain(programs).chain(maps).collect()
}

#[test]
#[ignore = "needs root"]
fn nothing_is_left_after_a_kill() {
    if processes::role().is_some() {
        let _tap = Tap::new(&only(21044));
        processes::ready();
        thread::sleep(Duration::from_secs(600));
        return;
    }
    let child = processes::spawn(processes::this(), "harm::nothing_is_left_after_a_kill", "victim");
    let held = held_by(child.id());
    let of = |kind| held.iter().filter(|(known, _)| *known == kind).count();
    assert_eq!((of("link"), of("program")), (4, 4), "two packet taps, the reads, the connections: {held:?}");
    assert!(of("map") >= 7, "{held:?}");
    assert!(held.is_subset(&in_the_kernel()));
    child.kill();
    // The kernel frees them after a grace period; the deadline only ends a test that has failed.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left: Vec<_> = in_the_kernel().intersection(&held).copied().collect();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root"]
fn the_doctor_tries_every_program() {
    let findings = probe(&only(21045));
    for feature in Feature::ALL {
        let finding =
            findings.iter().find(|finding| finding.name == feature.to_string()).expect("a finding per feature");
        assert_eq!(finding.standing, Standing::Ok, "{}", finding.detail);
    }
    assert!(findings.iter().all(|finding| finding.standing != Standing::Missing), "{findings:?}");
    let nowhere = Options { cgroup_root: Some("/proc".into()), ..only(21045) };
    let failed = probe(&nowhere);
    let packets = failed.iter().find(|finding| finding.name == Feature::Packets.to_string()).unwrap();
    assert_eq!(packets.standing, Standing::Missing, "attached to /proc?");
}
