//! What of a connection nobody needs, so that the kernel need not copy or report it: the insides of large batches, and when
//! responses are read that are not for consumers.

use crate::capture::Demand;

/// Batches up to this size are of no interest here: the kernel copies them anyway (`SMALL_BATCH` in `bpf/batches.h`).
const SMALL: u64 = 4096;
/// So many large ones in a row that nobody looked into: then the next ones will not be looked into either.
const ENOUGH: u16 = 8;
/// Each time that this was wrong, it takes twice as many, up to so many.
const AT_MOST: u16 = 1 << 14;
/// Produce requests of a connection that never fetched, after which it is taken for a producer's.
const PRODUCER: u16 = 64;

/// What is known of a flow's batches.
#[derive(Debug)]
pub(super) struct Insides {
    in_a_row: u16,
    enough: u16,
    told: bool,
}

impl Default for Insides {
    fn default() -> Self {
        Insides { in_a_row: 0, enough: ENOUGH, told: false }
    }
}

impl Insides {
    /// A batch of messages begins, which is looked into or not: what is demanded of the flow from now on, if that changes.
    pub fn batch(&mut self, size: u64, is_read: bool, headers: Demand) -> Option<Demand> {
        if size <= SMALL || headers == Demand::Everything {
            return None;
        }
        if is_read {
            self.in_a_row = 0;
            return std::mem::take(&mut self.told).then(|| {
                self.enough = self.enough.saturating_mul(2).min(AT_MOST);
                Demand::Everything
            });
        }
        if self.told {
            return None;
        }
        self.in_a_row += 1;
        self.told = self.in_a_row >= self.enough;
        self.told.then_some(headers)
    }

    /// The flow may be tapped elsewhere from now on, where nothing was demanded yet.
    pub fn forget(&mut self) {
        (self.in_a_row, self.told) = (0, false);
    }
}

/// Whether a connection's responses are a consumer's, of which it matters when they are read.
#[derive(Debug, Default)]
pub(super) struct Reads {
    produced: u16,
    fetches: bool,
    told: bool,
}

impl Reads {
    /// A Produce request: what is demanded of the responses' flow from now on, if that changes.
    pub fn produces(&mut self) -> Option<Demand> {
        if self.fetches || self.told {
            return None;
        }
        self.produced += 1;
        self.told = self.produced >= PRODUCER;
        self.told.then_some(Demand::NoReads)
    }

    /// The same for a request for messages.
    pub fn fetches(&mut self) -> Option<Demand> {
        self.fetches = true;
        std::mem::take(&mut self.told).then_some(Demand::Everything)
    }

    /// The flow may be tapped elsewhere from now on.
    pub fn forget(&mut self) {
        (self.produced, self.told) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADERS: Demand = Demand::FetchedHeaders { flexible: true };
    const LARGE: u64 = SMALL + 1;

    fn pass(insides: &mut Insides, count: u16, size: u64, is_read: bool) -> Vec<Demand> {
        (0..count).filter_map(|_| insides.batch(size, is_read, HEADERS)).collect()
    }

    #[test]
    fn headers_are_enough_when_nobody_looked_into_large_batches_for_long() {
        let mut insides = Insides::default();
        assert_eq!(pass(&mut insides, 1000, SMALL, false), []);
        assert_eq!(pass(&mut insides, ENOUGH - 1, LARGE, false), []);
        assert_eq!(pass(&mut insides, 100, LARGE, false), [HEADERS]);
        assert_eq!(pass(&mut insides, 2, SMALL, true), [], "these are copied anyway");
        assert_eq!(pass(&mut insides, 2, LARGE, true), [Demand::Everything]);
        assert_eq!(pass(&mut insides, 2 * ENOUGH - 1, LARGE, false), [], "it was wrong once");
        assert_eq!(pass(&mut insides, 1, LARGE, false), [HEADERS]);
    }

    #[test]
    fn another_tap_is_told_again() {
        let mut insides = Insides::default();
        assert_eq!(pass(&mut insides, 100, LARGE, false), [HEADERS]);
        insides.forget();
        assert_eq!(pass(&mut insides, 100, LARGE, false), [HEADERS]);
    }

    #[test]
    fn nobody_asks_when_a_producer_reads() {
        let produce = |reads: &mut Reads| (0..2 * PRODUCER).filter_map(|_| reads.produces()).collect::<Vec<_>>();
        let mut reads = Reads::default();
        assert_eq!(produce(&mut reads), [Demand::NoReads]);
        assert_eq!(reads.fetches(), Some(Demand::Everything));
        assert_eq!(reads.fetches(), None);
        assert_eq!(produce(&mut reads), [], "it is a consumer's as well");
    }
}
