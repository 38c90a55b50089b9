//! Tests that need a process of their own run this test binary again, with a role in the environment.

use std::io::{BufRead, BufReader, Write};
use std::process::{self, Command, Stdio};

const ROLE: &str = "ACKTRAIL_TEST_ROLE";
const READY: &str = "ready: ";

/// What this process is to do, if it is such a child.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Tells the parent that the child is where it should be.
pub fn ready() {
    say("");
}

/// Tells the parent something.
pub fn say(what: &str) {
    println!("{READY}{what}");
    std::io::stdout().flush().unwrap();
}

/// Does something in a fork of this process, which has one thread only, and fails if that fails.
pub fn in_a_fork(work: fn()) {
    // SAFETY: the other threads of a test process wait for this one; nothing that they could hold is needed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let failed = std::panic::catch_unwind(work).is_err();
        // SAFETY: ends the fork without running the harness's exit handlers a second time.
        unsafe { libc::_exit(i32::from(failed)) };
    }
    let mut status = 0;
    // SAFETY: the kernel writes one status.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the fork failed");
}

/// A child; killed when dropped.
pub struct Child {
    process: process::Child,
    output: BufReader<process::ChildStdout>,
    /// What it said when it was ready.
    pub said: String,
}

/// Runs one test of this binary in a child with a role, and waits until it is ready.
pub fn spawn(mut command: Command, test: &str, role: &str) -> Child {
    command.args([test, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    let mut process = command.env(ROLE, role).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(process.stdout.take().unwrap());
    let mut child = Child { process, output, said: String::new() };
    let mut line = String::new();
    while child.output.read_line(&mut line).unwrap() > 0 {
        if let Some((_, said)) = line.split_once(READY) {
            child.said = said.trim().to_owned();
            return child;
        }
        line.clear();
    }
    panic!("the child for {test} ended before it was ready");
}

/// This binary.
pub fn this() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

impl Child {
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end, which must be a good one.
    pub fn wait(mut self) {
        let mut rest = String::new();
        while self.output.read_line(&mut rest).unwrap() > 0 {}
        assert!(self.process.wait().unwrap().success(), "the child failed: {rest}");
    }

    /// Ends it without any chance to clean up.
    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
