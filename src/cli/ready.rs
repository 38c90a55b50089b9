//! Telling others that everything is attached: a file descriptor, a file, systemd.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use crate::config::Agent;

/// Who waits for the agent to be ready.
#[derive(Debug, Default)]
pub struct Ready {
    pipe: Option<File>,
    file: Option<PathBuf>,
    systemd: Option<OsString>,
}

impl Ready {
    /// Takes what the configuration and the environment name. Called first of all, while the descriptor's number can belong
    /// to nothing else yet.
    ///
    /// # Errors
    /// If the file descriptor is not open.
    pub fn prepare(agent: &Agent) -> io::Result<Ready> {
        let pipe = agent.ready_fd.map(inherited).transpose()?;
        Ok(Ready { pipe, file: agent.ready_file.clone(), systemd: std::env::var_os("NOTIFY_SOCKET") })
    }

    /// Everything is attached: writes `ready` and a newline to the descriptor and closes it, creates the file, tells systemd
    /// `READY=1`.
    ///
    /// # Errors
    /// If one of them cannot be told; the others are told all the same.
    pub fn announce(&mut self) -> io::Result<()> {
        let pipe = self.pipe.take().map_or(Ok(()), |mut pipe| pipe.write_all(b"ready\n"));
        let file = self.file.as_ref().map_or(Ok(()), |path| std::fs::write(path, b"ready\n"));
        let systemd = self.tell("READY=1");
        pipe.map_err(|error| named("--ready-fd", &error))?;
        file.map_err(|error| named("--ready-file", &error))?;
        systemd.map_err(|error| named("NOTIFY_SOCKET", &error))
    }

    /// The configuration is being read again; [`reloaded`](Ready::reloaded) must follow (sd_notify(3)).
    ///
    /// # Errors
    /// If systemd cannot be told.
    pub fn reloading(&self) -> io::Result<()> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: clock_gettime writes a timespec to the address given, which is that of a live one.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"))
    }

    /// The configuration has been read again.
    ///
    /// # Errors
    /// If systemd cannot be told.
    pub fn reloaded(&self) -> io::Result<()> {
        self.tell("READY=1")
    }

    /// The agent ends: tells systemd, and removes the file.
    ///
    /// # Errors
    /// If systemd cannot be told.
    pub fn stopping(&self) -> io::Result<()> {
        if let Some(path) = &self.file {
            // Somebody else may have removed it already.
            let _ = std::fs::remove_file(path);
        }
        self.tell("STOPPING=1")
    }

    fn tell(&self, message: &str) -> io::Result<()> {
        let Some(name) = self.systemd.as_deref().filter(|name| !name.is_empty()) else { return Ok(()) };
        let socket = UnixDatagram::unbound()?;
        // A full queue must not hold the agent up.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address(name)?)?;
        Ok(())
    }
}

/// A path, or with `@` in front a name in the abstract namespace (sd_notify(3)).
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().split_first() {
        Some((b'@', abstract_name)) => SocketAddr::from_abstract_name(abstract_name),
        Some((b'/', _)) => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither an absolute path nor an abstract name")),
    }
}

fn inherited(fd: i32) -> io::Result<File> {
    // SAFETY: F_GETFD touches no memory; on a number that is not open it fails.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if fd < 3 || flags < 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("--ready-fd: {fd} is not open")));
    }
    // SAFETY: as above; F_SETFD takes an integer.
    unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) };
    // SAFETY: the descriptor is open, was inherited for this purpose, and nothing else of this process knows its number.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn a_descriptor_and_a_file() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ready");
        let agent = Agent { ready_fd: Some(writer.into_raw_fd()), ready_file: Some(path.clone()), ..Agent::default() };
        let mut ready = Ready { systemd: None, ..Ready::prepare(&agent).expect("open") };
        assert!(!path.exists());
        ready.announce().expect("told");
        let mut text = String::new();
        // The end of the pipe comes only because the descriptor is closed.
        reader.read_to_string(&mut text).expect("closed");
        assert_eq!(text, "ready\n");
        assert!(path.exists());
        ready.stopping().expect("told");
        assert!(!path.exists());
    }

    #[test]
    fn a_descriptor_that_is_not_open_is_refused() {
        let agent = Agent { ready_fd: Some(60_000), ..Agent::default() };
        let error = Ready::prepare(&agent).expect_err("not open").to_string();
        assert_eq!(error, "--ready-fd: 60000 is not open");
    }

    #[test]
    fn systemd_by_path_and_by_abstract_name() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let by_path = UnixDatagram::bind(&path).expect("bound");
        let name = format!("acktrail-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_name = UnixDatagram::bind_addr(&address).expect("bound");
        for (socket, name) in [(by_path, path.into_os_string()), (by_name, OsString::from(format!("@{name}")))] {
            let mut ready = Ready { systemd: Some(name), ..Ready::default() };
            ready.announce().expect("told");
            assert_eq!(received(&socket), "READY=1");
            ready.reloading().expect("told");
            assert!(received(&socket).starts_with("RELOADING=1\nMONOTONIC_USEC="));
            ready.stopping().expect("told");
            assert_eq!(received(&socket), "STOPPING=1");
        }
        let mut nobody = Ready { systemd: Some("relative".into()), ..Ready::default() };
        assert!(nobody.announce().expect_err("no address").to_string().starts_with("NOTIFY_SOCKET: "));
        assert!(Ready::default().announce().is_ok());
    }
}
