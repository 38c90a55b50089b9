//! Values that may be cut anywhere: each is read from what is there, and goes on with the next piece.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The bytes break a rule of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Takes the first `most` bytes, or fewer if there are no more.
pub(super) fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// A variable-length integer in zigzag form, as protocol buffers have it (`ByteUtils.readVarint`, `readVarlong`).
#[derive(Debug, Default)]
pub(super) struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// A 32-bit one, of at most five bytes. `None`: there is more to come.
    pub fn int(&mut self, input: &mut &[u8]) -> Result<Option<i32>, Malformed> {
        let raw = self.raw(input, 28)?;
        Ok(raw.map(|raw| (raw as u32 >> 1) as i32 ^ -((raw & 1) as i32)))
    }

    /// A 64-bit one, of at most ten bytes. `None`: there is more to come.
    pub fn long(&mut self, input: &mut &[u8]) -> Result<Option<i64>, Malformed> {
        let raw = self.raw(input, 63)?;
        Ok(raw.map(|raw| (raw >> 1) as i64 ^ -((raw & 1) as i64)))
    }

    /// A length: -1 is null (`None`), less is malformed.
    pub fn length(&mut self, input: &mut &[u8]) -> Result<Option<Option<usize>>, Malformed> {
        self.int(input)?.map(length).transpose()
    }

    #[inline]
    fn raw(&mut self, input: &mut &[u8], last_shift: u32) -> Result<Option<u64>, Malformed> {
        while let [byte, rest @ ..] = *input {
            *input = rest;
            self.value |= u64::from(byte & 0x7f) << self.shift;
            if byte & 0x80 == 0 {
                let value = self.value;
                *self = Varint::default();
                return Ok(Some(value));
            }
            self.shift += 7;
            if self.shift > last_shift {
                return Err(Malformed);
            }
        }
        Ok(None)
    }
}

/// What a length says: -1 is null, less is malformed.
fn length(value: i32) -> Result<Option<usize>, Malformed> {
    match value {
        -1 => Ok(None),
        _ => usize::try_from(value).map(Some).map_err(|_| Malformed),
    }
}

/// Big-endian integers of fixed width.
#[derive(Debug, Default)]
pub(super) struct Fixed {
    value: u64,
    had: usize,
}

impl Fixed {
    /// The next `WIDTH` bytes, without sign. `None`: there is more to come.
    pub fn read<const WIDTH: usize>(&mut self, input: &mut &[u8]) -> Option<u64> {
        for byte in take(input, WIDTH - self.had) {
            self.value = self.value << 8 | u64::from(*byte);
            self.had += 1;
        }
        (self.had == WIDTH).then(|| std::mem::take(self).value)
    }

    /// It is not in the middle of one.
    pub fn is_between(&self) -> bool {
        self.had == 0
    }

    /// A length of four bytes: -1 is null (`None`), less is malformed.
    pub fn length(&mut self, input: &mut &[u8]) -> Result<Option<Option<usize>>, Malformed> {
        self.read::<4>(input).map(|value| length(value as u32 as i32)).transpose()
    }
}

/// What is kept of a key or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// xxh3 of all its bytes, without a seed: the same on every host.
    pub hash: u64,
    /// Its length in bytes.
    pub length: u32,
}

/// A key or a value that passes: hashed, not kept.
#[derive(Default)]
pub(super) struct Blob {
    hasher: Option<Box<Xxh3>>,
    length: usize,
    had: usize,
}

impl Blob {
    /// Another one of this many bytes begins.
    pub fn begin(&mut self, length: usize) {
        (self.length, self.had) = (length, 0);
    }

    /// Takes what there is of it. `None`: there is more to come.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Digest> {
        let part = take(input, self.length - self.had);
        let first = self.had == 0;
        self.had += part.len();
        let done = self.had == self.length;
        if first && done {
            return Some(self.digest(xxh3_64(part)));
        }
        let hasher = self.hasher.get_or_insert_default();
        if first {
            hasher.reset();
        }
        hasher.update(part);
        done.then(|| hasher.digest()).map(|hash| self.digest(hash))
    }

    fn digest(&self, hash: u64) -> Digest {
        // A length on the wire is a 32-bit integer.
        Digest { hash, length: self.length as u32 }
    }
}

