//! Compiles the BPF programs, when the feature `kernel` asks for them: clang and its BPF target are needed then.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "kernel")]
    bpf::build();
}

#[cfg(feature = "kernel")]
mod bpf {
    use std::env;
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use libbpf_cargo::SkeletonBuilder;

    const SOURCE: &str = "bpf/acktrail.bpf.c";

    pub fn build() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
        let architecture = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
        let headers = root.join("vmlinux").join(&architecture);
        assert!(headers.join("vmlinux.h").exists(), "no vmlinux.h for {architecture}: see vmlinux/README.md");
        for input in ["bpf", "vmlinux"] {
            println!("cargo:rerun-if-changed={input}");
        }
        SkeletonBuilder::new()
            .source(SOURCE)
            .clang_args([
                "-Wall".into(),
                "-Wextra".into(),
                "-Werror".into(),
                // As a system header: what it declares is the kernel's business, not this build's.
                "-isystem".into(),
                headers.into_os_string(),
                define("ACKTRAIL_VERSION", &env::var("CARGO_PKG_VERSION").expect("cargo sets CARGO_PKG_VERSION")),
                define("ACKTRAIL_BUILD", &revision()),
            ])
            .build_and_generate(out.join("acktrail.skel.rs"))
            .unwrap_or_else(|error| panic!("{SOURCE} does not compile: {error:#}"));
    }

    fn define(name: &str, value: &str) -> OsString {
        format!("-D{name}=\"{value}\"").into()
    }

    /// The commit that is built: from ACKTRAIL_BUILD where a packager sets it, from git where there is one.
    fn revision() -> String {
        println!("cargo:rerun-if-env-changed=ACKTRAIL_BUILD");
        if let Ok(given) = env::var("ACKTRAIL_BUILD") {
            return given.chars().filter(|c| c.is_ascii_alphanumeric() || "-.+_".contains(*c)).take(63).collect();
        }
        if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
            println!("cargo:rerun-if-changed={log}");
        }
        git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
    }

    fn git(arguments: &[&str]) -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    }
}
