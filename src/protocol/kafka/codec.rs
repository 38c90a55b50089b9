//! Decompression within a budget.
//!
//! All codecs push what they make into a sink, piece by piece, and never hold more than the budget's memory. Nothing is
//! allocated by a length that a sender declared unless the bytes that are there can yield it.

mod gzip;
mod lz4;
mod snappy;

use std::io::Read;
use std::ops::ControlFlow;

use ruzstd::decoding::errors::{FrameDecoderError, FrameHeaderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Codec {
    /// Not.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, raw or in the blocks of snappy-java.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
    /// One that has no meaning yet.
    Unknown(u8),
}

impl Codec {
    /// By its number in a batch's attributes.
    pub fn of(number: u8) -> Codec {
        match number {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            other => Codec::Unknown(other),
        }
    }
}

/// What reading the records of one batch may cost. Time is bounded by the bytes that go in and come out; of zstd, whose decoder
/// gives nothing out before its window is full, up to `memory` and two blocks of 128 KiB more may be made before the bounds of
/// the output are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// The most compressed bytes that are kept until the batch is complete.
    pub input: u64,
    /// The most bytes that are read of a batch, after decompression.
    pub output: u64,
    /// The most bytes that each compressed byte may yield; counts once there are more than [`Budget::FREE`].
    pub ratio: u64,
    /// The most bytes that a decompressor may hold: zstd's window, one block of the others.
    pub memory: u64,
}

impl Budget {
    /// So many bytes any batch may yield: small batches of equal records compress a thousandfold.
    pub const FREE: u64 = 64 << 10;
}

impl Default for Budget {
    /// Batches as brokers accept them by default (1 MiB) and ten times that, windows that RFC 8878 recommends to accept.
    fn default() -> Budget {
        Budget { input: 10 << 20, output: 32 << 20, ratio: 200, memory: 8 << 20 }
    }
}

/// What a budget did not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Refusal {
    /// More compressed bytes than [`Budget::input`].
    Input,
    /// More decompressed bytes than [`Budget::output`].
    Output,
    /// A higher ratio than [`Budget::ratio`].
    Ratio,
    /// A larger window or block than [`Budget::memory`].
    Memory,
    /// A codec that is not known.
    Codec,
}

/// Why decompression ended before its input did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The input breaks the format, or ends too early.
    Malformed,
    /// The budget does not allow more.
    Refused(Refusal),
    /// The sink wants no more.
    Stopped,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}

/// Where decompressed bytes go, in pieces: counted against the budget before they are given.
struct Output<'a, Sink> {
    budget: &'a Budget,
    most: u64,
    had: u64,
    sink: Sink,
}

impl<Sink: FnMut(&[u8]) -> ControlFlow<()>> Output<'_, Sink> {
    /// Whether there is room for so many bytes more.
    fn allows(&self, bytes: u64) -> Result<(), Failure> {
        let wanted = self.had.saturating_add(bytes);
        if wanted > self.budget.output {
            return Err(Refusal::Output.into());
        }
        if wanted > self.most { Err(Refusal::Ratio.into()) } else { Ok(()) }
    }

    /// Whether a block of so many bytes may be made in memory.
    fn allows_block(&self, bytes: u64) -> Result<(), Failure> {
        if bytes > self.budget.memory { Err(Refusal::Memory.into()) } else { self.allows(bytes) }
    }

    fn give(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.allows(bytes.len() as u64)?;
        self.had += bytes.len() as u64;
        match (self.sink)(bytes) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Failure::Stopped),
        }
    }
}

/// Memory for decompression, used again and again; one for each thread. It holds nothing between two calls.
#[derive(Default)]
pub(super) struct Scratch {
    gzip: gzip::Inflater,
    block: Vec<u8>,
    history: Vec<u8>,
    chunk: Vec<u8>,
    zstd: Option<Box<FrameDecoder>>,
}

impl Scratch {
    const CHUNK: usize = 32 << 10;
    /// The memory that a batch took which yielded more than this is not kept.
    const KEPT: u64 = 2 << 20;

    /// Decompresses `input`, which is all there is of a batch's records, into `sink`. Answers how many bytes were given, and
    /// whether that was all. An input that is cut off yields what can be made of it, and is then malformed.
    pub fn decompress(
        &mut self,
        codec: Codec,
        input: &[u8],
        budget: &Budget,
        sink: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> (u64, Result<(), Failure>) {
        let most = budget.ratio.saturating_mul(input.len() as u64).max(Budget::FREE);
        let mut output = Output { budget, most, had: 0, sink };
        let result = if input.len() as u64 > budget.input {
            Err(Refusal::Input.into())
        } else {
            match codec {
                Codec::None => output.give(input),
                Codec::Gzip => gzip::decompress(input, &mut self.gzip, &mut output),
                Codec::Snappy => snappy::decompress(input, &mut self.block, &mut output),
                Codec::Lz4 => lz4::decompress(input, &mut self.block, &mut self.history, &mut output),
                Codec::Zstd => self.zstd(input, &mut output),
                Codec::Unknown(_) => Err(Refusal::Codec.into()),
            }
        };
        let made = output.had;
        if made > Self::KEPT {
            *self = Scratch::default();
        }
        (made, result)
    }

    fn zstd<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
        &mut self,
        mut input: &[u8],
        output: &mut Output<'_, Sink>,
    ) -> Result<(), Failure> {
        self.chunk.resize(Self::CHUNK, 0);
        let decoder = self.zstd.get_or_insert_default();
        decoder.set_max_window_size(output.budget.memory);
        while !input.is_empty() {
            match decoder.reset(&mut input) {
                Ok(()) => zstd_frame(decoder, &mut input, &mut self.chunk, output)?,
                Err(
                    FrameDecoderError::WindowSizeTooBig { .. }
                    | FrameDecoderError::FrameHeaderError(FrameHeaderError::WindowTooBig { .. }),
                ) => return Err(Refusal::Memory.into()),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    input = input.get(length as usize..).ok_or(Failure::Malformed)?;
                }
                Err(_) => return Err(Failure::Malformed),
            }
        }
        Ok(())
    }
}

/// Decompresses one frame, whose header was read. The decoder keeps the window until the frame ends, so that what is made
/// but not given is at most the window and one block of 128 KiB.
fn zstd_frame<Sink: FnMut(&[u8]) -> ControlFlow<()>>(
    decoder: &mut FrameDecoder,
    input: &mut &[u8],
    chunk: &mut [u8],
    output: &mut Output<'_, Sink>,
) -> Result<(), Failure> {
    output.allows(decoder.content_size())?;
    loop {
        let next = decoder.decode_blocks(&mut *input, BlockDecodingStrategy::UptoBlocks(1));
        let finished = next.map_err(|_| Failure::Malformed)?;
        loop {
            let length = decoder.read(chunk).map_err(|_| Failure::Malformed)?;
            match chunk.get(..length) {
                Some([]) | None => break,
                Some(bytes) => output.give(bytes)?,
            }
        }
        if finished {
            return Ok(());
        }
    }
}
