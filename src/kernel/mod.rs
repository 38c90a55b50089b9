//! Capture on the running kernel: the only user of libbpf.
//!
//! [`Capture::attach`] probes, decides and writes the rules before anything counts as started; then every privilege can be
//! dropped ([`privileges::drop_all`]), and [`Capture::poll`] hands out decoded records. Nothing is pinned: when the process
//! ends, however it ends, the kernel removes every program with the last descriptor.

mod brokers;
pub mod cgroup;
mod clock;
mod control;
mod demands;
mod error;
mod guard;
mod mapping;
pub mod privileges;
pub mod probe;
mod programs;
mod ring;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

use crate::capture::wire::{self, Decoded};
use crate::capture::{Cookie, Counters, Demand, Direction, Record};
use crate::time::Timestamp;
use brokers::{Brokers, Port};
use clock::Clock;
use control::{Control, Reader};
use demands::Demands;
use guard::Guard;
use mapping::Mapping;
use programs::{Loaded, Maps, Storage};
use ring::Ring;

pub use brokers::Broker;
pub use error::SetupError;
pub use programs::{Feature, ProgramError};

/// What to capture, and with which means.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ports of brokers, at either end of a connection.
    pub ports: Vec<u16>,
    /// If there are any: only sockets of these cgroups (directories of cgroup v2) and of those below them.
    pub cgroups: Vec<PathBuf>,
    /// Find more than `ports`: brokers by their processes, connections by their first bytes.
    pub discover: bool,
    /// Size of the ring buffer: rounded up to a power of two of at least a page. This much kernel memory is used, and it is
    /// mapped once, so it counts towards the resident memory of this process.
    pub ring_bytes: u32,
    /// Leave out the insides of message bodies in packets of at least this much payload. `None`: copy everything.
    pub skip_bodies_from: Option<u32>,
    /// Which share of the connections to watch, 0 to 1. Both ends of a connection agree.
    pub sample_connections: f64,
    /// Where cgroup v2 is mounted, if it should not be looked for.
    pub cgroup_root: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ports: Vec::new(),
            cgroups: Vec::new(),
            discover: true,
            ring_bytes: 8 << 20,
            skip_bodies_from: Some(4096),
            sample_connections: 1.0,
            cgroup_root: None,
        }
    }
}

/// What is decided about a socket. The numbers are those of `enum verdict` in `bpf/event.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its bytes decide.
    Unknown = 0,
    /// Its bytes are copied.
    Watch = 1,
    /// Its packets cost one look-up each at most.
    Ignore = 2,
}

/// A feature, and why it is off if it is.
#[derive(Debug)]
pub struct FeatureState {
    /// Which.
    pub feature: Feature,
    /// `None` if it works.
    pub missing: Option<ProgramError>,
}

/// What one [`Capture::poll`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// Records taken out of the ring.
    pub records: usize,
    /// More are waiting: poll again at once.
    pub more: bool,
}

/// The attached programs and the reader of their ring.
pub struct Capture {
    /// Dropped first: the programs stop before their ring goes.
    _links: Vec<Link>,
    guard: Option<Guard>,
    ring: Ring,
    control: Control,
    counters: Mapping,
    demands: Demands,
    maps: Maps,
    features: Vec<FeatureState>,
    brokers: Brokers,
    clock: Clock,
    /// Of the last record handed over.
    latest: Timestamp,
    next_counters: Instant,
    reader: ReaderState,
    malformed: u64,
    refused_ports: u64,
}

/// How long to wait before the next look at the ring.
#[derive(Clone, Copy, Debug, Default)]
struct ReaderState {
    /// The last look left records behind.
    behind: bool,
    /// Looks in a row that found nothing.
    idle: u32,
}

const TOO_MANY_PORTS: &str = "no more than 64 ports can be watched";

