//! The one place where bytes of the wire are sliced.

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The bytes end before the value does. In a frame that is all there, this is as bad as [`Flaw::Malformed`].
    Incomplete,
    /// The bytes break a rule.
    Malformed,
    /// Nested deeper than is followed.
    TooDeep,
}

/// A bounds-checked reader of big-endian values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Succeeds if everything was read: arguments must fill their frame exactly.
    pub fn finish(&self) -> Result<(), Flaw> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Flaw::Malformed) }
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(Flaw::Incomplete)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(Flaw::Incomplete)?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub fn u8(&mut self) -> Result<u8, Flaw> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Flaw> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Flaw> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, Flaw> {
        self.array().map(u64::from_be_bytes)
    }

    /// A shortstr: an octet of length, then that many bytes.
    pub fn short_string(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// A longstr, a table's or an array's bytes: 32 bits of length, then that many bytes.
    pub fn long_string(&mut self) -> Result<&'a [u8], Flaw> {
        let length = self.u32()?;
        self.take(usize::try_from(length).map_err(|_| Flaw::Incomplete)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_big_endian_and_lengths_are_checked() {
        let mut cursor = Cursor::new(&[1, 0, 2, 0, 0, 0, 3, 2, b'h', b'i', 0, 0, 0, 9, b'x']);
        assert_eq!(cursor.u8(), Ok(1));
        assert_eq!(cursor.u16(), Ok(2));
        assert_eq!(cursor.u32(), Ok(3));
        assert_eq!(cursor.short_string(), Ok(&b"hi"[..]));
        assert_eq!(cursor.finish(), Err(Flaw::Malformed));
        assert_eq!(cursor.long_string(), Err(Flaw::Incomplete));
        assert_eq!(cursor.u64(), Err(Flaw::Incomplete));
        assert_eq!(cursor.take(1), Ok(&b"x"[..]));
        assert_eq!(cursor.finish(), Ok(()));
    }
}
