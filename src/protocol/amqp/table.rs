//! Field tables, with the value types that RabbitMQ speaks (its errata differ from the specification: `s` is a signed
//! 16-bit integer). Values are slices of the frame; nothing is copied, and what nobody asks for is only stepped over.

use super::cursor::{Cursor, Flaw};

/// How deep tables and arrays are followed into each other. Clients nest two or three levels (x-death); a recursion of this
/// depth fits any stack.
pub(super) const DEEPEST: usize = 32;

/// The entries of a table, without its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
}

/// The values of an array, without its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Array<'a> {
    bytes: &'a [u8],
}

/// A field's value. Integers of all widths are widened: the broker may send another width than it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    /// The bits of the value as a 64-bit float.
    Float(u64),
    Decimal(u8, u32),
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// Seconds since the epoch.
    Time(u64),
    Table(Table<'a>),
    Array(Array<'a>),
    Void,
}

impl<'a> Table<'a> {
    /// Reads a table with its length. Its entries are not looked at yet.
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Table<'a>, Flaw> {
        Ok(Table { bytes: cursor.long_string()? })
    }

    /// The entries in order; after a flaw there are no more.
    pub fn entries(&self) -> impl Iterator<Item = Result<(&'a [u8], Value<'a>), Flaw>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let mut broken = false;
        std::iter::from_fn(move || {
            if broken || cursor.is_empty() {
                return None;
            }
            let entry = entry(&mut cursor);
            broken = entry.is_err();
            Some(entry)
        })
    }

    /// The value of a field, if it is there and everything before it is sound.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.entries().map_while(Result::ok).find(|(name, _)| *name == key.as_bytes()).map(|(_, value)| value)
    }

    /// The bytes on the wire, without the length.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Checks everything inside.
    pub fn validate(&self) -> Result<(), Flaw> {
        validate_table(*self, DEEPEST)
    }
}

impl<'a> Array<'a> {
    /// The values in order; after a flaw there are no more.
    pub fn values(&self) -> impl Iterator<Item = Result<Value<'a>, Flaw>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let mut broken = false;
        std::iter::from_fn(move || {
            if broken || cursor.is_empty() {
                return None;
            }
            let value = value(&mut cursor);
            broken = value.is_err();
            Some(value)
        })
    }
}

impl<'a> Value<'a> {
    /// A non-negative integer.
    pub fn unsigned(self) -> Option<u64> {
        match self {
            Value::Int(number) => u64::try_from(number).ok(),
            Value::Time(seconds) => Some(seconds),
            _ => None,
        }
    }

    /// A string, however it was tagged.
    pub fn text(self) -> Option<&'a [u8]> {
        match self {
            Value::Text(text) | Value::Bytes(text) => Some(text),
            _ => None,
        }
    }
}

fn entry<'a>(cursor: &mut Cursor<'a>) -> Result<(&'a [u8], Value<'a>), Flaw> {
    let key = within(cursor.short_string())?;
    Ok((key, value(cursor)?))
}

fn value<'a>(cursor: &mut Cursor<'a>) -> Result<Value<'a>, Flaw> {
    within(read_value(cursor))
}

/// The table's length said that there is more: running out of bytes inside it is a lie, not a lack.
fn within<T>(result: Result<T, Flaw>) -> Result<T, Flaw> {
    result.map_err(|flaw| if flaw == Flaw::Incomplete { Flaw::Malformed } else { flaw })
}

