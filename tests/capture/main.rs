//! Where records come from besides the kernel: recordings, and packet captures of other tools.

mod logins;
mod pcap;
mod recording;
