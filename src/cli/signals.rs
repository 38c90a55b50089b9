//! Signals, as flags that the main loop looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::flag;

/// What signals have asked for.
#[derive(Clone, Debug)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    resize: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over SIGINT, SIGTERM, SIGHUP and SIGWINCH. A second SIGINT or SIGTERM ends the process at once, with status 1:
    /// whoever asks twice does not want to wait for the drain.
    ///
    /// # Errors
    /// If a handler cannot be set.
    pub fn install() -> io::Result<Signals> {
        let signals = Signals { stop: Arc::default(), reload: Arc::default(), resize: Arc::default() };
        for signal in [SIGINT, SIGTERM] {
            // The order matters: the flag is still down when the first signal passes the shutdown.
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&signals.stop))?;
            flag::register(signal, Arc::clone(&signals.stop))?;
        }
        flag::register(SIGHUP, Arc::clone(&signals.reload))?;
        flag::register(SIGWINCH, Arc::clone(&signals.resize))?;
        Ok(signals)
    }

    /// Whether to end.
    pub fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag itself, for another thread.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether to read the configuration again; once per SIGHUP.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Whether the terminal's size has changed; once per SIGWINCH.
    pub fn take_resize(&self) -> bool {
        self.resize.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use signal_hook::low_level::raise;

    #[test]
    fn each_signal_has_its_flag() {
        let signals = Signals::install().expect("handlers");
        assert!(!signals.stop() && !signals.take_reload() && !signals.take_resize());
        raise(SIGHUP).expect("raised");
        raise(SIGWINCH).expect("raised");
        assert!(signals.take_reload() && !signals.take_reload());
        assert!(signals.take_resize() && !signals.take_resize());
        assert!(!signals.stop());
        // Once only: a second one would end this process.
        raise(SIGTERM).expect("raised");
        assert!(signals.stop() && signals.stop_flag().load(Ordering::Relaxed));
    }
}