/// Records taken per poll: about a tenth of a millisecond's work, so that the caller's other duties are never far away.
const BATCH: usize = 256;
/// Between polls while records wait, so that whoever wants the processor need not wait for a whole nap's records: a scheduler
/// lets a thread that slept run for milliseconds, which brokers' and clients' slowest messages would show.
const REST: Duration = Duration::from_micros(50);
/// No rest when this part of the ring is filled.
const RESTLESS_PART: u64 = 16;
/// How long the reader naps while records keep coming: a wake-up per record would cost more than the records. A shorter nap lets
/// less work gather, for which others wait, and costs more processor time a message, for caches that are cold: 20 ms cost a
/// quarter more where messages come one at a time (docs/performance.md).
const NAP: Duration = Duration::from_millis(100);
/// After this many naps for nothing it sleeps until it is woken.
const NAPS_BEFORE_SLEEP: u32 = 4;
/// The counters are handed over this often, if [`Capture::poll`] is called as often.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);
/// A nap ends early when this part of the ring is filled.
const WAKE_PART: u32 = 8;

impl Capture {
    /// Loads and attaches everything that this kernel allows, finds the brokers and connections that are there already, and
    /// starts to fill the ring. Needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; nothing afterwards does.
    pub fn attach(options: &Options) -> Result<Capture, SetupError> {
        let rules = Rules::of(options)?;
        let root = cgroup_root(options)?;
        let directory = File::open(&root).map_err(|source| SetupError::Cgroup { path: root.clone(), source })?;
        let mut storages = Storages::default();
        let (loaded, mut features) = load_what_works(&mut storages, rules.ring_bytes)?;
        let maps = loaded.maps().map_err(SetupError::Programs)?;
        let mut capture = Capture::around(maps, &rules)?;
        capture.attach_connections(&loaded, &directory, &mut features);
        if options.discover && loaded.has(Feature::OpenSockets) {
            capture.find_brokers(&loaded, &mut features);
        }
        rules.write(&capture.maps, &capture.control)?;
        let links = loaded.attach(Feature::Packets, &directory).map_err(SetupError::Programs)?;
        capture._links.extend(links);
        if loaded.has(Feature::Reads) {
            match loaded.attach(Feature::Reads, &directory) {
                Ok(links) => capture._links.extend(links),
                Err(error) => switch_off(&mut features, Feature::Reads, error),
            }
        }
        if loaded.has(Feature::OpenSockets)
            && let Err(error) = loaded.walk_open_sockets()
        {
            switch_off(&mut features, Feature::OpenSockets, error);
        }
        capture.features = features;
        Ok(capture)
    }

