//! Peak memory of a process, as Linux counts it.

/// A process whose memory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// This one.
    Own,
    /// Another one, by its id.
    Id(u32),
}

/// The largest resident set that `process` has had, in bytes (`VmHWM`, proc_pid_status(5)).
///
/// `None` when the process has ended: a zombie has no memory any more.
pub fn peak_bytes(process: Process) -> Option<u64> {
    let path = match process {
        Process::Own => "/proc/self/status".to_owned(),
        Process::Id(id) => format!("/proc/{id}/status"),
    };
    // Absence is an answer here: the process is gone.
    parse_peak(&std::fs::read_to_string(path).ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    // The unit says `kB` and means KiB.
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        assert_eq!(parse_peak("Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   12340 kB\n"), Some(12340 * 1024));
        assert_eq!(parse_peak("Name:\tzombie\n"), None);
        assert!(peak_bytes(Process::Own).is_some_and(|bytes| bytes > 100_000));
    }
}
