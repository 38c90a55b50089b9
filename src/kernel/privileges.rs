//! Giving up every privilege once the programs are attached: reading the ring and writing rules need none.

use std::fmt;
use std::fs;
use std::io;

use caps::{CapSet, CapsHashSet};

/// What a process still could do, over all its threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Privileges {
    /// The union of the effective, permitted, inheritable and ambient sets, as in `/proc/<pid>/status`.
    pub capabilities: u64,
    /// The bounding set: what an executed file could still give. Without meaning where `no_new_privs` is set.
    pub bounding: u64,
    /// Set for every thread: no executed file gives anything.
    pub no_new_privs: bool,
}

impl Privileges {
    /// Nothing is left, and nothing can be gained.
    pub fn none(&self) -> bool {
        self.capabilities == 0 && self.no_new_privs
    }
}

impl fmt::Display for Privileges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "capabilities {:#x}, bounding set {:#x}, no_new_privs {}",
            self.capabilities, self.bounding, self.no_new_privs
        )
    }
}

/// Drops every capability of the calling thread and sets `no_new_privs`. Threads that it starts later inherit that; so
/// call it before there are others. Fails if the process has other threads that keep theirs.
pub fn drop_all() -> io::Result<Privileges> {
    drop_own()?;
    let left = of_this_process()?;
    if left.none() { Ok(left) } else { Err(io::Error::other(format!("another thread keeps privileges: {left}"))) }
}

/// The same for a thread that is started before the others drop theirs, without a look at them.
pub(super) fn drop_own() -> io::Result<()> {
    // The bounding set can only be emptied with CAP_SETPCAP, which a service with three capabilities does not have.
    // Without it, no_new_privs alone keeps executed files from giving anything.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).map_err(io::Error::other)? {
        for capability in caps::read(None, CapSet::Bounding).map_err(io::Error::other)? {
            caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
        }
    }
    // SAFETY: a prctl that takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    let nothing = CapsHashSet::new();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &nothing).map_err(io::Error::other)?;
    }
    Ok(())
}

/// What this process still can do, looking at each of its threads.
pub fn of_this_process() -> io::Result<Privileges> {
    let mut all = Privileges { no_new_privs: true, ..Privileges::default() };
    for task in fs::read_dir("/proc/self/task")? {
        let status = match fs::read_to_string(task?.path().join("status")) {
            Ok(status) => status,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // it has ended meanwhile
            Err(error) => return Err(error),
        };
        let one = parse_status(&status).ok_or_else(|| io::Error::other("/proc/self/task/*/status has no Cap lines"))?;
        all.capabilities |= one.capabilities;
        all.bounding |= one.bounding;
        all.no_new_privs &= one.no_new_privs;
    }
    Ok(all)
}

fn parse_status(status: &str) -> Option<Privileges> {
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    let set = |name: &str| u64::from_str_radix(&field(name)?, 16).ok();
    let held = [set("CapInh")?, set("CapPrm")?, set("CapEff")?, set("CapAmb")?];
    Some(Privileges {
        capabilities: held.iter().fold(0, |all, one| all | one),
        bounding: set("CapBnd")?,
        no_new_privs: field("NoNewPrivs")? == "1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_shows_every_set() {
        let status = "Name:\tx\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\nCapEff:\t0000000000000004\n\
                      CapBnd:\t00000000000000f0\nCapAmb:\t0000000000000008\nNoNewPrivs:\t1\n";
        let privileges = parse_status(status).unwrap();
        assert_eq!(privileges, Privileges { capabilities: 15, bounding: 0xf0, no_new_privs: true });
        assert!(!privileges.none());
        assert_eq!(parse_status("CapInh:\t0\n"), None);
    }
}
