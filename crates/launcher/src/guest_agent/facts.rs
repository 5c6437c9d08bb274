//! From what an agent answers to what is told of its guest. Pure. Whatever a guest says is cut to a size, and has nothing
//! in it that would make a terminal do something; what is missing or no such thing is left out.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use manifest::guest_agent::{
    GuestAgentCommand, GuestAgentInfo, GuestDisk, GuestFileSystem, GuestFileSystems, GuestUser,
};
use manifest::machine_status::{GuestAgent, GuestInterface};
use manifest::types::VirtualMachineInstanceGuestOsInfo;
use serde_json::Value;

use crate::agent_report::{AgentReport, LoadAverage};

/// Longest text of a guest, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Longest text that is kept in a status, in bytes.
const MAX_STATUS_TEXT_BYTES: usize = 64;

/// Elements of a list that are told.
const MOST_ELEMENTS: usize = 256;

/// Interfaces, and addresses of each, that are kept in a status.
const MOST_INTERFACES: usize = 8;
const MOST_ADDRESSES: usize = 4;

/// File systems that are measured.
const MOST_MEASURED: usize = 64;

/// What KubeVirt asks of every agent (`requiredGuestAgentCommands` in its `pkg/virt-handler`).
const REQUIRED: [&str; 10] = [
    "guest-ping",
    "guest-get-time",
    "guest-info",
    "guest-shutdown",
    "guest-network-get-interfaces",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-users",
    "guest-get-timezone",
    "guest-get-osinfo",
];

/// What `guest-info` and the like have answered; `Null` where they have not.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub info: Value,
    pub host_name: Value,
    pub os: Value,
    pub timezone: Value,
    pub users: Value,
    pub file_systems: Value,
    pub freeze_status: Value,
}

/// How a command in the guest has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandEnd {
    /// Its exit code; none when a signal has ended it.
    code: Option<i64>,
    /// The signal that has.
    signal: Option<i64>,
    /// The beginning of what it has said, its output before its errors.
    said: String,
}

