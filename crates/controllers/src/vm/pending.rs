//! Starts and stops that were asked for and not carried out yet (`status.stateChangeRequests`).
//!
//! Only the first request counts at a time. One that has become pointless is removed, which lets the next one count:
//! a restart is a stop followed by a start.

use manifest::types::{VirtualMachineInstance, VirtualMachineStateChangeRequest as Request};

use super::instance;

/// What is asked for next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nothing, or nothing that is understood.
    Nothing,
    /// A start, with the virtual CPUs standing still where `paused`.
    Start {
        /// Whether the virtual CPUs stand still.
        paused: bool,
    },
    /// A stop of the instance that there is.
    Stop,
}

/// What a start says besides: that the virtual CPUs stand still, `true` (KubeVirt's), and words for the kernel (ours).
pub const PAUSED: &str = "paused";
/// As above.
pub const APPEND: &str = "append";

const START: &str = "Start";
const STOP: &str = "Stop";

/// `requests` without those at the beginning that are carried out or have become pointless.
pub fn trim(requests: &[Request], instance: Option<&VirtualMachineInstance>) -> Vec<Request> {
    requests.iter().skip_while(|request| is_done(request, instance)).cloned().collect()
}

fn is_done(request: &Request, instance: Option<&VirtualMachineInstance>) -> bool {
    match (request.action.as_str(), instance) {
        (STOP, instance) => !is_stop_of(request, instance),
        (START, Some(instance)) => !instance::is_deleting(instance) && !instance::is_final(instance),
        _ => false,
    }
}

fn is_stop_of(request: &Request, instance: Option<&VirtualMachineInstance>) -> bool {
    request.action == STOP
        && instance.is_some_and(|instance| {
            request.uid.as_deref().is_some_and(|uid| !uid.is_empty() && uid == instance::uid(instance))
        })
}

/// What the first of `requests` asks for.
pub fn asked(requests: &[Request], instance: Option<&VirtualMachineInstance>) -> Asked {
    match requests.first() {
        Some(request) if request.action == START => {
            Asked::Start { paused: request.data.get(PAUSED).is_some_and(|value| value == "true") }
        }
        Some(request) if is_stop_of(request, instance) => Asked::Stop,
        _ => Asked::Nothing,
    }
}

/// The words that the start which is asked for next puts behind the kernel arguments.
pub fn append(requests: &[Request]) -> Option<&str> {
    let start = requests.first().filter(|request| request.action == START)?;
    start.data.get(APPEND).map(String::as_str)
}

/// Whether a start is asked for, now or next, that puts these words behind the kernel arguments.
pub fn appends(requests: &[Request], words: &str) -> bool {
    requests
        .iter()
        .any(|request| request.action == START && request.data.get(APPEND).is_some_and(|own| own == words))
}

/// `requests` with a start at the end, unless there is one.
pub fn with_start(mut requests: Vec<Request>) -> Vec<Request> {
    if !requests.iter().any(|request| request.action == START) {
        requests.push(Request { action: START.to_owned(), ..Request::default() });
    }
    requests
}

/// `requests` without what was to follow a stop: who halts a machine that is being restarted wants it to stay halted.
pub fn without_restart(mut requests: Vec<Request>) -> Vec<Request> {
    if requests.first().is_some_and(|request| request.action == STOP) {
        requests.truncate(1);
    }
    requests
}
