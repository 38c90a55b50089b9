//! What this kernel, these privileges and these options allow: the facts of `acktrail doctor`, each tried for real where
//! that can be done without disturbing anybody.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;

use super::brokers::Brokers;
use super::programs::{Loaded, Storage};
use super::ring::Ring;
use super::{Broker, Control, Feature, Options, Rules, cgroup, cgroup_root, privileges};
use crate::capture::wire::{self, ClockOffset, Decoded};
use libbpf_rs::MapCore;
use std::os::fd::AsFd;

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Told for information.
    Info,
    /// As it should be.
    Ok,
    /// Something will be missing, but capturing works.
    Degraded,
    /// Capturing cannot work.
    Missing,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What, such as `kernel BTF`.
    pub name: String,
    /// How it stands.
    pub standing: Standing,
    /// What was found.
    pub detail: String,
    /// What to do about it, where something is to be done.
    pub advice: Option<String>,
}

/// Looks at everything that capturing with these options depends on. Attaches each program for a moment; nothing is left.
pub fn probe(options: &Options) -> Vec<Finding> {
    let mut findings = vec![kernel(), btf(), lockdown(), capabilities(), late_rules(), memlock(), priority()];
    let (root, finding) = cgroup_v2(options);
    findings.push(finding);
    let rules = Rules::of(options);
    findings.push(match &rules {
        Ok(rules) => ring(rules),
        Err(error) => finding_of("options", Standing::Missing, error.to_string(), Some(error.advice())),
    });
    if let Some(root) = root {
        let ring_bytes = rules.map_or(Options::default().ring_bytes, |rules| rules.ring_bytes);
        findings.extend(Feature::ALL.map(|feature| try_feature(feature, &root, ring_bytes)));
        findings.push(brokers(ring_bytes));
    }
    findings
}

fn finding_of(name: &str, standing: Standing, detail: String, advice: Option<&str>) -> Finding {
    Finding { name: name.to_owned(), standing, detail, advice: advice.map(str::to_owned) }
}

/// The release, and whether it is one that the programs are tested on.
fn kernel() -> Finding {
    const NAME: &str = "kernel";
    let Ok(release) = fs::read_to_string("/proc/sys/kernel/osrelease") else {
        return finding_of(NAME, Standing::Degraded, "/proc/sys/kernel/osrelease cannot be read".into(), None);
    };
    let release = release.trim();
    let (standing, advice) = match version(release) {
        Some(version) if version >= (5, 15) => (Standing::Ok, None),
        _ => {
            (Standing::Degraded, Some("acktrail is made for kernels from 5.15 on; what does not load is listed below"))
        }
    };
    finding_of(NAME, standing, format!("{release} {}", std::env::consts::ARCH), advice)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn btf() -> Finding {
    const NAME: &str = "kernel BTF";
    match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(file) => finding_of(NAME, Standing::Ok, format!("/sys/kernel/btf/vmlinux, {} KiB", file.len() / 1024), None),
        Err(error) => finding_of(
            NAME,
            Standing::Missing,
            format!("/sys/kernel/btf/vmlinux: {error}"),
            Some("use a kernel built with CONFIG_DEBUG_INFO_BTF (all current distributions have one)"),
        ),
    }
}

/// Lockdown refuses kprobes and trampolines, which are not used; in confidentiality mode also reading kernel memory.
fn lockdown() -> Finding {
    const NAME: &str = "kernel lockdown";
    let Ok(text) = fs::read_to_string("/sys/kernel/security/lockdown") else {
        return finding_of(NAME, Standing::Info, "unknown (securityfs is not mounted)".into(), None);
    };
    let mode = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("none", |(mode, _)| mode);
    let (standing, advice) = match mode {
        "confidentiality" => (Standing::Degraded, Some("names of processes cannot be read in this mode")),
        _ => (Standing::Ok, None),
    };
    finding_of(NAME, standing, mode.to_owned(), advice)
}

/// CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF (include/uapi/linux/capability.h); CAP_SYS_ADMIN stands for the last two.
fn capabilities() -> Finding {
    const NAME: &str = "capabilities";
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const PERFMON: u64 = 1 << 38;
    const BPF: u64 = 1 << 39;
    let held = match privileges::of_this_process() {
        Ok(privileges) => privileges.capabilities,
        Err(error) => return finding_of(NAME, Standing::Degraded, format!("/proc/self/status: {error}"), None),
    };
    let has = |capability| held & (capability | SYS_ADMIN) != 0;
    let missing: Vec<&str> =
        [("CAP_BPF", has(BPF)), ("CAP_PERFMON", has(PERFMON)), ("CAP_NET_ADMIN", held & NET_ADMIN != 0)]
            .iter()
            .filter(|(_, held)| !held)
            .map(|(name, _)| *name)
            .collect();
    if missing.is_empty() {
        let detail = "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, dropped after attaching";
        return finding_of(NAME, Standing::Ok, detail.to_owned(), None);
    }
    let advice = "run as root, or with AmbientCapabilities=CAP_BPF CAP_PERFMON CAP_NET_ADMIN in the service";
    finding_of(NAME, Standing::Missing, format!("without {}", missing.join(", ")), Some(advice))
}

/// Before 5.19, unprivileged_bpf_disabled also forbids writing to maps that are open (kernel commit c8644cd0efe7).
fn late_rules() -> Finding {
    const NAME: &str = "rules at run time";
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u32>().ok();
    let disabled = number("/proc/sys/kernel/unprivileged_bpf_disabled").unwrap_or(0) != 0;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if disabled && version(&release).is_some_and(|version| version < (5, 19)) {
        let advice =
            "configure the ports of brokers that start later; their connections are found by first bytes otherwise";
        let detail = "ports and cgroups are fixed once privileges are dropped";
        return finding_of(NAME, Standing::Degraded, detail.to_owned(), Some(advice));
    }
    finding_of(NAME, Standing::Ok, "everything can be changed without privileges".to_owned(), None)
}

/// Maps count towards RLIMIT_MEMLOCK before 5.11 only; since then towards the cgroup's memory.
fn memlock() -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one rlimit.
    let detail = match unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) } {
        0 if limit.rlim_cur == libc::RLIM_INFINITY => "unlimited".to_owned(),
        0 => format!("{} KiB; kernels from 5.11 on charge the cgroup instead", limit.rlim_cur / 1024),
        _ => io::Error::last_os_error().to_string(),
    };
    finding_of("locked memory", Standing::Info, detail, None)
}

/// Whether the reading thread can be lent a priority: tried on a thread of its own.
fn priority() -> Finding {
    const NAME: &str = "reader's priority";
    let tried = std::thread::spawn(super::guard::become_realtime).join();
    match tried.unwrap_or_else(|_| Err(io::Error::other("a panic"))) {
        Ok(()) => {
            let detail = "real-time while the ring fills up, for at most half of the time";
            finding_of(NAME, Standing::Ok, detail.to_owned(), None)
        }
        Err(error) => {
            let advice =
                "a saturated host may lose records, counted: run as root, or with LimitRTPRIO=1 in the service";
            finding_of(NAME, Standing::Degraded, format!("no real-time priority: {error}"), Some(advice))
        }
    }
}

fn cgroup_v2(options: &Options) -> (Option<File>, Finding) {
    const NAME: &str = "cgroup v2";
    let opened = cgroup_root(options).and_then(|path| match File::open(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(super::SetupError::Cgroup { path, source }),
    });
    match opened {
        Ok((path, file)) => {
            let others = cgroup::mounts().map_or(0, |mounts| mounts.len().saturating_sub(1));
            let more = if others == 0 { String::new() } else { format!(", and {others} more mounts") };
            (Some(file), finding_of(NAME, Standing::Ok, format!("{}{more}", path.display()), None))
        }
        Err(error) => (None, finding_of(NAME, Standing::Missing, error.to_string(), Some(error.advice()))),
    }
}

fn ring(rules: &Rules) -> Finding {
    let kib = rules.ring_bytes / 1024;
    finding_of("ring buffer", Standing::Ok, format!("{kib} KiB of kernel memory, mapped once into this process"), None)
}

