//! Where and when the numbers were measured.

use std::{fs, process::Command, thread};

use time::OffsetDateTime;

pub(crate) fn today() -> String {
    OffsetDateTime::now_utc().date().to_string()
}

/// Processor, cores and operating system.
pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| field(&text, "model name", ':'));
    let system = fs::read_to_string("/etc/os-release")
        .ok()
        .and_then(|text| field(&text, "PRETTY_NAME", '='));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores =
        thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
    format!(
        "{}, {cores} cores, {}, kernel {}",
        cpu.unwrap_or_else(|| "unknown processor".to_owned()),
        system.unwrap_or_else(|| std::env::consts::OS.to_owned()),
        kernel.trim()
    )
}

pub(crate) fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let version = output
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    version.map_or_else(|| "unknown".to_owned(), |version| version.trim().to_owned())
}

fn field(text: &str, name: &str, separator: char) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(
        line.split_once(separator)?
            .1
            .trim()
            .trim_matches('"')
            .to_owned(),
    )
}
