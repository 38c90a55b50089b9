//! From 32-bit TCP sequence numbers to 64-bit positions.

use super::Position;

/// The position of the first sequence number of a flow: a full turn of the sequence space, so that what was sent a little
/// earlier has a position too, and the low 32 bits are the sequence number's.
pub(super) fn first_position(sequence: u32) -> Position {
    (1 << 32) + Position::from(sequence)
}

/// The position nearest to `near` whose low 32 bits are `sequence` (RFC 793's comparison, widened). Never below zero.
pub(super) fn widen(near: Position, sequence: u32) -> Position {
    let distance = sequence.wrapping_sub(near as u32) as i32;
    near.checked_add_signed(i64::from(distance)).unwrap_or_else(|| Position::from(sequence))
}

/// The smallest position at or behind `from` whose low 32 bits are `sequence`.
pub(super) fn at_or_behind(from: Position, sequence: u32) -> Position {
    from.saturating_add(Position::from(sequence.wrapping_sub(from as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_keep_the_low_32_bits_and_never_wrap() {
        let mut position = first_position(u32::MAX - 10);
        for step in [5u32, 100, 1 << 20, (1 << 31) - 1, 3] {
            let next = widen(position, (position as u32).wrapping_add(step));
            assert_eq!(next, position + u64::from(step));
            position = next;
        }
        assert_eq!(widen(position, (position as u32).wrapping_sub(7)), position - 7);
        assert_eq!(widen(3, u32::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn at_or_behind_only_goes_forward() {
        assert_eq!(at_or_behind(first_position(10), 10), first_position(10));
        assert_eq!(at_or_behind(first_position(10), 9), first_position(9) + (1 << 32));
    }
}