    /// Waits until there are records or `timeout` is over, and hands over at most a few hundred of them. A signal ends the
    /// wait early, and so does the end of a nap, which is far shorter than most timeouts. Records that make no sense are counted ([`Capture::malformed`]) and left out. The counters of each second come
    /// first, so that a loss is known before anything is concluded from what the records do not say.
    pub fn poll(&mut self, timeout: Duration, handle: &mut dyn FnMut(Record<'_>)) -> io::Result<Polled> {
        self.clock.refresh();
        if self.reader.behind {
            self.rest();
        }
        let interrupted = !self.reader.behind && !self.wait(timeout)?;
        if self.next_counters <= Instant::now() {
            self.next_counters = Instant::now() + COUNTERS_EVERY;
            handle(Record::Counters(self.counters()));
        }
        if interrupted {
            return Ok(Polled::default());
        }
        let clock = self.clock.offset();
        let (mut malformed, mut listeners, mut latest) = (0, Vec::new(), self.latest);
        let drained = self.ring.drain(BATCH, &mut |raw| match wire::decode(raw, clock) {
            Ok(Decoded::Record(record)) => {
                latest = record.time();
                handle(record);
            }
            Ok(Decoded::Listener(listener)) => listeners.push(listener),
            Err(_) => malformed += 1,
        });
        self.malformed += malformed;
        self.latest = latest;
        for listener in listeners {
            if let Some(port) = self.brokers.consider(listener) {
                self.found(port);
            }
        }
        self.reader.behind = !drained.empty;
        self.reader.idle = if drained.records == 0 { self.reader.idle.saturating_add(1) } else { 0 };
        Ok(Polled { records: drained.records, more: !drained.empty })
    }

    /// Lets others run, if the ring has room for what they cause.
    fn rest(&self) {
        if self.ring.waiting() < u64::from(self.maps.ring.max_entries()) / RESTLESS_PART {
            thread::sleep(REST);
        }
    }

    /// The programs' counters, cumulative. Their time is now, or that of the last record handed over while others wait. Reading
    /// them is a few loads.
    pub fn counters(&self) -> Counters {
        let now = self.clock.now();
        let time = if self.ring.waiting() == 0 { now } else { now.min(self.latest) };
        wire::sum_counters(&self.counters.words(self.counters_bytes()), time)
    }

    /// Records that could not be decoded so far. Anything but 0 is a defect.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Lends the calling thread, which must be the one that calls [`Capture::poll`], a real-time priority whenever the ring
    /// fills up because the scheduler does not let it run. To be called before [`privileges::drop_all`]: it needs
    /// CAP_SYS_NICE, or RLIMIT_RTPRIO of 1. The thread that it starts has no privileges any more when this returns.
    pub fn start_guard(&mut self) -> io::Result<()> {
        let ring_bytes = u64::from(self.maps.ring.max_entries());
        self.guard = Some(Guard::start(self.maps.ring.as_fd(), ring_bytes, self.maps.control.as_fd())?);
        Ok(())
    }

    /// How often the guard has lent its priority.
    pub fn priority_lent(&self) -> u64 {
        self.guard.as_ref().map_or(0, Guard::lent)
    }

    /// Every feature, and why it is off if it is.
    pub fn features(&self) -> &[FeatureState] {
        &self.features
    }

    /// The brokers found, at the start and since.
    pub fn brokers(&self) -> &[Broker] {
        self.brokers.found()
    }

    /// Ports of brokers found that there was no room for among the rules.
    pub fn refused_ports(&self) -> u64 {
        self.refused_ports
    }

    /// Watches a broker's port from now on, also on connections that are open. Fails if there is no room for more ports
    /// (64).
    pub fn watch_port(&self, port: u16) -> io::Result<()> {
        if !self.control.watch_port(port) {
            return Err(io::Error::new(io::ErrorKind::StorageFull, TOO_MANY_PORTS));
        }
        self.control.next_generation();
        Ok(())
    }

    /// Watches a port no longer. It is no error if it was not.
    pub fn unwatch_port(&self, port: u16) -> io::Result<()> {
        self.control.unwatch_port(port);
        self.control.next_generation();
        Ok(())
    }

    /// Watches sockets of these cgroups only; with none, of all. Kernels before 5.19 refuse that without privileges.
    pub fn set_cgroups(&self, paths: &[PathBuf]) -> Result<(), SetupError> {
        let ids = cgroup_ids(paths)?;
        let rules = |source| SetupError::Io { what: "changing the rules", source };
        for known in self.maps.watch_cgroups.keys() {
            remove(&self.maps.watch_cgroups, &known).map_err(rules)?;
        }
        for id in &ids {
            put(&self.maps.watch_cgroups, &id.to_ne_bytes(), &[1]).map_err(rules)?;
        }
        self.control.set_cgroups_only(!ids.is_empty());
        self.control.next_generation();
        Ok(())
    }

    /// Forces a verdict upon one socket, or leaves it to the rules again. Kernels before 5.19 refuse that without
    /// privileges.
    pub fn override_cookie(&self, cookie: Cookie, verdict: Option<Verdict>) -> io::Result<()> {
        // From now on a socket may be watched whatever its ports are.
        self.control.set_ports_decide(false);
        match verdict {
            Some(verdict) => put(&self.maps.overrides, &cookie.0.to_ne_bytes(), &(verdict as u32).to_ne_bytes())?,
            None => remove(&self.maps.overrides, &cookie.0.to_ne_bytes())?,
        }
        self.control.next_generation();
        Ok(())
    }

    /// From now on so much is needed of what passes a socket in a direction. The rest may be left out of large packets, as the
    /// insides of AMQP's bodies always are; [`Options::skip_bodies_from`] says from which size on. Needs no privilege.
    pub fn demand(&self, cookie: Cookie, direction: Direction, demand: Demand) {
        self.demands.set(cookie, direction, demand);
    }

    /// Watches this share of the connections, 0 to 1; those below a smaller share stay when it grows.
    pub fn set_sampling(&self, share: f64) -> Result<(), SetupError> {
        self.control.set_sample_below(sample_below(share)?);
        self.control.next_generation();
        Ok(())
    }

    /// Discovers more than is named, or no longer, and leaves out the insides of bodies from another size on, as these options
    /// have it. Brokers that were there before discovery was switched on are found by their connections' first bytes. Without
    /// effect on what stands elsewhere in the options.
    pub fn set_discovery_and_skipping(&self, options: &Options) -> Result<(), SetupError> {
        let rules = Rules::of(options)?;
        self.control.set_announce_listeners(rules.discover);
        self.control.set_unmatched(rules.unmatched);
        // Overrides may have been set since: then ports alone do not decide.
        if rules.unmatched != Verdict::Ignore {
            self.control.set_ports_decide(false);
        }
        self.control.set_skip_from_bytes(rules.skip_from_bytes);
        self.control.next_generation();
        Ok(())
    }
}

impl AsFd for Capture {
    /// Becomes readable when the reader has been woken; a reader that polls with a timeout does not need it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Capture {
    fn around(maps: Maps, rules: &Rules) -> Result<Capture, SetupError> {
        let io = |what| move |source| SetupError::Io { what, source };
        let ring = Ring::map(maps.ring.as_fd(), rules.ring_bytes as usize).map_err(io("mapping the ring"))?;
        let control = Control::map(maps.control.as_fd()).map_err(io("mapping the control page"))?;
        control.set_announce_listeners(rules.discover);
        control.set_wake_bytes(rules.ring_bytes / WAKE_PART);
        let bytes =
            (maps.counters.max_entries() as usize * wire::COUNTERS_BYTES).next_multiple_of(mapping::page_size());
        let counters = Mapping::new(maps.counters.as_fd(), 0, bytes, false).map_err(io("mapping the counters"))?;
        let demands = Demands::map(maps.demands.as_fd()).map_err(io("mapping the demands"))?;
        let clock = Clock::new();
        Ok(Capture {
            latest: clock.now(),
            next_counters: Instant::now(),
            _links: Vec::new(),
            guard: None,
            ring,
            control,
            counters,
            demands,
            maps,
            features: Vec::new(),
            brokers: Brokers::default(),
            clock,
            reader: ReaderState::default(),
            malformed: 0,
            refused_ports: 0,
        })
    }

