//! What clients and brokers write: batches, messages, and each codec's streams.

use std::io::Write;

use crate::protocol::kafka::codec::Codec;

/// A record as it is to be written.
#[derive(Clone, Debug, Default)]
pub struct Record {
    pub offset_delta: i32,
    pub timestamp_delta: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Record {
    pub fn header(mut self, name: &str, value: &[u8]) -> Record {
        self.headers.push((name.into(), Some(value.into())));
        self
    }
}

/// So many records with these values, one after the other.
pub fn records(values: impl IntoIterator<Item = Vec<u8>>) -> Vec<Record> {
    let record = |(number, value)| Record {
        offset_delta: number as i32,
        timestamp_delta: number as i64,
        value: Some(value),
        ..Record::default()
    };
    values.into_iter().enumerate().map(record).collect()
}

/// A batch as it is to be written; what is not said is as an idempotent producer has it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub base_offset: i64,
    pub codec: Codec,
    /// Besides the codec.
    pub attributes: u16,
    pub records: Vec<Record>,
    pub count: Option<i32>,
}

pub const BASE_TIMESTAMP: i64 = 1_700_000_000_000;

impl Batch {
    pub fn new(base_offset: i64, codec: Codec, records: Vec<Record>) -> Batch {
        Batch { base_offset, codec, attributes: 0, records, count: None }
    }

    pub fn write(&self) -> Vec<u8> {
        let body: Vec<u8> = self.records.iter().flat_map(record).collect();
        self.write_with(&compress(self.codec, &body))
    }

    /// With this body, whatever it is.
    pub fn write_with(&self, body: &[u8]) -> Vec<u8> {
        let last = self.records.last().map_or(0, |record| record.offset_delta);
        let largest = self.records.iter().map(|record| record.timestamp_delta).max().unwrap_or(0);
        let checked = [
            &(self.attributes | number(self.codec)).to_be_bytes()[..],
            &last.to_be_bytes(),
            &BASE_TIMESTAMP.to_be_bytes(),
            &(BASE_TIMESTAMP + largest).to_be_bytes(),
            &4711i64.to_be_bytes(),
            &3i16.to_be_bytes(),
            &17i32.to_be_bytes(),
            &self.count.unwrap_or(self.records.len() as i32).to_be_bytes(),
            body,
        ]
        .concat();
        let length = checked.len() as i32 + 9;
        let head = [&self.base_offset.to_be_bytes()[..], &length.to_be_bytes(), &5i32.to_be_bytes(), &[2]].concat();
        [&head[..], &crc32c::crc32c(&checked).to_be_bytes(), &checked].concat()
    }
}

fn number(codec: Codec) -> u16 {
    match codec {
        Codec::None => 0,
        Codec::Gzip => 1,
        Codec::Snappy => 2,
        Codec::Lz4 => 3,
        Codec::Zstd => 4,
        Codec::Unknown(number) => number.into(),
    }
}

pub fn varint(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

fn blob(bytes: Option<&[u8]>) -> Vec<u8> {
    match bytes {
        Some(bytes) => [&varint(bytes.len() as i64)[..], bytes].concat(),
        None => varint(-1),
    }
}

pub fn record(record: &Record) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(varint(record.timestamp_delta));
    body.extend(varint(record.offset_delta.into()));
    body.extend(blob(record.key.as_deref()));
    body.extend(blob(record.value.as_deref()));
    body.extend(varint(record.headers.len() as i64));
    for (name, value) in &record.headers {
        body.extend(blob(Some(name)));
        body.extend(blob(value.as_deref()));
    }
    [varint(body.len() as i64), body].concat()
}

/// A message of magic 0 or 1.
pub fn message(magic: u8, offset: i64, codec: Codec, key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let long = |bytes: Option<&[u8]>| match bytes {
        Some(bytes) => [&(bytes.len() as i32).to_be_bytes()[..], bytes].concat(),
        None => (-1i32).to_be_bytes().to_vec(),
    };
    let timestamp = if magic == 0 { Vec::new() } else { BASE_TIMESTAMP.to_be_bytes().to_vec() };
    let body = [&[0; 4][..], &[magic, number(codec) as u8], &timestamp, &long(key), &long(value)].concat();
    [&offset.to_be_bytes()[..], &(body.len() as i32).to_be_bytes(), &body].concat()
}

pub fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None | Codec::Unknown(_) => bytes.to_vec(),
        Codec::Gzip => gzip(bytes),
        Codec::Snappy => snappy(bytes),
        Codec::Lz4 => lz4(bytes, lz4_flex::frame::BlockMode::Independent),
        Codec::Zstd => ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_with(&[0, 0, 0, 0, 0, 0, 255], bytes)
}

/// With this behind the magic: flags, time, system, and what the flags promise.
pub fn gzip_with(header: &[u8], bytes: &[u8]) -> Vec<u8> {
    let deflated = miniz_oxide::deflate::compress_to_vec(bytes, 6);
    let length = (bytes.len() as u32).to_le_bytes();
    [&[31, 139, 8], header, &deflated, b"crc.", &length].concat()
}

pub fn snappy(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).unwrap()
}

/// In snappy-java's stream format.
pub fn xerial(bytes: &[u8], block: usize) -> Vec<u8> {
    let mut stream = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in bytes.chunks(block) {
        let block = snappy(block);
        stream.extend((block.len() as i32).to_be_bytes());
        stream.extend(block);
    }
    stream
}

pub fn lz4(bytes: &[u8], mode: lz4_flex::frame::BlockMode) -> Vec<u8> {
    let info = lz4_flex::frame::FrameInfo::new()
        .block_mode(mode)
        .block_size(lz4_flex::frame::BlockSize::Max64KB)
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(bytes.len() as u64));
    let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
