//! Has the linker write most relocations in their short form, `DT_RELR`: 0.8 MB that need not be read at every start, nor
//! stay in memory. glibc's loader knows it since 2.36; a program with it does not start under an older one.

use std::process::Command;

const FIRST_WITH_RELR: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let of_target = |what: &str| std::env::var(what).unwrap_or_default();
    let is_for_this_host = of_target("HOST") == of_target("TARGET");
    if is_for_this_host && of_target("CARGO_CFG_TARGET_ENV") == "gnu" && glibc() >= Some(FIRST_WITH_RELR) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this host's glibc, as getconf(1) says it: `glibc 2.36`. `None` where that cannot be told.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
