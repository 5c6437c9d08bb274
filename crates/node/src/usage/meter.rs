//! Processor time as a rate: what was used between two looks, as metrics-server tells it.
//!
//! Nothing is looked at unless somebody asks. One look is kept, a number for each running machine: it is where the time
//! begins that the next answer tells of.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use launcher::memory::proc_bytes;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Processes, TICKS_PER_SECOND};

/// The shortest time that an answer tells of. The kernel counts hundredths of a second, so that of one processor a
/// twentieth is told apart.
const SHORTEST: Duration = Duration::from_millis(200);

/// A look is kept for so long at least, so that answers that follow each other closely do not tell of ever shorter times:
/// metrics-server's `--metric-resolution`.
const RESOLUTION: Duration = Duration::from_secs(15);

/// What is older says nothing of now.
const OLDEST: Duration = Duration::from_secs(60);

/// What is used of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Billionths of a processor, on average over [`Reading::window`].
    pub nanocores: u64,
    /// Bytes of memory, now.
    pub memory_bytes: u64,
}

/// What a Pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodReading {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// All of its processes together.
    pub used: Used,
}

/// What is used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Over which time until now processors are told of.
    pub window: Duration,
    /// All of the node: its processors, without what the host took of them (`steal`), and its memory that is not
    /// available (`MemTotal` without `MemAvailable`).
    pub node: Used,
    /// The Pods whose launchers run.
    pub pods: Vec<PodReading>,
}

/// Reads what is used when it is asked.
#[derive(Debug, Clone)]
pub struct Meter {
    pods_dir: PathBuf,
    last: Arc<Mutex<Option<Look>>>,
}

/// What the kernel had counted at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    node_ticks: u64,
    node_memory_bytes: u64,
    pods: Vec<Pod>,
}

/// A Pod as it was found.
#[derive(Debug, Clone)]
struct Pod {
    namespace: String,
    name: String,
    launcher: u32,
    ticks: u64,
    memory_bytes: u64,
}

impl Pod {
    /// What no other Pod has: names and process IDs are used again.
    fn key(&self) -> (&str, &str, u32) {
        (&self.namespace, &self.name, self.launcher)
    }
}

impl Meter {
    /// Of the machines whose Pods are in `pods_dir`.
    pub fn new(pods_dir: PathBuf) -> Self {
        Self { pods_dir, last: Arc::default() }
    }

    /// What is used. Who is the first to ask for a while waits for a fifth of a second.
    ///
    /// # Errors
    /// When the directory or `/proc` cannot be read.
    pub async fn read(&self) -> io::Result<Reading> {
        let mut last = self.last.lock().await;
        let before = match last.take().filter(|look| look.at.elapsed() < OLDEST) {
            Some(look) => look,
            None => self.look().await?,
        };
        tokio::time::sleep_until(before.at + SHORTEST).await;
        let now = self.look().await?;
        let reading = reading(&before, &now);
        *last = Some(if reading.window < RESOLUTION { before } else { now });
        Ok(reading)
    }

    async fn look(&self) -> io::Result<Look> {
        let pods_dir = self.pods_dir.clone();
        // Blocks for some microseconds for each process of the host.
        tokio::task::spawn_blocking(move || look(&pods_dir)).await?
    }
}

fn look(pods_dir: &Path) -> io::Result<Look> {
    let pods = crate::pods::started(pods_dir)?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    let memory = |key| proc_bytes(&memory, key).unwrap_or_default();
    let stat = fs::read_to_string("/proc/stat")?;
    let node_ticks = busy_ticks(&stat).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "`/proc/stat` does not tell of the processors")
    })?;
    let processes = if pods.is_empty() { Processes::new(std::iter::empty()) } else { Processes::of_host()? };
    let at = Instant::now();
    let pods = pods.into_iter().filter_map(|pod| {
        let launcher = pod.launcher?;
        let (mut ticks, mut memory_bytes, mut found) = (0_u64, 0_u64, false);
        for process in processes.of_pod(launcher) {
            // One that has ended meanwhile has no memory.
            memory_bytes = memory_bytes.saturating_add(process.resident_bytes().unwrap_or_default());
            ticks = ticks.saturating_add(process.user_ticks.saturating_add(process.system_ticks));
            found = true;
        }
        found.then_some(Pod { namespace: pod.namespace, name: pod.name, launcher, ticks, memory_bytes })
    });
    Ok(Look {
        at,
        node_ticks,
        node_memory_bytes: memory("MemTotal").saturating_sub(memory("MemAvailable")),
        pods: pods.collect(),
    })
}

