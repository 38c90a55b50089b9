//! From a frame to a TCP packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6ExtensionsSlice, Ipv6HeaderSlice, TcpHeaderSlice};

use super::Unusable;
use super::file::Frame;

/// A TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Of the first payload byte: behind the SYN if there is one.
    pub(super) sequence: u32,
    /// `None` without the ACK flag.
    pub(super) acknowledged: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// What the capture kept of the payload.
    pub(super) payload: &'a [u8],
    /// How long the payload was on the wire; at least `payload.len()`.
    pub(super) length: usize,
}

/// Link types, as <https://www.tcpdump.org/linktypes.html> numbers them. Raw IP is written as 12 or 14 by some systems.
const NULL: u16 = 0;
const ETHERNET: u16 = 1;
const RAW: [u16; 3] = [12, 14, 101];
const LOOP: u16 = 108;
const LINUX_COOKED: u16 = 113;
const IPV4: u16 = 228;
const IPV6: u16 = 229;
const LINUX_COOKED_V2: u16 = 276;

/// EtherTypes.
const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
/// More tags than this are not followed.
const MAX_TAGS: usize = 4;

/// Reads a frame's headers.
pub(super) fn read<'a>(frame: &Frame<'a>) -> Result<Packet<'a>, Unusable> {
    let packet = ip_packet(frame)?;
    // A frame that claims to have been shorter than what was kept of it had at least that.
    let length = frame.length.max(frame.bytes.len()) - (frame.bytes.len() - packet.len());
    match packet.first().map(|first| first >> 4) {
        Some(4) => ipv4(packet, length),
        Some(6) => ipv6(packet, length),
        Some(_) => Err(Unusable::Malformed),
        None => Err(Unusable::HeadersCut),
    }
}

/// What follows the link layer's header.
fn ip_packet<'a>(frame: &Frame<'a>) -> Result<&'a [u8], Unusable> {
    let bytes = frame.bytes;
    let at = |offset: usize| bytes.get(offset..).ok_or(Unusable::HeadersCut);
    match frame.link {
        Some(ETHERNET) => tagged(ether_type(at(12)?)?, at(14)?),
        Some(LINUX_COOKED) => tagged(ether_type(at(14)?)?, at(16)?),
        Some(LINUX_COOKED_V2) => tagged(ether_type(bytes)?, at(20)?),
        // An address family, in the byte order and with the numbers of the capturing system: the IP version says the same.
        Some(NULL | LOOP) => at(4),
        Some(IPV4 | IPV6) => Ok(bytes),
        Some(link) if RAW.contains(&link) => Ok(bytes),
        _ => Err(Unusable::LinkType),
    }
}

/// Skips VLAN tags.
fn tagged(mut ether: u16, mut rest: &[u8]) -> Result<&[u8], Unusable> {
    for _ in 0..=MAX_TAGS {
        match ether {
            TYPE_IPV4 | TYPE_IPV6 => return Ok(rest),
            tag if TYPE_VLAN.contains(&tag) => {
                ether = ether_type(rest.get(2..).ok_or(Unusable::HeadersCut)?)?;
                rest = rest.get(4..).ok_or(Unusable::HeadersCut)?;
            }
            _ => return Err(Unusable::NotIp),
        }
    }
    Err(Unusable::NotIp)
}

fn ether_type(bytes: &[u8]) -> Result<u16, Unusable> {
    bytes.first_chunk().map(|bytes| u16::from_be_bytes(*bytes)).ok_or(Unusable::HeadersCut)
}

/// `length` is that of the IP packet, as the link layer gives it. Segmentation offload leaves the IP header's own length
/// zero.
fn ipv4(packet: &[u8], length: usize) -> Result<Packet<'_>, Unusable> {
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|error| match error {
        etherparse::err::ipv4::HeaderSliceError::Len(_) => Unusable::HeadersCut,
        etherparse::err::ipv4::HeaderSliceError::Content(_) => Unusable::Malformed,
    })?;
    let total = match usize::from(header.total_len()) {
        0 => length,
        total => total,
    };
    if header.is_fragmenting_payload() {
        return Err(Unusable::Fragment);
    }
    if header.protocol() != IpNumber::TCP {
        return Err(Unusable::NotTcp);
    }
    let header_length = header.slice().len();
    let rest = packet.get(header_length..).ok_or(Unusable::HeadersCut)?;
    let length = total.checked_sub(header_length).ok_or(Unusable::Malformed)?;
    tcp(header.source_addr().into(), header.destination_addr().into(), rest, length)
}

fn ipv6(packet: &[u8], length: usize) -> Result<Packet<'_>, Unusable> {
    let header = Ipv6HeaderSlice::from_slice(packet).map_err(|error| match error {
        etherparse::err::ipv6::HeaderSliceError::Len(_) => Unusable::HeadersCut,
        etherparse::err::ipv6::HeaderSliceError::Content(_) => Unusable::Malformed,
    })?;
    let behind = packet.get(header.slice().len()..).ok_or(Unusable::HeadersCut)?;
    let payload = match usize::from(header.payload_length()) {
        0 => length.checked_sub(header.slice().len()).ok_or(Unusable::Malformed)?,
        payload => payload,
    };
    let (extensions, next, rest, error) = Ipv6ExtensionsSlice::from_slice_lax(header.next_header(), behind);
    if extensions.is_fragmenting_payload() {
        return Err(Unusable::Fragment);
    }
    if error.is_some() {
        return Err(Unusable::HeadersCut);
    }
    if next != IpNumber::TCP {
        return Err(Unusable::NotTcp);
    }
    let length = payload.checked_sub(behind.len() - rest.len()).ok_or(Unusable::Malformed)?;
    tcp(header.source_addr().into(), header.destination_addr().into(), rest, length)
}

/// `length` is that of the TCP header and payload on the wire; behind it `packet` may hold padding.
fn tcp(source: IpAddr, destination: IpAddr, packet: &[u8], length: usize) -> Result<Packet<'_>, Unusable> {
    let header = TcpHeaderSlice::from_slice(packet).map_err(|error| match error {
        etherparse::err::tcp::HeaderSliceError::Len(_) => Unusable::HeadersCut,
        etherparse::err::tcp::HeaderSliceError::Content(_) => Unusable::Malformed,
    })?;
    let header_length = header.slice().len();
    let length = length.checked_sub(header_length).ok_or(Unusable::Malformed)?;
    let payload = packet.get(header_length..).unwrap_or_default();
    let payload = payload.get(..length).unwrap_or(payload);
    Ok(Packet {
        source: SocketAddr::new(source.to_canonical(), header.source_port()),
        destination: SocketAddr::new(destination.to_canonical(), header.destination_port()),
        sequence: header.sequence_number().wrapping_add(u32::from(header.syn())),
        acknowledged: header.ack().then(|| header.acknowledgment_number()),
        syn: header.syn(),
        fin: header.fin(),
        rst: header.rst(),
        payload,
        length,
    })
}