impl CommandEnd {
    /// Whether it has ended well; otherwise how.
    pub(crate) fn succeeded(&self) -> Result<(), String> {
        let how = match (self.code, self.signal) {
            (Some(0), _) => return Ok(()),
            (Some(code), _) => format!("with exit code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "in an unknown way".to_owned(),
        };
        let said = if self.said.is_empty() { String::new() } else { format!(": {}", self.said) };
        Err(format!("the command has ended {how}{said}"))
    }
}

/// The answer to `guest-exec-status` about a command that has exited.
pub(super) fn command_end(status: &Value) -> CommandEnd {
    let said = ["out-data", "err-data"].map(|name| {
        // What cannot be read is left out: the exit code decides.
        let data = BASE64_STANDARD.decode(status[name].as_str().unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&data).into_owned()
    });
    CommandEnd {
        code: status["exitcode"].as_i64(),
        signal: status["signal"].as_i64(),
        said: line(&said.join(" ")),
    }
}

/// The document of the subresource `guestosinfo`.
pub(super) fn info(answers: &Answers) -> GuestAgentInfo {
    let Answers { info, host_name, os, timezone, users, file_systems, freeze_status } = answers;
    GuestAgentInfo {
        guest_agent_version: string(&info["version"]),
        supported_commands: commands(info),
        hostname: string(&host_name["host-name"]),
        os: os_info(os, MAX_TEXT_BYTES),
        timezone: zone(timezone),
        user_list: self::users(users),
        fs_info: GuestFileSystems { disks: self::file_systems(file_systems) },
        fs_freeze_status: string(freeze_status),
    }
}

/// What is kept in a status.
pub(super) fn status(info: &Value, os: &Value, interfaces: &Value, is_frozen: bool) -> GuestAgent {
    let commands = commands(info);
    let is_there = |wanted: &&str| commands.iter().any(|command| command.enabled && command.name == *wanted);
    GuestAgent {
        version: cut(&string(&info["version"]), MAX_STATUS_TEXT_BYTES).to_owned(),
        // Frozen file systems have an agent refuse most of what it can do otherwise.
        is_unsupported: !is_frozen && !REQUIRED.iter().all(is_there),
        os: os_info(os, MAX_STATUS_TEXT_BYTES),
        interfaces: self::interfaces(interfaces),
        is_frozen,
    }
}

/// Whether an agent would carry out a command. Agents of a QEMU before 10.0 have no `guest-get-load`.
pub(super) fn can(info: &Value, wanted: &str) -> bool {
    commands(info).iter().any(|command| command.enabled && command.name == wanted)
}

/// What an agent has measured, by its answers to `guest-get-fsinfo` and `guest-get-load`.
pub(super) fn report(file_systems: &Value, load: &Value) -> AgentReport {
    let mut file_systems: Vec<_> = self::file_systems(file_systems)
        .into_iter()
        .filter(|found| found.total_bytes > 0)
        .map(|found| GuestFileSystem { disk: Vec::new(), ..found })
        .collect();
    let place = |found: &GuestFileSystem| {
        (found.mount_point.clone(), found.disk_name.clone(), found.file_system_type.clone())
    };
    file_systems.sort_by_cached_key(place);
    file_systems.dedup_by_key(|found| place(found));
    file_systems.truncate(MOST_MEASURED);
    let average = |name: &str| load[name].as_f64();
    let load = || {
        Some(LoadAverage {
            one_minute: average("load1m")?,
            five_minutes: average("load5m")?,
            fifteen_minutes: average("load15m")?,
        })
    };
    AgentReport { file_systems, load: load() }
}

fn commands(info: &Value) -> Vec<GuestAgentCommand> {
    let command = |command: &Value| GuestAgentCommand {
        name: string(&command["name"]),
        enabled: command["enabled"] == Value::Bool(true),
    };
    elements(&info["supported_commands"]).map(command).collect()
}

fn os_info(os: &Value, most_bytes: usize) -> VirtualMachineInstanceGuestOsInfo {
    let text = |name: &str| {
        let text = string(&os[name]);
        (!text.is_empty()).then(|| cut(&text, most_bytes).to_owned())
    };
    VirtualMachineInstanceGuestOsInfo {
        id: text("id"),
        name: text("name"),
        pretty_name: text("pretty-name"),
        version: text("version"),
        version_id: text("version-id"),
        kernel_release: text("kernel-release"),
        kernel_version: text("kernel-version"),
        machine: text("machine"),
    }
}

fn zone(timezone: &Value) -> String {
    match timezone["offset"].as_i64() {
        Some(offset) => format!("{}, {offset}", string(&timezone["zone"])),
        None => String::new(),
    }
}

pub(super) fn users(users: &Value) -> Vec<GuestUser> {
    let user = |user: &Value| GuestUser {
        user_name: string(&user["user"]),
        domain: string(&user["domain"]),
        login_time: user["login-time"].as_f64().unwrap_or_default(),
    };
    elements(users).map(user).collect()
}

pub(super) fn file_systems(file_systems: &Value) -> Vec<GuestFileSystem> {
    let disk =
        |disk: &Value| GuestDisk { serial: string(&disk["serial"]), bus_type: string(&disk["bus-type"]) };
    let file_system = |file_system: &Value| GuestFileSystem {
        disk_name: string(&file_system["name"]),
        mount_point: string(&file_system["mountpoint"]),
        file_system_type: string(&file_system["type"]),
        used_bytes: file_system["used-bytes"].as_u64().unwrap_or_default(),
        total_bytes: file_system["total-bytes"].as_u64().unwrap_or_default(),
        disk: elements(&file_system["disk"]).map(disk).collect(),
    };
    elements(file_systems).map(file_system).collect()
}

/// All but the loopback.
fn interfaces(interfaces: &Value) -> Vec<GuestInterface> {
    let address = |address: &Value| {
        // An address reads as one, or is none.
        let text = string(&address["ip-address"]);
        text.parse::<IpAddr>().ok().map(|address| address.to_string())
    };
    let interface = |interface: &Value| {
        let mac = string(&interface["hardware-address"]).to_lowercase();
        GuestInterface {
            name: cut(&string(&interface["name"]), MAX_STATUS_TEXT_BYTES).to_owned(),
            mac: if is_mac(&mac) { mac } else { String::new() },
            addresses: elements(&interface["ip-addresses"])
                .filter_map(address)
                .take(MOST_ADDRESSES)
                .collect(),
        }
    };
    let all = elements(interfaces).map(interface);
    all.filter(|interface| interface.name != "lo").take(MOST_INTERFACES).collect()
}

fn is_mac(text: &str) -> bool {
    let octets: Vec<_> = text.split(':').collect();
    let is_octet = |octet: &&str| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok();
    octets.len() == 6 && octets.iter().all(is_octet)
}

fn elements(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().map(Vec::as_slice).unwrap_or_default().iter().take(MOST_ELEMENTS)
}

fn string(value: &Value) -> String {
    text(value.as_str().unwrap_or_default())
}

/// What a guest has said, as it can be told on one line.
pub(crate) fn line(said: &str) -> String {
    text(&said.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A guest's text, as it can be told.
pub(super) fn text(text: &str) -> String {
    let shown = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    cut(text, MAX_TEXT_BYTES).chars().map(shown).collect()
}

fn cut(text: &str, most_bytes: usize) -> &str {
    let mut end = text.len().min(most_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_become_the_documents_of_kubevirt() {
        let answers = Answers {
            info: json!({"version": "7.2.0", "supported_commands": [
                {"name": "guest-ping", "enabled": true, "success-response": true},
                {"name": "guest-exec", "enabled": false, "success-response": true},
            ]}),
            host_name: json!({"host-name": "vm"}),
            os: json!({"id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 12 (bookworm)",
                "version": "12 (bookworm)", "version-id": "12", "kernel-release": "6.1.0", "kernel-version": "#1 SMP",
                "machine": "x86_64", "variant": "x"}),
            timezone: json!({"zone": "CET", "offset": 3600}),
            users: json!([{"user": "root", "login-time": 1_700_000_000.25}]),
            file_systems: json!([{"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 5, "total-bytes": 9,
                "disk": [{"serial": "S", "bus-type": "virtio", "bus": 0}]}, {"name": "vdb", "disk": []}]),
            freeze_status: json!("thawed"),
        };
        assert_eq!(
            serde_json::to_value(info(&answers)).ok(),
            Some(json!({
                "guestAgentVersion": "7.2.0",
                "supportedCommands": [{"name": "guest-ping", "enabled": true}, {"name": "guest-exec"}],
                "hostname": "vm",
                "os": {"id": "debian", "name": "Debian GNU/Linux", "prettyName": "Debian GNU/Linux 12 (bookworm)",
                    "version": "12 (bookworm)", "versionId": "12", "kernelRelease": "6.1.0",
                    "kernelVersion": "#1 SMP", "machine": "x86_64"},
                "timezone": "CET, 3600",
                "userList": [{"userName": "root", "loginTime": 1_700_000_000.25}],
                "fsInfo": {"disks": [
                    {"diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 5, "totalBytes": 9,
                        "disk": [{"serial": "S", "busType": "virtio"}]},
                    {"diskName": "vdb", "mountPoint": "", "fileSystemType": "", "usedBytes": 0, "totalBytes": 0},
                ]},
                "fsFreezeStatus": "thawed",
            }))
        );
        // Who says nothing is told of so.
        let nothing = json!({"os": {}, "fsInfo": {"disks": []}});
        assert_eq!(serde_json::to_value(info(&Answers::default())).ok(), Some(nothing));
    }

    #[test]
    fn what_is_measured_is_bounded_and_told_once_whatever_the_guest_says() {
        let found = |name: &str, mount: &str, total: u64| {
            json!({"name": name, "mountpoint": mount, "type": "ext4", "used-bytes": 5, "total-bytes": total,
                "disk": [{"serial": "S", "bus-type": "virtio"}]})
        };
        let measured = |name: &str, mount: &str| GuestFileSystem {
            disk_name: name.to_owned(),
            mount_point: mount.to_owned(),
            file_system_type: "ext4".to_owned(),
            used_bytes: 5,
            total_bytes: 9,
            disk: Vec::new(),
        };
        let answer = json!([
            found("vdb", "/data", 9),
            found("vda1", "/", 9),
            found("vda1", "/", 8),
            found("vdc", "/unknown", 0),
            found("vda1", "/data", 9),
        ]);
        let told = report(&answer, &json!({"load1m": 0.5, "load5m": 1, "load15m": 2.25}));
        let load = LoadAverage { one_minute: 0.5, five_minutes: 1.0, fifteen_minutes: 2.25 };
        let file_systems = vec![measured("vda1", "/"), measured("vda1", "/data"), measured("vdb", "/data")];
        assert_eq!(told, AgentReport { file_systems, load: Some(load) });
        let text = serde_json::to_string(&told).unwrap_or_default();
        assert_eq!(serde_json::from_str::<AgentReport>(&text).ok(), Some(told));

        for (answer, load) in [(json!(null), json!(null)), (json!(7), json!({"load1m": 1, "load5m": "x"}))] {
            assert_eq!(report(&answer, &load), AgentReport::default());
        }
        let long = "\u{1b}é".repeat(4000);
        let flood: Vec<_> = (0..5000).map(|number| found(&format!("{number}{long}"), &long, 1)).collect();
        let told = report(&json!(flood), &json!(null));
        assert_eq!(told.file_systems.len(), MOST_MEASURED);
        assert!(told.file_systems.iter().all(|found| found.mount_point.len() < 1000));
    }

    #[test]
    fn a_status_has_what_is_needed_and_is_small_whatever_the_guest_says() {
        let all: Vec<_> = REQUIRED.iter().map(|name| json!({"name": name, "enabled": true})).collect();
        let interfaces = json!([
            {"name": "lo", "hardware-address": "00:00:00:00:00:00", "ip-addresses": [{"ip-address": "127.0.0.1"}]},
            {"name": "eth0", "hardware-address": "02:00:00:AB:CD:EF", "ip-addresses": [
                {"ip-address": "10.0.2.2", "prefix": 24}, {"ip-address": "fe80::0001"}, {"ip-address": "nonsense"},
            ]},
            {"name": "sit0", "hardware-address": "nonsense"},
        ]);
        let told =
            status(&json!({"version": "7", "supported_commands": all}), &json!({}), &interfaces, false);
        assert!(!told.is_unsupported);
        let expected = |name: &str, mac: &str, addresses: &[&str]| GuestInterface {
            name: name.to_owned(),
            mac: mac.to_owned(),
            addresses: addresses.iter().map(|address| (*address).to_owned()).collect(),
        };
        let eth0 = expected("eth0", "02:00:00:ab:cd:ef", &["10.0.2.2", "fe80::1"]);
        assert_eq!(told.interfaces, [eth0, expected("sit0", "", &[])]);
        assert!(
            status(&json!({"supported_commands": all[1..]}), &json!({}), &json!(3), false).is_unsupported
        );

        let long = "\u{1b}é".repeat(4000);
        let address = json!({"ip-address": "fe80:1111:2222:3333:4444:5555:6666:7777"});
        let interface = json!({"name": long, "hardware-address": "02:00:00:00:00:01",
            "ip-addresses": vec![address; 500]});
        let os = json!({"id": long, "name": long, "pretty-name": long, "version": long, "version-id": long,
            "kernel-release": long, "kernel-version": long, "machine": long});
        let told = status(&json!({"version": long}), &os, &json!(vec![interface; 500]), true);
        assert_eq!((told.interfaces.len(), told.interfaces[0].addresses.len()), (8, 4));
        let length = serde_json::to_string(&told).map_or(0, |text| text.len());
        assert!(length < 3500, "{length}");
        assert!(!told.version.contains('\u{1b}'));
    }
}