/// Bytes of which the first `KEPT` are kept: in place where they came in one piece, copied where they did not.
pub(super) struct Text<const KEPT: usize> {
    kept: Vec<u8>,
    length: usize,
    had: usize,
}

impl<const KEPT: usize> Default for Text<KEPT> {
    fn default() -> Self {
        Text { kept: Vec::new(), length: 0, had: 0 }
    }
}

impl<const KEPT: usize> Text<KEPT> {
    /// Another one of this many bytes begins.
    pub fn begin(&mut self, length: usize) {
        self.kept.clear();
        (self.length, self.had) = (length, 0);
    }

    /// Takes what there is of it; then gives what is kept. `None`: there is more to come.
    pub fn read<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<&'a [u8]> {
        let part = take(input, self.length - self.had);
        let first = self.had == 0;
        self.had += part.len();
        let done = self.had == self.length;
        let (head, _) = part.split_at(part.len().min(KEPT - self.kept.len()));
        if first && done {
            return Some(head);
        }
        self.kept.extend_from_slice(head);
        done.then_some(&self.kept)
    }

    /// All of it was kept.
    pub fn whole(&self) -> bool {
        self.length <= KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(bytes: &[u8]) -> Result<Option<i32>, Malformed> {
        Varint::default().int(&mut &*bytes)
    }

    #[test]
    fn varints_are_zigzag_and_bounded() {
        assert_eq!(int(&[0]), Ok(Some(0)));
        assert_eq!(int(&[1]), Ok(Some(-1)));
        assert_eq!(int(&[2]), Ok(Some(1)));
        assert_eq!(int(&[0xac, 0x02]), Ok(Some(150)));
        assert_eq!(int(&[0xfe, 0xff, 0xff, 0xff, 0x0f]), Ok(Some(i32::MAX)));
        assert_eq!(int(&[0xff, 0xff, 0xff, 0xff, 0x0f]), Ok(Some(i32::MIN)));
        assert_eq!(int(&[0x80, 0x80]), Ok(None));
        assert_eq!(int(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01]), Err(Malformed));
        let long = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Varint::default().long(&mut &long[..]), Ok(Some(i64::MIN)));
        assert_eq!(Varint::default().long(&mut &[0x80; 10][..]), Err(Malformed));
    }

    #[test]
    fn a_value_cut_at_every_byte_is_the_same() {
        let mut varint = Varint::default();
        assert_eq!(varint.int(&mut &[0xac][..]), Ok(None));
        assert_eq!(varint.int(&mut &[0x02][..]), Ok(Some(150)));
        assert_eq!(varint.length(&mut &[1][..]), Ok(Some(None)), "null");
        assert_eq!(varint.length(&mut &[3][..]), Err(Malformed), "-2");
        let mut fixed = Fixed::default();
        assert_eq!(fixed.read::<4>(&mut &[1, 2, 3][..]), None);
        assert_eq!(fixed.read::<4>(&mut &[4, 5][..]), Some(0x0102_0304));
        let (mut blob, mut text) = (Blob::default(), Text::<3>::default());
        blob.begin(5);
        assert_eq!(blob.read(&mut &b"he"[..]), None);
        assert_eq!(blob.read(&mut &b"llo!"[..]), Some(Digest { hash: xxh3_64(b"hello"), length: 5 }));
        text.begin(5);
        assert_eq!(text.read(&mut &b"he"[..]), None);
        assert_eq!(text.read(&mut &b"llo!"[..]), Some(&b"hel"[..]));
        text.begin(2);
        assert!(text.whole());
        assert_eq!(text.read(&mut &b"hello"[..]), Some(&b"he"[..]));
    }
}
