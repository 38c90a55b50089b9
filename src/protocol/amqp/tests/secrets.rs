//! Credentials are told before anybody keeps them.

use super::*;

/// All ranges of secrets, as offsets in what the client sent.
fn ranges(talk: &mut Talk) -> Vec<(Flow, std::ops::Range<u64>)> {
    talk.sessions.secrets().map(|(_, flow, range)| (flow, range.start - 1000..range.end - 1000)).collect()
}

fn find(bytes: &[u8], wanted: &[u8]) -> std::ops::Range<u64> {
    let start = bytes.windows(wanted.len()).position(|window| window == wanted).unwrap() as u64;
    start..start + wanted.len() as u64
}

/// However the login is cut, its secret is told with, or before, the packet that holds it.
#[test]
fn are_told_before_they_come() {
    let login = [wire::PREFACE, &wire::start_ok("app", "\0guest\0hunter2")].concat();
    let secret = find(&login, b"\0guest\0hunter2");
    for cut in 1..login.len() {
        let mut talk = Talk::new(true);
        talk.client(&login[..cut]);
        let mut known = ranges(&mut talk);
        assert!((cut as u64) <= secret.start || known.iter().any(|(_, range)| range.contains(&secret.start)), "{cut}");
        talk.client(&login[cut..]);
        known.extend(ranges(&mut talk));
        assert_eq!(known.len(), 1, "{cut}: {known:?}");
        let (flow, range) = &known[0];
        assert_eq!(*flow, Flow::Forward);
        assert!(range.start <= secret.start && secret.end <= range.end && range.end < login.len() as u64);
        assert!(talk.lines().contains("name=app"), "{cut}");
    }
}

#[test]
fn that_come_later_are_told_too() {
    let mut talk = Talk::open();
    ranges(&mut talk);
    let before = talk.positions[0] - 1000;
    let update = wire::update_secret("token");
    talk.client(&update);
    let secret = find(&update, b"token");
    let known = ranges(&mut talk);
    assert!(known.iter().any(|(_, range)| range.start <= before + secret.start && before + secret.end <= range.end));
}

#[test]
fn wiped_bytes_make_the_same_session() {
    let login = wire::start_ok("app", "\0guest\0hunter2");
    let mut wiped = login.clone();
    let mut talk = Talk::new(true);
    talk.client(wire::PREFACE).broker(&wire::start()).client(&login).client(&wire::open("/"));
    for (_, range) in ranges(&mut talk) {
        wiped[range.start as usize - 8..range.end as usize - 8].fill(0);
    }
    assert_ne!(login, wiped);
    let mut again = Talk::new(true);
    again.client(wire::PREFACE).broker(&wire::start()).client(&wiped).client(&wire::open("/"));
    assert_eq!(talk.lines(), again.lines());
}

#[test]
fn are_everything_that_cannot_be_read_before_the_login_is_over() {
    let mut talk = Talk::new(true);
    let login = wire::start_ok("app", "\0guest\0hunter2");
    talk.client(wire::PREFACE).broker(&wire::start()).client_loses(&login[..9]).client(&login[9..]);
    assert_eq!(ranges(&mut talk), [(Flow::Forward, 17..8 + login.len() as u64)]);
    talk.broker(&wire::tune(0, 0)).client(&[wire::tune_ok(0, 0), wire::open("/")].concat());
    talk.client(&wire::channel_open(1));
    assert!(ranges(&mut talk).is_empty());
    assert!(talk.lines().contains("vhost=/"));
}

/// A hole in the client's properties: the rest of the frame is not read, but it is still the login.
#[test]
fn are_told_where_a_hole_cuts_what_is_public() {
    let login = wire::start_ok("app", "\0guest\0hunter2");
    let secret = find(&login, b"\0guest\0hunter2");
    for from in 0..login.len() - 2 {
        for until in from + 1..(secret.start as usize).max(from + 2) {
            let mut talk = Talk::new(true);
            talk.client(wire::PREFACE).broker(&wire::start()).client(&login[..from]);
            let mut known = ranges(&mut talk);
            talk.client_loses(&login[from..until]).client(&login[until..]);
            known.extend(ranges(&mut talk));
            let kept = secret.clone().filter(|at| *at >= until as u64 || *at < from as u64);
            let untold: Vec<u64> =
                kept.filter(|at| !known.iter().any(|(_, range)| range.contains(&(at + 8)))).collect();
            assert!(untold.is_empty(), "{from}..{until}: {untold:?} {known:?}");
        }
    }
}