/// Loads and attaches one feature's programs, and lets go of them at once.
fn try_feature(feature: Feature, root: &File, ring_bytes: u32) -> Finding {
    let mut storage = Box::new(Storage::uninit());
    let tried = Loaded::load(&mut storage, &[feature], ring_bytes).and_then(|loaded| match feature {
        Feature::OpenSockets => loaded.walk_open_sockets(),
        _ => loaded.attach(feature, root).map(drop),
    });
    match tried {
        Ok(()) => finding_of(&feature.to_string(), Standing::Ok, "loads and attaches".to_owned(), None),
        Err(error) => {
            let standing = if feature == Feature::Packets { Standing::Missing } else { Standing::Degraded };
            finding_of(&feature.to_string(), standing, error.to_string(), Some(feature.consequence()))
        }
    }
}

/// The brokers that listen at this moment.
fn brokers(ring_bytes: u32) -> Finding {
    const NAME: &str = "brokers";
    match find_brokers(ring_bytes) {
        Ok(found) if found.is_empty() => {
            let advice = "start the broker, or name its port (--port); connections are also known by their first bytes";
            finding_of(NAME, Standing::Info, "none found".to_owned(), Some(advice))
        }
        Ok(found) => finding_of(NAME, Standing::Ok, by_process(&found), None),
        Err(error) => finding_of(NAME, Standing::Degraded, format!("cannot be looked for: {error}"), None),
    }
}

/// `kafka (process 4711) at 127.0.0.1:9092, 127.0.0.1:9093; rabbitmq …`: a broker listens at several ports.
fn by_process(found: &[Broker]) -> String {
    let mut processes: BTreeMap<(&str, u32), Vec<SocketAddr>> = BTreeMap::new();
    for broker in found {
        processes.entry((broker.system, broker.owner.pid)).or_default().push(broker.address);
    }
    let list = processes.into_iter().map(|((system, process), mut addresses)| {
        addresses.sort_unstable();
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        format!("{system} (process {process}) at {}", addresses.join(", "))
    });
    list.collect::<Vec<_>>().join("; ")
}

fn find_brokers(ring_bytes: u32) -> Result<Vec<Broker>, super::SetupError> {
    let programs = super::SetupError::Programs;
    let io = |what| move |source| super::SetupError::Io { what, source };
    let mut storage = Box::new(Storage::uninit());
    let loaded = Loaded::load(&mut storage, &[Feature::OpenSockets], ring_bytes).map_err(programs)?;
    let maps = loaded.maps().map_err(programs)?;
    let mut ring = Ring::map(maps.ring.as_fd(), maps.ring.max_entries() as usize).map_err(io("mapping the ring"))?;
    Control::map(maps.control.as_fd()).map_err(io("mapping the control page"))?.set_announce_listeners(true);
    loaded.walk_open_sockets().map_err(programs)?;
    let mut brokers = Brokers::default();
    ring.drain(usize::MAX, &mut |raw| {
        if let Ok(Decoded::Listener(listener)) = wire::decode(raw, ClockOffset::default()) {
            brokers.consider(listener);
        }
    });
    Ok(brokers.found().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Owner;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.15.0-1"), Some((5, 15)));
        assert_eq!(version("nonsense"), None);
    }

    #[test]
    fn a_broker_is_told_once_with_all_its_ports() {
        let broker = |system, pid, address: &str| Broker {
            system,
            address: address.parse().unwrap(),
            netns: 1,
            owner: Owner { pid, executable: "java".to_owned() },
        };
        let found = [
            broker("rabbitmq", 7, "[::]:5672"),
            broker("kafka", 9, "127.0.0.1:9093"),
            broker("kafka", 9, "127.0.0.1:9092"),
            broker("kafka", 8, "0.0.0.0:9094"),
        ];
        let expected = "kafka (process 8) at 0.0.0.0:9094; kafka (process 9) at 127.0.0.1:9092, 127.0.0.1:9093; \
            rabbitmq (process 7) at [::]:5672";
        assert_eq!(by_process(&found), expected);
    }

    #[test]
    fn something_is_found_about_everything_even_without_privileges() {
        let findings = probe(&Options { cgroup_root: Some("/nowhere".into()), ..Options::default() });
        let of = |name: &str| findings.iter().find(|finding| finding.name == name).unwrap();
        assert_eq!(of("cgroup v2").standing, Standing::Missing);
        assert!(of("cgroup v2").advice.is_some());
        assert!(!of("kernel").detail.is_empty());
    }
}
