//! The map `demands` (`bpf/maps.h`): flows that are not needed whole.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::mapping::{Mapping, page_size};
use crate::capture::{Cookie, Demand, Direction};

/// The constants `DEMAND_*` of `bpf/event.h`.
const PLACES: u64 = 4096;
const BITS: u32 = 5;
const INGRESS: u64 = 1;
const FLEXIBLE: u64 = 2;
const FETCHED: u64 = 4;
const PRODUCED: u64 = 8;
const NO_READS: u64 = 16;

/// The mapped map.
pub(super) struct Demands {
    places: Mapping,
}

impl Demands {
    pub(super) fn map(fd: BorrowedFd<'_>) -> io::Result<Demands> {
        let bytes = (PLACES as usize * size_of::<u64>()).next_multiple_of(page_size());
        Ok(Demands { places: Mapping::new(fd, 0, bytes, true)? })
    }

    pub(super) fn set(&self, cookie: Cookie, direction: Direction, demand: Demand) {
        let ingress = u64::from(direction == Direction::Ingress) * INGRESS;
        let place = cookie.0.wrapping_mul(2).wrapping_add(ingress) % PLACES;
        let place = self.places.u64(place as usize * size_of::<u64>());
        let flow = cookie.0 << BITS | ingress;
        match flags(demand) {
            // Another flow may have the place by now.
            0 if place.load(Ordering::Relaxed) >> BITS != cookie.0 => {}
            0 => place.store(0, Ordering::Release),
            flags => place.store(flow | flags, Ordering::Release),
        }
    }
}

fn flags(demand: Demand) -> u64 {
    match demand {
        Demand::Everything => 0,
        Demand::FetchedHeaders { flexible } => FETCHED | if flexible { FLEXIBLE } else { 0 },
        Demand::ProducedHeaders => PRODUCED,
        Demand::NoReads => NO_READS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_those_of_the_header() {
        const HEADER: &str = include_str!("../../bpf/event.h");
        let code = |line: &'static str| line.split_once("/*").map_or(line, |(code, _)| code).trim();
        for (name, value) in [
            ("PLACES", PLACES),
            ("BITS", BITS.into()),
            ("INGRESS", INGRESS),
            ("FLEXIBLE", FLEXIBLE),
            ("FETCHED", FETCHED),
            ("PRODUCED", PRODUCED),
            ("NO_READS", NO_READS),
        ] {
            let line = format!("#define DEMAND_{name} {value}");
            assert!(HEADER.lines().any(|found| code(found) == line), "{line}");
        }
    }
}
