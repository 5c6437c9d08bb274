//! Peak memory of a process, as Linux counts it.

pub use vmm::proc_bytes;

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
    proc_bytes(&std::fs::read_to_string(path).ok()?, "VmHWM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let status = "Name:\tx\nVmPeak:\t  9 kB\nVmHWM:\t   12340 kB\n";
        assert_eq!(proc_bytes(status, "VmHWM"), Some(12340 * 1024));
        assert_eq!(proc_bytes("Name:\tzombie\n", "VmHWM"), None);
        assert!(peak_bytes(Process::Own).is_some_and(|bytes| bytes > 100_000));
    }
}
