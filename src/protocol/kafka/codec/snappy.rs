//! Snappy: one raw block (librdkafka and others), or many in the stream format of snappy-java (the Java client): a magic
//! of eight bytes, two versions, then blocks with their length before them, as a big-endian 32-bit integer.

use std::ops::ControlFlow;

use super::{Failure, Output};

const MAGIC: [u8; 8] = *b"\x82SNAPPY\0";
/// What follows the magic: version, and the oldest version that can read it.
const VERSIONS: usize = 8;
/// The most that a byte of snappy yields: three make a copy of 64.
const HIGHEST_RATIO: u64 = 22;

pub(super) fn decompress<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    mut input: &[u8],
    block: &mut Vec<u8>,
    output: &mut Output<'_, Sink>,
) -> Result<(), Failure> {
    if !input.starts_with(&MAGIC) {
        return raw(input, block, output);
    }
    while !input.is_empty() {
        // Streams may be appended to each other.
        if let Some(rest) = input.strip_prefix(&MAGIC) {
            input = rest.get(VERSIONS..).ok_or(Failure::Malformed)?;
            continue;
        }
        let (length, rest) = input.split_first_chunk().ok_or(Failure::Malformed)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (compressed, rest) = rest.split_at_checked(length).ok_or(Failure::Malformed)?;
        raw(compressed, block, output)?;
        input = rest;
    }
    Ok(())
}

fn raw<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    input: &[u8],
    block: &mut Vec<u8>,
    output: &mut Output<'_, Sink>,
) -> Result<(), Failure> {
    let length = snap::raw::decompress_len(input).map_err(|_| Failure::Malformed)?;
    if length as u64 > HIGHEST_RATIO * input.len() as u64 {
        return Err(Failure::Malformed);
    }
    output.allows_block(length as u64)?;
    if block.len() < length {
        block.resize(length, 0);
    }
    let block = block.get_mut(..length).ok_or(Failure::Malformed)?;
    let made = snap::raw::Decoder::new().decompress(input, block).map_err(|_| Failure::Malformed)?;
    output.give(block.get(..made).ok_or(Failure::Malformed)?)
}
