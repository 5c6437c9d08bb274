//! What this machine is and has, measured.

use std::net::IpAddr;
use std::path::Path;

use launcher::memory::proc_bytes;

/// What a Node tells of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Cores that this process may use.
    pub cores: u64,
    /// `MemTotal`.
    pub memory_bytes: u64,
    /// `MemAvailable`.
    pub available_memory_bytes: u64,
    /// The file system of the node's state.
    pub disk: Disk,
    /// Processes and threads that there are.
    pub tasks: u64,
    /// Processes and threads that there may be.
    pub most_tasks: u64,
    /// Of `uname`.
    pub kernel: String,
    /// Kubernetes' name of the architecture.
    pub architecture: &'static str,
    /// `PRETTY_NAME` of os-release(5).
    pub os_image: String,
    /// Of machine-id(5).
    pub machine_id: String,
    /// The firmware's; root alone can read it.
    pub system_uuid: String,
    /// Another with every boot of the host.
    pub boot_id: String,
    /// The Node's own address.
    pub address: IpAddr,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes free for this user.
    pub free_bytes: u64,
    /// All inodes; 0 where there is no limit.
    pub total_inodes: u64,
    /// Inodes free for this user.
    pub free_inodes: u64,
}

impl Disk {
    /// Asks the file system that `path` is on.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn of(path: &Path) -> std::io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        Ok(Self {
            total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            total_inodes: found.f_files,
            free_inodes: found.f_favail,
        })
    }
}

impl Facts {
    /// Measures. What cannot be read is empty or 0. Blocks for a few file reads.
    pub fn measure(state_dir: &Path, address: IpAddr) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let line = |path: &str| read(path).trim().to_owned();
        let memory = read("/proc/meminfo");
        let uname = rustix::system::uname();
        let no_disk = Disk { total_bytes: 0, free_bytes: 0, total_inodes: 0, free_inodes: 0 };
        Self {
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64),
            memory_bytes: proc_bytes(&memory, "MemTotal").unwrap_or_default(),
            available_memory_bytes: proc_bytes(&memory, "MemAvailable").unwrap_or_default(),
            disk: Disk::of(state_dir).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %state_dir.display(), "the disk cannot be measured; the node has none");
                no_disk
            }),
            tasks: tasks(&read("/proc/loadavg")),
            most_tasks: line("/proc/sys/kernel/pid_max").parse().unwrap_or_default(),
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            os_image: pretty_name(&read("/etc/os-release")),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            address,
        }
    }
}

/// The second number of the fourth field of proc_loadavg(5).
fn tasks(text: &str) -> u64 {
    text.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse().ok()).unwrap_or_default()
}

fn pretty_name(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default();
    value.trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let memory = "MemTotal:       24589012 kB\nMemFree:  1 kB\nMemAvailable:   100 kB\n";
        assert_eq!(proc_bytes(memory, "MemTotal"), Some(24_589_012 * 1024));
        assert_eq!(proc_bytes(memory, "MemAvailable"), Some(102_400));
        assert_eq!(proc_bytes(memory, "Mem"), None);
        assert_eq!(
            proc_bytes("Name:\tqemu\nVmRSS:\t  204868 kB\nThreads:\t4\n", "VmRSS"),
            Some(204_868 * 1024)
        );
        for broken in ["", "VmRSS:\t x kB", "VmRSS:\t 1 MB", "VmRSS:\t 99999999999999999999 kB"] {
            assert_eq!(proc_bytes(broken, "VmRSS"), None, "{broken}");
        }
        assert_eq!(tasks("0.00 0.01 0.05 2/345 6789\n"), 345);
        assert_eq!(tasks("strange"), 0);
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n"), "Debian GNU/Linux 13");
    }

    #[test]
    fn this_machine_can_be_measured() {
        let facts = Facts::measure(Path::new("/"), std::net::Ipv4Addr::LOCALHOST.into());
        assert!(facts.cores > 0 && facts.memory_bytes > 0 && facts.disk.total_bytes > 0, "{facts:?}");
        assert!(facts.tasks > 0 && facts.tasks < facts.most_tasks, "{facts:?}");
        assert!(!facts.kernel.is_empty() && !facts.boot_id.is_empty(), "{facts:?}");
    }
}