    fn counters_bytes(&self) -> usize {
        self.maps.counters.max_entries() as usize * wire::COUNTERS_BYTES
    }

    fn attach_connections(&mut self, loaded: &Loaded<'_>, cgroup: &File, features: &mut [FeatureState]) {
        if loaded.has(Feature::Connections) {
            match loaded.attach(Feature::Connections, cgroup) {
                Ok(links) => self._links.extend(links),
                Err(error) => switch_off(features, Feature::Connections, error),
            }
        }
    }

    /// Reads the listening sockets off the ring. No rule is written yet, so nothing else can be in it.
    fn find_brokers(&mut self, loaded: &Loaded<'_>, features: &mut [FeatureState]) {
        if let Err(error) = loaded.walk_open_sockets() {
            return switch_off(features, Feature::OpenSockets, error);
        }
        let clock = self.clock.offset();
        let mut ports = Vec::new();
        let brokers = &mut self.brokers;
        self.ring.drain(usize::MAX, &mut |raw| {
            if let Ok(Decoded::Listener(listener)) = wire::decode(raw, clock) {
                ports.extend(brokers.consider(listener));
            }
        });
        for port in ports {
            self.found(port);
        }
    }

    fn found(&mut self, port: Port) {
        let kept = match port {
            // Without room for it, first bytes still tell.
            Port::Clients(port) => self.watch_port(port).is_ok(),
            Port::Nodes(port) => self.control.add_node_port(port),
        };
        self.refused_ports += u64::from(!kept);
    }