fn read_value<'a>(cursor: &mut Cursor<'a>) -> Result<Value<'a>, Flaw> {
    Ok(match cursor.u8()? {
        b't' => Value::Bool(cursor.u8()? != 0),
        b'b' => Value::Int(i64::from(cursor.u8()? as i8)),
        b'B' => Value::Int(i64::from(cursor.u8()?)),
        b's' => Value::Int(i64::from(cursor.u16()? as i16)),
        b'u' => Value::Int(i64::from(cursor.u16()?)),
        b'I' => Value::Int(i64::from(cursor.u32()? as i32)),
        b'i' => Value::Int(i64::from(cursor.u32()?)),
        b'l' | b'L' => Value::Int(cursor.u64()? as i64),
        b'f' => Value::Float(f64::from(f32::from_bits(cursor.u32()?)).to_bits()),
        b'd' => Value::Float(cursor.u64()?),
        b'D' => Value::Decimal(cursor.u8()?, cursor.u32()?),
        b'S' => Value::Text(cursor.long_string()?),
        b'x' => Value::Bytes(cursor.long_string()?),
        b'T' => Value::Time(cursor.u64()?),
        b'F' => Value::Table(Table::read(cursor)?),
        b'A' => Value::Array(Array { bytes: cursor.long_string()? }),
        b'V' => Value::Void,
        _ => return Err(Flaw::Malformed),
    })
}

fn validate_table(table: Table<'_>, depth: usize) -> Result<(), Flaw> {
    for entry in table.entries() {
        validate_value(entry?.1, depth)?;
    }
    Ok(())
}

fn validate_value(value: Value<'_>, depth: usize) -> Result<(), Flaw> {
    let inner = || depth.checked_sub(1).ok_or(Flaw::TooDeep);
    match value {
        Value::Table(table) => validate_table(table, inner()?),
        Value::Array(array) => {
            let depth = inner()?;
            array.values().try_for_each(|value| validate_value(value?, depth))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(bytes: &[u8]) -> Table<'_> {
        Table { bytes }
    }

    #[test]
    fn every_type_is_read_and_integers_are_widened() {
        let bytes = [
            &b"\x01at\x01\x01bb\xff\x01cB\xff\x01ds\xff\xfe\x01eu\xff\xfe\x01fI\xff\xff\xff\xff\x01gi\xff\xff\xff\xff"[..],
            b"\x01hl\xff\xff\xff\xff\xff\xff\xff\xff\x01iL\0\0\0\0\0\0\0\x07\x01jf\x3f\x80\0\0\x01kD\x02\0\0\0\x05",
            b"\x01lS\0\0\0\x02hi\x01mx\0\0\0\x01\xff\x01nT\0\0\0\0\0\0\0\x09\x01oF\0\0\0\x04\x01at\x01\x01pA\0\0\0\x01V\x01qV",
        ]
        .concat();
        let table = table(&bytes);
        assert_eq!(table.validate(), Ok(()));
        let values: Vec<_> = table.entries().map(|entry| entry.unwrap().1).collect();
        assert_eq!(values.len(), 17);
        let integers: Vec<_> =
            values.iter().filter_map(|value| if let Value::Int(n) = value { Some(*n) } else { None }).collect();
        assert_eq!(integers, [-1, 255, -2, 65534, -1, 4294967295, -1, 7]);
        assert_eq!(table.get("j"), Some(Value::Float(1f64.to_bits())));
        assert_eq!(table.get("l").and_then(Value::text), Some(&b"hi"[..]));
        assert_eq!(table.get("n").and_then(Value::unsigned), Some(9));
        assert_eq!(table.get("q"), Some(Value::Void));
        assert_eq!(table.get("z"), None);
    }

    #[test]
    fn lying_lengths_are_malformed() {
        assert_eq!(table(b"\x05ab").validate(), Err(Flaw::Malformed));
        assert_eq!(table(b"\x01aS\0\0\0\x09hi").validate(), Err(Flaw::Malformed));
        assert_eq!(table(b"\x01aF\xff\xff\xff\xff").validate(), Err(Flaw::Malformed));
        assert_eq!(table(b"\x01a?").validate(), Err(Flaw::Malformed));
        assert_eq!(Table::read(&mut Cursor::new(b"\0\0\0\x09")), Err(Flaw::Incomplete));
    }

    #[test]
    fn tables_nested_a_thousand_deep_are_refused_without_following_them() {
        let mut bytes = b"\x01at\x01".to_vec();
        for _ in 0..1000 {
            let length = (bytes.len() as u32).to_be_bytes();
            bytes = [&b"\x01aF"[..], &length, &bytes].concat();
        }
        assert_eq!(table(&bytes).validate(), Err(Flaw::TooDeep));
    }
}
