//! Gzip (RFC 1952), one member, as all producers write it. Its checksum does not count: the batch has one.

use std::ops::ControlFlow;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress as inflate};

use super::{Failure, Output};

/// Deflate's window, and as much again.
const WINDOW: usize = 64 << 10;

/// Memory for decompression.
#[derive(Default)]
pub(super) struct Inflater {
    state: Box<DecompressorOxide>,
    window: Vec<u8>,
    /// So much of the window has bytes of the last stream.
    used: usize,
}

impl Inflater {
    /// A stream that refers to what lies before its beginning finds zeros, not what was there before.
    fn begin(&mut self) {
        self.state.init();
        self.window.resize(WINDOW, 0);
        self.window.iter_mut().take(self.used).for_each(|byte| *byte = 0);
        self.used = 0;
    }
}

pub(super) fn decompress<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    input: &[u8],
    inflater: &mut Inflater,
    output: &mut Output<'_, Sink>,
) -> Result<(), Failure> {
    let mut input = body(input).ok_or(Failure::Malformed)?;
    inflater.begin();
    let mut at = 0;
    loop {
        let (status, used, made) = inflate(&mut inflater.state, input, &mut inflater.window, at, 0);
        inflater.used = inflater.used.max(at + made);
        output.give(inflater.window.get(at..at + made).ok_or(Failure::Malformed)?)?;
        input = input.get(used..).ok_or(Failure::Malformed)?;
        at = (at + made) % WINDOW;
        match status {
            TINFLStatus::Done => return Ok(()),
            TINFLStatus::HasMoreOutput => {}
            _ => return Err(Failure::Malformed),
        }
    }
}

/// What follows a member's header.
fn body(input: &[u8]) -> Option<&[u8]> {
    let (&[31, 139, 8, flags, ..], mut rest) = input.split_first_chunk::<10>()? else { return None };
    let has = |bit: u8| flags >> bit & 1 != 0;
    if has(2) {
        let (length, extra) = rest.split_first_chunk()?;
        rest = extra.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [has(3), has(4)] {
        if text {
            rest = rest.get(memchr::memchr(0, rest)? + 1..)?;
        }
    }
    rest.get(if has(1) { 2 } else { 0 }..)
}
