//! Where a boot's time went, from the marks that a run leaves.

use std::time::Duration;

use serde::Serialize;

/// Points of a boot, each as time since the run began. Absent: not (yet) reached, or not visible on the console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Timeline {
    /// The image and its files are there.
    pub pulled: Option<Duration>,
    /// The launch is planned and every file prepared; QEMU is started next.
    pub prepared: Option<Duration>,
    /// QEMU answers on its monitor.
    pub vmm_ready: Option<Duration>,
    /// The first byte on the console.
    pub first_output: Option<Duration>,
    /// The kernel's `Linux version` banner.
    pub kernel_started: Option<Duration>,
    /// The kernel started init.
    pub userspace_started: Option<Duration>,
    /// The guest ended: power-off, panic, or the run's own end.
    pub ended: Option<Duration>,
}

/// One stretch of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phase {
    /// `pull`, `prepare`, `VMM`, `kernel`, `userspace`, or `guest` where kernel and user space cannot be told apart.
    pub name: &'static str,
    /// How long it took.
    pub duration: Duration,
}

impl Timeline {
    /// The phases in order, from the marks there are. Their sum is `ended`.
    ///
    /// `VMM` runs from QEMU's start to the kernel's banner, so it holds the firmware and the unpacking of the kernel too.
    /// Without the banner on the console (`quiet`) it ends where QEMU answers. Without banner or init line, kernel and
    /// user space are one phase, `guest`.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = Vec::new();
        let mut since = Duration::ZERO;
        // Console bytes may be read after the end that they preceded.
        let end = self.ended.unwrap_or(Duration::MAX);
        let mut phase = |name: &'static str, until: Option<Duration>| {
            if let Some(until) = until.map(|until| until.min(end)) {
                phases.push(Phase { name, duration: until.saturating_sub(since) });
                since = since.max(until);
            }
        };
        phase("pull", self.pulled);
        phase("prepare", self.prepared);
        match (self.kernel_started, self.userspace_started) {
            (Some(_), Some(_)) => {
                phase("VMM", self.kernel_started);
                phase("kernel", self.userspace_started);
                phase("userspace", self.ended);
            }
            (started, _) => {
                phase("VMM", started.or(self.vmm_ready));
                phase("guest", self.ended);
            }
        }
        phases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    fn names(timeline: &Timeline) -> Vec<(&'static str, u128)> {
        timeline.phases().iter().map(|phase| (phase.name, phase.duration.as_millis())).collect()
    }

    #[test]
    fn a_visible_boot_has_five_phases() {
        let timeline = Timeline {
            pulled: ms(10),
            prepared: ms(15),
            vmm_ready: ms(80),
            first_output: ms(200),
            kernel_started: ms(210),
            userspace_started: ms(1200),
            ended: ms(1300),
        };
        assert_eq!(
            names(&timeline),
            [("pull", 10), ("prepare", 5), ("VMM", 195), ("kernel", 990), ("userspace", 100)]
        );
    }

    #[test]
    fn a_quiet_boot_has_one_guest_phase() {
        let timeline = Timeline {
            pulled: ms(10),
            prepared: ms(15),
            vmm_ready: ms(80),
            first_output: ms(900),
            ended: ms(1300),
            ..Timeline::default()
        };
        assert_eq!(names(&timeline), [("pull", 10), ("prepare", 5), ("VMM", 65), ("guest", 1220)]);
    }

    #[test]
    fn a_mark_that_was_read_late_does_not_stretch_the_run() {
        let timeline = Timeline {
            pulled: ms(10),
            prepared: ms(15),
            kernel_started: ms(210),
            userspace_started: ms(1400),
            ended: ms(1300),
            ..Timeline::default()
        };
        assert_eq!(
            names(&timeline),
            [("pull", 10), ("prepare", 5), ("VMM", 195), ("kernel", 1090), ("userspace", 0)]
        );
    }

    #[test]
    fn the_phases_add_up_to_the_end() {
        let timeline = Timeline { pulled: ms(10), prepared: ms(15), ended: ms(700), ..Timeline::default() };
        assert_eq!(names(&timeline), [("pull", 10), ("prepare", 5), ("guest", 685)]);
        let sum: Duration = timeline.phases().iter().map(|phase| phase.duration).sum();
        assert_eq!(Some(sum), timeline.ended);
    }
}
