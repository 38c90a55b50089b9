//! LZ4 frames (lz4_Frame_format.md), read here because Kafka's own are special: producers before KIP-31 wrote a wrong header
//! checksum, and clients in Go declare blocks of 4 MiB for a batch of a few records. So the header's checksum does not count
//! (the batch has one), and a block takes the memory that its bytes yield, not what the frame declares.

use std::ops::ControlFlow;

use super::{Failure, Output};

const MAGIC: [u8; 4] = 0x184d_2204u32.to_le_bytes();
/// How far back a block may refer into the blocks before it.
const WINDOW: usize = 64 << 10;

/// What a frame's descriptor says.
struct Frame {
    linked: bool,
    block_checksums: bool,
    largest_block: usize,
}

impl Frame {
    fn read(input: &[u8]) -> Option<(Frame, &[u8])> {
        let rest = input.strip_prefix(&MAGIC)?;
        let (&[flags, sizes], rest) = rest.split_first_chunk()?;
        let has = |bit: u32| flags >> bit & 1 != 0;
        // Version 1; a dictionary would have to be known.
        if flags >> 6 != 1 || has(0) {
            return None;
        }
        let largest_block = match sizes >> 4 & 7 {
            size @ 4..=7 => WINDOW << (2 * (size - 4)),
            _ => return None,
        };
        // Content size, if any, and the checksum of the header.
        let rest = rest.get(if has(3) { 9 } else { 1 }..)?;
        Some((Frame { linked: !has(5), block_checksums: has(4), largest_block }, rest))
    }
}

pub(super) fn decompress<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    input: &[u8],
    block: &mut Vec<u8>,
    history: &mut Vec<u8>,
    output: &mut Output<'_, Sink>,
) -> Result<(), Failure> {
    let (frame, mut input) = Frame::read(input).ok_or(Failure::Malformed)?;
    history.clear();
    loop {
        let (size, rest) = input.split_first_chunk().ok_or(Failure::Malformed)?;
        let size = u32::from_le_bytes(*size);
        if size == 0 {
            // Whatever follows is not read: no producer writes two frames.
            return Ok(());
        }
        let (plain, size) = (size >> 31 != 0, (size & !(1 << 31)) as usize);
        let (bytes, rest) = rest.split_at_checked(size).ok_or(Failure::Malformed)?;
        let made = if plain { bytes } else { expand(bytes, &frame, block, history, output)? };
        if made.len() > frame.largest_block {
            return Err(Failure::Malformed);
        }
        output.give(made)?;
        if frame.linked {
            remember(history, made);
        }
        input = rest.get(if frame.block_checksums { 4 } else { 0 }..).ok_or(Failure::Malformed)?;
    }
}

fn expand<'a, Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    bytes: &[u8],
    frame: &Frame,
    block: &'a mut Vec<u8>,
    history: &[u8],
    output: &Output<'_, Sink>,
) -> Result<&'a [u8], Failure> {
    let length = expanded_length(bytes).filter(|length| *length <= frame.largest_block).ok_or(Failure::Malformed)?;
    output.allows_block(length as u64)?;
    if block.len() < length {
        block.resize(length, 0);
    }
    let block = block.get_mut(..length).ok_or(Failure::Malformed)?;
    let made = if frame.linked {
        lz4_flex::block::decompress_into_with_dict(bytes, block, history)
    } else {
        lz4_flex::block::decompress_into(bytes, block)
    };
    block.get(..made.map_err(|_| Failure::Malformed)?).ok_or(Failure::Malformed)
}

/// Keeps the last bytes of what was made.
fn remember(history: &mut Vec<u8>, made: &[u8]) {
    let made = made.get(made.len().saturating_sub(WINDOW)..).unwrap_or(made);
    let surplus = (history.len() + made.len()).saturating_sub(WINDOW);
    history.drain(..surplus.min(history.len()));
    history.extend_from_slice(made);
}

/// How many bytes a block yields: the lengths of its literals and matches (lz4_Block_format.md). `None` if it ends too early.
fn expanded_length(mut block: &[u8]) -> Option<usize> {
    let mut length = 0usize;
    loop {
        let (&token, rest) = block.split_first()?;
        block = rest;
        let literals = run(token >> 4, &mut block)?;
        block = block.get(literals..)?;
        length += literals;
        if block.is_empty() {
            return Some(length);
        }
        block = block.get(2..)?;
        length += run(token & 15, &mut block)? + 4;
    }
}

/// A length: four bits, and as many bytes more as it takes.
fn run(nibble: u8, block: &mut &[u8]) -> Option<usize> {
    let mut length = usize::from(nibble);
    if nibble == 15 {
        loop {
            let (&byte, rest) = block.split_first()?;
            *block = rest;
            length += usize::from(byte);
            if byte != 255 {
                break;
            }
        }
    }
    Some(length)
}
