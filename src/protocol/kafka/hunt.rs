//! Looks for a header where nothing says that one begins: at every byte, also across two pieces.

use super::batch::{Batch, COMMON, HEADER};

/// What can still be the beginning of a header.
const TAIL: usize = HEADER - 1;

/// The first header in `held` and `bytes` behind it that `accept` makes a batch of. It is given the header's place, counted
/// from the first held byte. `held` is shorter than a header.
pub(super) fn find(
    held: &[u8],
    bytes: &[u8],
    accept: impl Fn(usize, &[u8; HEADER]) -> Option<Batch>,
) -> Option<(Batch, [u8; HEADER])> {
    let mut joint = [0; 2 * TAIL];
    let (next, _) = bytes.split_at(bytes.len().min(TAIL));
    let (left, right) = joint.split_at_mut(held.len().min(TAIL));
    left.copy_from_slice(held.split_at(left.len()).0);
    right.split_at_mut(next.len()).0.copy_from_slice(next);
    let (joint, _) = joint.split_at(held.len() + next.len());
    let (across, inside) = (search(joint, held.len(), 0, &accept), || search(bytes, bytes.len(), held.len(), &accept));
    across.or_else(inside)
}

/// The first header that begins in the first `most` of these bytes, which begin at `base`.
fn search(
    bytes: &[u8],
    most: usize,
    base: usize,
    accept: &impl Fn(usize, &[u8; HEADER]) -> Option<Batch>,
) -> Option<(Batch, [u8; HEADER])> {
    // Magic 2 is the last byte of what all formats have in common.
    let magics = bytes.get(COMMON - 1..)?;
    memchr::memchr_iter(2, magics).take_while(|at| *at < most).find_map(|at| {
        let header = bytes.get(at..)?.first_chunk::<HEADER>()?;
        accept(base + at, header).map(|batch| (batch, *header))
    })
}

/// Keeps of the held bytes and these what can still be the beginning of a header, and answers how much that is.
pub(super) fn keep(header: &mut [u8; HEADER], held: usize, bytes: &[u8]) -> usize {
    let new = bytes.split_at(bytes.len().saturating_sub(TAIL)).1;
    let old = held.min(TAIL - new.len());
    header.copy_within(held - old..held, 0);
    header.split_at_mut(old).1.split_at_mut(new.len()).0.copy_from_slice(new);
    old + new.len()
}