    /// Waits for records; false if a signal came instead.
    fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        if let Some(guard) = &self.guard {
            guard.give_back();
        }
        let idle = self.reader.idle >= NAPS_BEFORE_SLEEP;
        let (reader, longest, enough) = if idle {
            (Reader::Asleep, timeout, 1)
        } else {
            (Reader::Napping, timeout.min(NAP), u64::from(self.control.wake_bytes()))
        };
        self.control.set_reader(reader);
        ring::before_last_look();
        let slept = if self.ring.waiting() < enough { self.ring.sleep(longest) } else { Ok(true) };
        self.control.set_reader(Reader::Awake);
        slept
    }
}

/// The options, checked and in the kernel's terms.
struct Rules {
    ports: Vec<u16>,
    cgroups: Vec<u64>,
    discover: bool,
    unmatched: Verdict,
    sample_below: u32,
    skip_from_bytes: u32,
    ring_bytes: u32,
}

impl Rules {
    fn of(options: &Options) -> Result<Rules, SetupError> {
        let page = u32::try_from(mapping::page_size()).unwrap_or(4096);
        let ring_bytes = options
            .ring_bytes
            .max(page)
            .checked_next_power_of_two()
            .ok_or(SetupError::Option("the ring cannot be larger than 2 GiB"))?;
        let cgroups = cgroup_ids(&options.cgroups)?;
        let unmatched = match (options.discover, options.ports.is_empty(), cgroups.is_empty()) {
            (true, ..) => Verdict::Unknown,
            // A cgroup and nothing else: all that it sends and receives.
            (false, true, false) => Verdict::Watch,
            (false, true, true) => {
                return Err(SetupError::Option("no port, no cgroup, and no discovery: nothing to watch"));
            }
            (false, false, _) => Verdict::Ignore,
        };
        Ok(Rules {
            ports: options.ports.clone(),
            cgroups,
            discover: options.discover,
            unmatched,
            sample_below: sample_below(options.sample_connections)?,
            skip_from_bytes: options.skip_bodies_from.unwrap_or(0),
            ring_bytes,
        })
    }

    fn write(&self, maps: &Maps, control: &Control) -> Result<(), SetupError> {
        let rules = |source| SetupError::Io { what: "writing the rules", source };
        if !self.ports.iter().all(|port| control.watch_port(*port)) {
            return Err(SetupError::Option(TOO_MANY_PORTS));
        }
        for id in &self.cgroups {
            put(&maps.watch_cgroups, &id.to_ne_bytes(), &[1]).map_err(rules)?;
        }
        control.set_cgroups_only(!self.cgroups.is_empty());
        control.set_unmatched(self.unmatched);
        control.set_ports_decide(self.unmatched == Verdict::Ignore);
        control.set_sample_below(self.sample_below);
        control.set_skip_from_bytes(self.skip_from_bytes);
        control.next_generation();
        Ok(())
    }
}

/// One place per attempt to load: with everything, each optional feature alone, and what is left.
#[derive(Default)]
struct Storages {
    all: Option<Box<Storage>>,
    rest: Option<Box<Storage>>,
}

