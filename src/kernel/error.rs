//! Why capturing cannot start, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::programs::ProgramError;

/// Why capturing cannot start. Displayed with advice.
#[derive(Debug)]
pub enum SetupError {
    /// An option that makes no sense.
    Option(&'static str),
    /// No cgroup v2 is mounted where this process could see it.
    NoCgroup2,
    /// A cgroup's directory cannot be used.
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The packet programs cannot be loaded or attached.
    Programs(ProgramError),
    /// Something else failed.
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl SetupError {
    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match self {
            SetupError::Option(_) => "see acktrail-run(1) for the options",
            SetupError::NoCgroup2 => "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified",
            SetupError::Cgroup { .. } => "name a directory of the cgroup v2 mount (see /proc/self/cgroup)",
            SetupError::Programs(error) => match error.source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "run as root, or give the service CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; acktrail drops them after attaching"
                }
                io::ErrorKind::NotFound => {
                    "a kernel of 5.15 or later with CONFIG_DEBUG_INFO_BTF (/sys/kernel/btf/vmlinux) is needed"
                }
                io::ErrorKind::OutOfMemory => "allow more memory (MemoryMax of the service), or a smaller ring",
                _ => "run `acktrail doctor` and see what it says of this kernel",
            },
            SetupError::Io { .. } => "run `acktrail doctor`",
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Option(what) => f.write_str(what)?,
            SetupError::NoCgroup2 => f.write_str("no cgroup v2 is mounted here")?,
            SetupError::Cgroup { path, source } => write!(f, "cgroup {}: {source}", path.display())?,
            SetupError::Programs(error) => write!(f, "the packet programs: {error}")?,
            SetupError::Io { what, source } => write!(f, "{what}: {source}")?,
        }
        write!(f, "; {}", self.advice())
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SetupError::Cgroup { source, .. } | SetupError::Io { source, .. } => Some(source),
            SetupError::Programs(error) => Some(error),
            SetupError::Option(_) | SetupError::NoCgroup2 => None,
        }
    }
}
