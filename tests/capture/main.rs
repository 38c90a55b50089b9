//! Where records come from besides the kernel: recordings, and packet captures of other tools.

#[path = "../support/owned.rs"]
mod owned;

mod logins;
mod pcap;
mod recording;