fn load_what_works(storages: &mut Storages, ring_bytes: u32) -> Result<(Loaded<'_>, Vec<FeatureState>), SetupError> {
    let Storages { all, rest } = storages;
    let working = |feature| FeatureState { feature, missing: None };
    let error = match Loaded::load(all.insert(Box::new(Storage::uninit())), &Feature::ALL, ring_bytes) {
        Ok(loaded) => return Ok((loaded, Feature::ALL.map(working).into())),
        Err(error) => error,
    };
    if error.source.kind() == io::ErrorKind::PermissionDenied {
        return Err(SetupError::Programs(error));
    }
    let states = probe_features(ring_bytes);
    let works = |state: &&FeatureState| state.missing.is_none();
    let left: Vec<Feature> = states.iter().filter(works).map(|state| state.feature).collect();
    if !left.contains(&Feature::Packets) {
        return Err(SetupError::Programs(error));
    }
    let loaded = Loaded::load(rest.insert(Box::new(Storage::uninit())), &left, ring_bytes);
    Ok((loaded.map_err(SetupError::Programs)?, states))
}

/// Loads each feature's programs for themselves.
fn probe_features(ring_bytes: u32) -> Vec<FeatureState> {
    Feature::ALL
        .into_iter()
        .map(|feature| {
            let mut storage = Box::new(Storage::uninit());
            FeatureState { feature, missing: Loaded::load(&mut storage, &[feature], ring_bytes).err() }
        })
        .collect()
}

fn switch_off(features: &mut [FeatureState], feature: Feature, error: ProgramError) {
    if let Some(state) = features.iter_mut().find(|state| state.feature == feature) {
        state.missing = Some(error);
    }
}

fn cgroup_root(options: &Options) -> Result<PathBuf, SetupError> {
    if let Some(root) = &options.cgroup_root {
        return Ok(root.clone());
    }
    let mounts = cgroup::mounts().map_err(|source| SetupError::Io { what: "reading /proc/self/mountinfo", source })?;
    mounts.into_iter().next().ok_or(SetupError::NoCgroup2)
}

fn cgroup_ids(paths: &[PathBuf]) -> Result<Vec<u64>, SetupError> {
    let id = |path: &PathBuf| cgroup::id(path).map_err(|source| SetupError::Cgroup { path: path.clone(), source });
    paths.iter().map(id).collect()
}

/// The share as a bound of the 32-bit hash; the largest number stands for all.
fn sample_below(share: f64) -> Result<u32, SetupError> {
    if !(0.0..=1.0).contains(&share) {
        return Err(SetupError::Option("the share of connections to watch must be between 0 and 1"));
    }
    Ok((share * f64::from(u32::MAX)) as u32)
}

fn put(map: &MapHandle, key: &[u8], value: &[u8]) -> io::Result<()> {
    map.update(key, value, MapFlags::ANY).map_err(io::Error::other)
}

fn remove(map: &MapHandle, key: &[u8]) -> io::Result<()> {
    match map.delete(key) {
        Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(io::Error::other(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_watch_nothing_or_make_no_sense_are_refused() {
        let explicit = Options { discover: false, ..Options::default() };
        assert!(matches!(Rules::of(&explicit), Err(SetupError::Option(_))));
        let port = Options { ports: vec![5672], ..explicit };
        assert_eq!(Rules::of(&port).map(|rules| rules.unmatched).ok(), Some(Verdict::Ignore));
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(sample_below(share).is_err(), "{share}");
        }
        assert_eq!(sample_below(1.0).ok(), Some(u32::MAX));
        assert_eq!(sample_below(0.0).ok(), Some(0));
        let missing = Options { cgroups: vec!["/nowhere/at/all".into()], ..Options::default() };
        assert!(matches!(Rules::of(&missing), Err(SetupError::Cgroup { .. })));
    }

    #[test]
    fn the_ring_is_a_power_of_two_of_at_least_a_page() {
        let bytes =
            |ring_bytes| Rules::of(&Options { ring_bytes, ..Options::default() }).map(|rules| rules.ring_bytes).ok();
        assert_eq!(bytes(0), Some(mapping::page_size() as u32));
        assert_eq!(bytes(65_537), Some(131_072));
        assert_eq!(bytes(u32::MAX), None);
    }
}