/// The ticks of all processors together that they were busy for, in `user`, `nice`, `system`, `irq` and `softirq` of
/// proc_stat(5); guests are in the first two.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_ascii_whitespace();
    let fields: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().try_fold(0_u64, |sum, index| sum.checked_add(*fields.get(index)?))
}

/// What was used between two looks. Of a Pod that was not there before, all that it used has been used since.
fn reading(before: &Look, now: &Look) -> Reading {
    let window = now.at.duration_since(before.at);
    let nanocores = |before: u64, now: u64| {
        // A process that has ended took its count with it.
        let seconds = now.saturating_sub(before) as f64 / TICKS_PER_SECOND;
        (seconds / window.as_secs_f64() * 1e9) as u64
    };
    let earlier: HashMap<_, _> = before.pods.iter().map(|pod| (pod.key(), pod.ticks)).collect();
    let pods = now.pods.iter().map(|pod| {
        let before = earlier.get(&pod.key()).copied().unwrap_or_default();
        PodReading {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            used: Used { nanocores: nanocores(before, pod.ticks), memory_bytes: pod.memory_bytes },
        }
    });
    Reading {
        window,
        node: Used {
            nanocores: nanocores(before.node_ticks, now.node_ticks),
            memory_bytes: now.node_memory_bytes,
        },
        pods: pods.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn look_of(at: Instant, node_ticks: u64, pods: &[(&str, u32, u64)]) -> Look {
        let pod = |&(name, launcher, ticks): &(&str, u32, u64)| Pod {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            launcher,
            ticks,
            memory_bytes: 7,
        };
        Look { at, node_ticks, node_memory_bytes: 9, pods: pods.iter().map(pod).collect() }
    }

    #[test]
    fn a_rate_is_what_was_used_since_the_look_before() {
        let then = Instant::now();
        let before =
            look_of(then, 1000, &[("stays", 1, 50), ("goes", 2, 70), ("shrinks", 3, 90), ("old", 4, 10)]);
        let now = then + Duration::from_secs(2);
        // A process ID is used again, and a Pod is new.
        let now = look_of(now, 1300, &[("stays", 1, 150), ("shrinks", 3, 80), ("new", 4, 40)]);
        let reading = reading(&before, &now);
        assert_eq!(reading.window, Duration::from_secs(2));
        assert_eq!(reading.node, Used { nanocores: 1_500_000_000, memory_bytes: 9 });
        let told: Vec<_> = reading.pods.iter().map(|pod| (&*pod.name, pod.used.nanocores)).collect();
        assert_eq!(told, [("stays", 500_000_000), ("shrinks", 0), ("new", 200_000_000)]);
        assert!(reading.pods.iter().all(|pod| pod.used.memory_bytes == 7));
    }

    #[test]
    fn a_processor_that_waits_is_not_busy() {
        let stat = |line: &str| format!("{line}\ncpu0 1 1 1 1 1 1 1 1 0 0\nintr 5\n");
        assert_eq!(busy_ticks(&stat("cpu  10 20 30 4000 500 60 70 8 9 10")), Some(190));
        for broken in ["", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7"] {
            assert_eq!(busy_ticks(broken), None, "{broken}");
        }
    }

    #[tokio::test]
    async fn answers_that_follow_each_other_begin_at_the_same_look() {
        let directory = tempfile::tempdir().unwrap();
        let meter = Meter::new(directory.path().to_owned());
        let first = meter.read().await.unwrap();
        let second = meter.read().await.unwrap();
        assert!(first.window >= SHORTEST && second.window > first.window, "{first:?} {second:?}");
        assert!(second.node.memory_bytes > 0 && second.pods.is_empty(), "{second:?}");
    }
}
