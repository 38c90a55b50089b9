//! The one place where bytes of the wire are sliced: numbers, lengths and stretches of one body that comes in pieces.

use super::program::Length;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The rest is in the next piece.
    More,
    /// It cannot be, or the body ends before it does.
    Malformed,
}

/// Knows how much of the body is to come behind a piece, and keeps a number that the piece's end cuts.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Bytes behind the piece.
    left: u32,
    partial_length: u8,
    partial: [u8; 16],
}

impl Cursor {
    /// A cursor at the beginning of a body of so many bytes.
    pub fn new(length: u32) -> Cursor {
        Cursor { left: length, partial_length: 0, partial: [0; 16] }
    }

    /// Bytes behind the piece.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Takes what belongs to the body off the input.
    pub fn next_piece<'i>(&mut self, input: &mut &'i [u8]) -> &'i [u8] {
        let (piece, rest) = input.split_at_checked(self.left as usize).unwrap_or((input, &[]));
        *input = rest;
        self.left -= piece.len() as u32;
        piece
    }

    /// Up to so many bytes are missing. Gives how many of them are the body's.
    pub fn miss(&mut self, most: u64) -> u32 {
        let missed = u32::try_from(most).unwrap_or(u32::MAX).min(self.left);
        self.left -= missed;
        missed
    }

    /// The number that was begun cannot be completed. Gives how many bytes of it came.
    pub fn forget(&mut self) -> u8 {
        std::mem::take(&mut self.partial_length)
    }

    /// What is left of the body.
    pub fn remaining(&self, piece: &[u8]) -> u32 {
        self.left + piece.len() as u32
    }

    /// A value of fixed size.
    #[inline]
    pub fn fixed<const N: usize>(&mut self, piece: &mut &[u8]) -> Result<[u8; N], Stop> {
        match piece.split_first_chunk::<N>() {
            Some((bytes, rest)) if self.partial_length == 0 => {
                *piece = rest;
                Ok(*bytes)
            }
            _ => self.gather(piece),
        }
    }

    #[cold]
    fn gather<const N: usize>(&mut self, piece: &mut &[u8]) -> Result<[u8; N], Stop> {
        let have = usize::from(self.partial_length);
        let wanted = N.saturating_sub(have);
        if wanted > self.remaining(piece) as usize {
            return Err(Stop::Malformed);
        }
        let (taken, rest) = piece.split_at_checked(wanted).unwrap_or((piece, &[]));
        *piece = rest;
        let end = have + taken.len();
        self.partial.get_mut(have..end).ok_or(Stop::Malformed)?.copy_from_slice(taken);
        self.partial_length = end as u8;
        if end < N {
            return Err(Stop::More);
        }
        self.partial_length = 0;
        self.partial.first_chunk().copied().ok_or(Stop::Malformed)
    }

    /// An integer of 1, 2, 4 or 8 bytes.
    #[inline]
    pub fn int(&mut self, width: u8, piece: &mut &[u8]) -> Result<i64, Stop> {
        Ok(match width {
            1 => i64::from(i8::from_be_bytes(self.fixed(piece)?)),
            2 => i64::from(i16::from_be_bytes(self.fixed(piece)?)),
            4 => i64::from(i32::from_be_bytes(self.fixed(piece)?)),
            _ => i64::from_be_bytes(self.fixed(piece)?),
        })
    }

    /// An unsigned varint of at most 32 bits, in at most five bytes.
    #[inline]
    pub fn uvarint(&mut self, piece: &mut &[u8]) -> Result<u32, Stop> {
        match piece.split_first() {
            Some((&byte, rest)) if byte < 0x80 && self.partial_length == 0 => {
                *piece = rest;
                Ok(u32::from(byte))
            }
            _ => self.long_uvarint(piece),
        }
    }

    fn long_uvarint(&mut self, piece: &mut &[u8]) -> Result<u32, Stop> {
        loop {
            let Some((&byte, rest)) = piece.split_first() else {
                return Err(if self.left == 0 { Stop::Malformed } else { Stop::More });
            };
            *piece = rest;
            let at = usize::from(self.partial_length);
            // Four bytes have 28 bits; the fifth has the last four.
            if at >= 4 && byte > 0x0f {
                return Err(Stop::Malformed);
            }
            *self.partial.get_mut(at).ok_or(Stop::Malformed)? = byte;
            self.partial_length += 1;
            if byte < 0x80 {
                self.partial_length = 0;
                let bytes = self.partial.get(..=at).unwrap_or_default();
                return Ok(bytes.iter().rev().fold(0, |value, byte| value << 7 | u32::from(byte & 0x7f)));
            }
        }
    }

    /// A length or a count. `None` is null, which only some may be. It is not held against what is left yet.
    #[inline]
    pub fn length(&mut self, length: Length, nullable: bool, piece: &mut &[u8]) -> Result<Option<u32>, Stop> {
        let length = match length {
            Length::Compact => i64::from(self.uvarint(piece)?) - 1,
            Length::Short => i64::from(i16::from_be_bytes(self.fixed(piece)?)),
            Length::Long => i64::from(i32::from_be_bytes(self.fixed(piece)?)),
        };
        match u32::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 && nullable => Ok(None),
            Err(_) => Err(Stop::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body of these bytes gives, as a whole and byte by byte, and what is left of it.
    fn check<T: PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        read: impl Fn(&mut Cursor, &mut &[u8]) -> Result<T, Stop>,
        expected: Result<T, Stop>,
        remaining: u32,
    ) {
        let mut cursor = Cursor::new(bytes.len() as u32);
        let mut input = bytes;
        let mut piece = cursor.next_piece(&mut input);
        assert_eq!(read(&mut cursor, &mut piece), expected, "{bytes:?}");
        assert_eq!(cursor.remaining(piece), remaining, "{bytes:?}");

        let mut cursor = Cursor::new(bytes.len() as u32);
        let mut pieces = bytes.chunks(1);
        let mut piece: &[u8] = &[];
        let found = loop {
            match read(&mut cursor, &mut piece) {
                Err(Stop::More) => piece = cursor.next_piece(&mut pieces.next().unwrap()),
                found => break found,
            }
        };
        assert_eq!(found, expected, "{bytes:?}");
        assert_eq!(cursor.remaining(piece), remaining, "{bytes:?}");
    }

    #[test]
    fn integers_are_big_endian_and_signed() {
        check(&[0xff, 1], |cursor, piece| cursor.int(1, piece), Ok(-1), 1);
        check(&[0xff, 0xfe], |cursor, piece| cursor.int(2, piece), Ok(-2), 0);
        check(&[0, 1, 0, 0, 9], |cursor, piece| cursor.int(4, piece), Ok(65536), 1);
        check(&[0, 0, 0, 1, 0, 0, 0, 0], |cursor, piece| cursor.int(8, piece), Ok(1 << 32), 0);
        check(&[0, 0, 1], |cursor, piece| cursor.int(4, piece), Err(Stop::Malformed), 3);
        check(&[7; 17], |cursor, piece| cursor.fixed::<16>(piece), Ok([7; 16]), 1);
    }

    #[test]
    fn varints_have_at_most_32_bits() {
        let uvarint = Cursor::uvarint;
        check(&[0], uvarint, Ok(0), 0);
        check(&[0x7f, 1], uvarint, Ok(127), 1);
        check(&[0x80, 1], uvarint, Ok(128), 0);
        check(&[0xac, 0x02], uvarint, Ok(300), 0);
        check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 9], uvarint, Ok(u32::MAX), 1);
        check(&[0x80, 0x80, 0x80, 0x80, 0x00], uvarint, Ok(0), 0);
        check(&[0xff, 0xff, 0xff, 0xff, 0x10, 9], uvarint, Err(Stop::Malformed), 1);
        check(&[0x80, 0x80, 0x80, 0x80, 0x80, 0], uvarint, Err(Stop::Malformed), 1);
        check(&[0x80, 0x80], uvarint, Err(Stop::Malformed), 0);
        check(&[], uvarint, Err(Stop::Malformed), 0);
    }

    #[test]
    fn lengths_are_null_only_where_they_may_be() {
        for (bytes, length, expected) in [
            (&[0, 3][..], Length::Short, Ok(Some(3))),
            (&[0xff, 0xff], Length::Short, Ok(None)),
            (&[0xff, 0xfe], Length::Short, Err(Stop::Malformed)),
            (&[0, 0, 1, 0], Length::Long, Ok(Some(256))),
            (&[0xff; 4], Length::Long, Ok(None)),
            (&[0x80, 0, 0, 0], Length::Long, Err(Stop::Malformed)),
            (&[0], Length::Compact, Ok(None)),
            (&[1], Length::Compact, Ok(Some(0))),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Length::Compact, Ok(Some(u32::MAX - 1))),
        ] {
            check(bytes, |cursor, piece| cursor.length(length, true, piece), expected, 0);
            let expected = if expected == Ok(None) { Err(Stop::Malformed) } else { expected };
            check(bytes, |cursor, piece| cursor.length(length, false, piece), expected, 0);
        }
    }

    #[test]
    fn a_piece_ends_where_the_body_does() {
        let mut cursor = Cursor::new(3);
        let mut input = &[1, 2, 3, 4, 5][..];
        assert_eq!(cursor.next_piece(&mut input), [1, 2, 3]);
        assert_eq!((input, cursor.left()), (&[4, 5][..], 0));
        let mut cursor = Cursor::new(7);
        assert_eq!(cursor.next_piece(&mut input), [4, 5]);
        assert_eq!((cursor.miss(3), cursor.left()), (3, 2));
        assert_eq!((cursor.miss(u64::MAX), cursor.left()), (2, 0));
    }
}