/// Nobody takes them for long: none is left out, whatever that costs.
#[test]
fn are_told_however_many_there_are() {
    let mut talk = Talk::open();
    ranges(&mut talk);
    let begin = talk.positions[0] - 1000;
    let updates = [wire::update_secret("token"), wire::heartbeat()].concat();
    let count = 10_000;
    for _ in 0..count {
        talk.client(&updates);
    }
    let known = ranges(&mut talk);
    assert!(known.len() <= 5_000, "{}", known.len());
    let secret = find(&updates, b"token");
    for at in (0..count).map(|n| begin + n * updates.len() as u64 + secret.start) {
        assert!(known.iter().any(|(_, range)| range.contains(&at) && range.contains(&(at + 4))), "{at}");
    }
}

/// A hole takes the head of an update, which may come amid a content; the body that is due then would be as long as a part of
/// what is left of it, and ends with the octet that ends a frame. What follows on it is no frame.
#[test]
fn are_not_taken_for_a_body_that_a_hole_makes_likely() {
    let update = wire::update_secret("twelve bytesΣ and the rest of it");
    let body = vec![b'.'; 8184 + 20];
    for lost in 1..7 + 4 + 4 {
        let mut talk = Talk::open();
        talk.client(&wire::publish(1, "ex", "key", false));
        let frames = wire::content(1, &wire::Properties::default(), &body, 8184);
        talk.client(&[&frames[0][..], &frames[1]].concat());
        ranges(&mut talk);
        let begin = talk.positions[0] - 1000;
        talk.client_loses(&update[..lost]).send(Flow::Forward, &update[lost..], false);
        talk.client(&[&frames[2][..], &publish(b"next")].concat());
        let known = ranges(&mut talk);
        let secret = find(&update, "twelve bytesΣ and the rest of it".as_bytes());
        for at in begin + secret.start.max(lost as u64)..begin + secret.end {
            // The octet itself is not, if it is looked at.
            let is_end = update[(at - begin) as usize] == 0xce;
            assert!(is_end || known.iter().any(|(_, range)| range.contains(&at)), "{lost}: {} {known:?}", at - begin);
        }
        assert!(talk.lines().contains("size=4"), "{lost}");
    }
}

/// Where a hole ends within the head of a body that is due, what comes next may as well be what is left of an update.
#[test]
fn are_not_taken_for_the_rest_of_a_head() {
    let body = vec![b'.'; 3 * 8184];
    let frames = wire::content(1, &wire::Properties::default(), &body, 8184);
    for lost in 8192 + 1..8192 + 7 {
        let mut talk = Talk::open();
        talk.client(&[&wire::publish(1, "ex", "key", false)[..], &frames[0], &frames[1]].concat());
        ranges(&mut talk);
        talk.hole(Flow::Forward, lost);
        let begin = talk.positions[0] - 1000;
        talk.client(b"hunter2").client(&publish(b"next"));
        assert_eq!(ranges(&mut talk), [(Flow::Forward, begin..begin + 7)], "{lost}");
        assert!(talk.lines().contains("size=4"), "{lost}");
    }
}

/// The bytes that tell it are no login: a replay needs them to tell the same.
#[test]
fn are_not_where_another_protocol_is_told_by() {
    let mut talk = Talk::new(false);
    let record = [&b"\x17\x03\x03\x00\x20"[..], &[7; 32]].concat();
    talk.client(&record).client(&record);
    assert_eq!(ranges(&mut talk), [(Flow::Forward, 5..74)]);
}

/// Where the broker is known nothing that it sends is a login.
#[test]
fn are_among_what_is_passed_over_in_the_clients_flow_alone() {
    let mut talk = Talk::new(false);
    talk.client(b"the rest of something").broker(b"the rest of something else");
    talk.client(&publish(b"x")).broker(&wire::ack(1, 1, false));
    assert_eq!(ranges(&mut talk), [(Flow::Forward, 0..21)]);
    assert!(talk.lines().contains("published"));
}

/// A boundary that is not proved in a second is given up, whether somebody records or not: a recording would have to wait for it.
#[test]
fn are_decided_after_a_second() {
    let passed = |wait: u64| {
        let mut talk = Talk::new(false);
        let two = [wire::ack(1, 1, false), wire::ack(1, 2, false)].concat();
        talk.send(Flow::Forward, &two, false);
        assert_eq!(talk.sessions.undecided_since(), Some(Timestamp(1_000_000)));
        talk.wait(wait).send(Flow::Forward, &wire::ack(1, 3, false), false);
        (ranges(&mut talk), talk.lines().matches("settled").count(), talk.sessions.undecided_since().is_some())
    };
    assert_eq!(passed(999), (vec![], 3, false));
    assert_eq!(passed(1000), (vec![(Flow::Forward, 0..42)], 0, true));
}
