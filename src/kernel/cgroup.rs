//! Where cgroup v2 is mounted, and what the kernel calls a cgroup.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every mount of cgroup v2 that this process sees, the one that shows the whole hierarchy first. On a "hybrid" host it is
/// not `/sys/fs/cgroup`.
pub fn mounts() -> io::Result<Vec<PathBuf>> {
    Ok(parse_mounts(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// The kernel's id of a cgroup: the inode number of its directory (kernfs, 64-bit).
pub fn id(path: &Path) -> io::Result<u64> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(metadata.ino())
}

/// `36 35 0:30 ROOT MOUNTPOINT options optional… - TYPE source options` (proc(5)).
fn parse_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mut mounts: Vec<(bool, PathBuf)> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut fields = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        if right.split(' ').next() == Some("cgroup2") {
            mounts.push((root != "/", PathBuf::from(unescape(point))));
        }
    }
    mounts.sort_by_key(|(partial, _)| *partial);
    mounts.into_iter().map(|(_, point)| point).collect()
}

/// Spaces, tabs, newlines and backslashes stand as three octal digits in mountinfo.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |field, (escaped, plain)| field.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_whole_hierarchy_first() {
        let mountinfo = "\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw
26 25 0:23 /kubepods /mnt/part rw,relatime shared:9 - cgroup2 cgroup2 rw
27 25 0:23 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 master:2 - cgroup2 cgroup2 rw
28 25 0:24 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
broken line
";
        assert_eq!(parse_mounts(mountinfo), [Path::new("/sys/fs/cgroup/uni fied"), Path::new("/mnt/part")]);
    }
}
