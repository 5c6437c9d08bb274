//! A child process with a bound on its CPU time and on the time that passes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How often the CPU time is looked at once the child has had time enough to have used it up.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The unit of the times in `/proc/PID/stat` (`USER_HZ`), proc(5): 100 on every x86 kernel.
const TICKS_PER_SECOND: u64 = 100;

/// At most so much of each output is looked at.
const OUTPUT_BYTES: usize = 16 * 1024;

/// How the child ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It was killed, having used up one of its bounds.
    OutOfTime {
        /// CPU time that it had used, in steps of 10 ms.
        cpu: Duration,
        /// Time since its start.
        elapsed: Duration,
    },
}

/// The ends of what the child wrote.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    /// The last three non-empty lines of stderr, in one line.
    pub(super) fn stderr_tail(&self) -> Option<String> {
        let lines: Vec<&str> = self.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let tail = lines[lines.len().saturating_sub(3)..].join("; ");
        (!tail.is_empty()).then_some(tail)
    }
}

/// Runs `command` until it ends or has used `cpu_limit` of CPU time or `wall_limit` of time; then it is killed.
/// In either case it has been waited for when this returns.
pub(super) fn run(
    command: &mut Command,
    stdin: File,
    cpu_limit: Duration,
    wall_limit: Duration,
) -> io::Result<(Ended, Output)> {
    // Files in memory rather than pipes: nobody has to read them while the child runs.
    let stdout = memory_file("stdout")?;
    let stderr = memory_file("stderr")?;
    command.stdin(stdin).stdout(Stdio::from(stdout.try_clone()?)).stderr(Stdio::from(stderr.try_clone()?));
    let mut child = command.spawn()?;
    let ended = wait(&mut child, cpu_limit, wall_limit);
    if !matches!(ended, Ok(Ended::Exited(_))) {
        child.kill()?;
        child.wait()?;
    }
    Ok((ended?, Output { stdout: tail_of(&stdout)?, stderr: tail_of(&stderr)? }))
}

fn wait(child: &mut Child, cpu_limit: Duration, wall_limit: Duration) -> io::Result<Ended> {
    let started = Instant::now();
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut pause = cpu_limit;
    loop {
        let timeout = Timespec { tv_sec: 0, tv_nsec: pause.min(Duration::from_millis(999)).as_nanos() as _ };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(Ended::Exited(child.wait()?)),
            Err(error) => return Err(error.into()),
        }
        let elapsed = started.elapsed();
        let cpu = cpu_time(child.id())?;
        if cpu >= cpu_limit || elapsed >= wall_limit {
            return Ok(Ended::OutOfTime { cpu, elapsed });
        }
        pause = POLL_INTERVAL;
    }
}

/// User and system time of a process, guest time included: fields 14 and 15 of `/proc/PID/stat`, proc(5).
fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_cpu_time(&stat).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat reads `{stat}`")))
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // Field 2 is the program's name in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 1000 / TICKS_PER_SECOND))
}

/// An empty file in memory, closed on exec.
pub(super) fn memory_file(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?))
}

fn tail_of(file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let mut bytes = vec![0; OUTPUT_BYTES.min(usize::try_from(length).unwrap_or(OUTPUT_BYTES))];
    let start = length - bytes.len() as u64;
    file.read_exact_at(&mut bytes, start)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_parentheses() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 100 0 0 0 7 25 0 0 20 0 1 0 1 1 1";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_millis(320)));
        assert_eq!(parse_cpu_time("12 (a"), None);
    }

    #[test]
    fn a_child_that_computes_is_stopped_by_its_cpu_time() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; while :; do :; done"]);
        let limit = Duration::from_millis(50);
        let stdin = memory_file("empty").unwrap();
        let (ended, output) = run(&mut command, stdin, limit, Duration::from_secs(60)).unwrap();
        assert!(matches!(ended, Ended::OutOfTime { cpu, .. } if cpu >= limit), "{ended:?}");
        assert_eq!(output.stdout, "begun\n");
    }

    #[test]
    fn a_child_that_waits_is_stopped_by_the_clock_and_a_quick_one_not_at_all() {
        let limit = Duration::from_millis(100);
        let mut command = Command::new("sleep");
        command.arg("1000");
        let (ended, _) = run(&mut command, memory_file("empty").unwrap(), limit, limit).unwrap();
        assert!(matches!(ended, Ended::OutOfTime { elapsed, .. } if elapsed >= limit), "{ended:?}");
        let mut command = Command::new("sh");
        command.args(["-c", "echo one >&2; echo; echo two >&2; exit 7"]);
        let minute = Duration::from_secs(60);
        let (ended, output) = run(&mut command, memory_file("empty").unwrap(), minute, minute).unwrap();
        assert!(matches!(ended, Ended::Exited(status) if status.code() == Some(7)), "{ended:?}");
        assert_eq!(output.stderr_tail().as_deref(), Some("one; two"));
    }
}
