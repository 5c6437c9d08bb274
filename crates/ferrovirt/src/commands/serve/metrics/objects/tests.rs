#![allow(clippy::unwrap_used)]

use launcher::agent_report::{AgentReport, LoadAverage};
use launcher::guest_memory::GuestMemory;
use launcher::network::{Lost, Traffic};
use manifest::guest_agent::GuestFileSystem;
use node::usage::VirtualCpu;
use serde_json::{Value, json};

use super::*;

fn told(tell: impl FnOnce(&mut Families)) -> Families {
    let mut families = Families::default();
    tell(&mut families);
    families
}

fn a_machine(status: &str, domain: Value) -> Machine {
    let conditions = json!([
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T03:04:05Z"},
        {"type": "Paused", "status": "True", "lastTransitionTime": "2026-01-02T03:04:09Z"},
        {"type": "Other", "status": "True", "lastTransitionTime": "2027-01-02T03:04:05Z"},
    ]);
    serde_json::from_value(json!({
        "metadata": {"name": "vm", "namespace": "ns", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"template": {
            "metadata": {"annotations": {"vm.kubevirt.io/os": "debian"}},
            "spec": {
                "domain": domain,
                "networks": [{"name": "default", "pod": {}}, {"name": "other"}],
            },
        }},
        "status": {"printableStatus": status, "conditions": conditions},
    }))
    .unwrap()
}

#[test]
fn a_machine_is_in_the_group_of_its_status_since_its_last_transition() {
    let table = [
        ("Starting", "starting", "starting"),
        ("Running", "running", "running"),
        ("Paused", "non_running", "non_running"),
        ("CrashLoopBackOff", "error", "error"),
        ("ErrorUnschedulable", "error", "error"),
        ("Migrating", "migrating", "migrating"),
        ("SomethingElse", "<unknown>", "error"),
    ];
    for (status, group, entered) in table {
        let families = told(|families| machine(&a_machine(status, json!({})), families));
        let (labels, value) = families.of("kubevirt_vm_info").remove(0);
        let expected = format!(
            "name=vm,namespace=ns,os=debian,workload=<none>,flavor=<none>,machine_type=<none>,instance_type=<none>,\
             preference=<none>,status={},status_group={group}",
            status.to_lowercase()
        );
        assert_eq!((labels, value), (expected, 1.0));
        for name in ["starting", "running", "migrating", "non_running", "error"] {
            let metric = format!("kubevirt_vm_{name}_status_last_transition_timestamp_seconds");
            let since = if name == entered { 1_767_323_049.0 } else { 0.0 };
            assert_eq!(families.of(&metric), [("name=vm,namespace=ns".to_owned(), since)], "{status} {name}");
        }
        let created = families.of("kubevirt_vm_create_date_timestamp_seconds");
        assert_eq!(created, [("name=vm,namespace=ns".to_owned(), 1_767_323_045.0)]);
    }
}

#[test]
fn labels_are_told_under_names_of_the_text_format_and_none_is_lost() {
    let told_of = |labels: Value| {
        let mut found = a_machine("Running", json!({}));
        found.metadata.labels = serde_json::from_value(labels).unwrap();
        told(|families| machine(&found, families)).of("kubevirt_vm_labels")
    };
    assert_eq!(told_of(json!({})), []);
    let labels = json!({
        "app": "web", "vm.kubevirt.io/test": "é", "a-b": "1", "a.b": "2", "a/b": "3", "a_b_conflict1": "4", "Upper": "",
    });
    let expected = "name=vm,namespace=ns,label_Upper=,label_a_b=1,label_a_b_conflict1=2,label_a_b_conflict1_conflict1=4,\
                    label_a_b_conflict2=3,label_app=web,label_vm_kubevirt_io_test=é";
    assert_eq!(told_of(labels), [(expected.to_owned(), 1.0)]);
}

#[test]
fn requests_say_where_they_are_written() {
    let prefix = "name=vm,namespace=ns,resource=";
    let table = [
        (
            json!({}),
            vec![
                ("cpu,unit=cores,source=default", 1.0),
                ("cpu,unit=threads,source=default", 1.0),
                ("cpu,unit=sockets,source=default", 1.0),
            ],
            vec![],
        ),
        (
            json!({"memory": {"guest": "1Gi"}, "cpu": {"cores": 2, "sockets": 0},
                "resources": {"limits": {"cpu": "1500m", "memory": "2G"}}}),
            vec![
                ("memory,unit=bytes,source=guest", f64::from(1 << 30)),
                ("cpu,unit=cores,source=domain", 2.0),
            ],
            vec![("memory,unit=bytes", 2e9), ("cpu,unit=cores", 1.5)],
        ),
        (
            json!({"resources": {"requests": {"cpu": "250m", "memory": "64M"}}}),
            vec![("memory,unit=bytes,source=domain", 64e6), ("cpu,unit=cores,source=requests", 0.25)],
            vec![],
        ),
    ];
    for (domain, requests, limits) in table {
        let families = told(|families| machine(&a_machine("Running", domain.clone()), families));
        let expected = |of: Vec<(&str, f64)>| -> Vec<(String, f64)> {
            of.into_iter().map(|(labels, value)| (format!("{prefix}{labels}"), value)).collect()
        };
        assert_eq!(families.of("kubevirt_vm_resource_requests"), expected(requests), "{domain}");
        assert_eq!(families.of("kubevirt_vm_resource_limits"), expected(limits), "{domain}");
    }
}

#[test]
fn cards_without_a_network_are_left_out() {
    let interfaces =
        json!([{"name": "default", "masquerade": {}}, {"name": "other", "bridge": {}}, {"name": "none"}]);
    let families = told(|families| {
        machine(&a_machine("Running", json!({"devices": {"interfaces": interfaces}})), families);
    });
    let cards: Vec<_> = families.of("kubevirt_vm_vnic_info").into_iter().map(|(labels, _)| labels).collect();
    assert_eq!(
        cards,
        [
            "name=vm,namespace=ns,vnic_name=default,binding_type=core,network=pod networking,binding_name=masquerade",
            "name=vm,namespace=ns,vnic_name=other,binding_type=core,network=<none>,binding_name=bridge",
        ]
    );
}

#[test]
fn an_instance_is_told_with_its_pod_and_what_it_uses() {
    let one: Instance = serde_json::from_value(json!({
        "metadata": {"name": "vmi", "namespace": "ns", "uid": "u", "labels": {"kubevirt.io/outdatedLauncherImage": ""}},
        "spec": {"evictionStrategy": "LiveMigrate", "domain": {"memory": {"guest": "128Mi"}}},
        "status": {
            "phase": "Running", "nodeName": "node", "machine": {"type": "pc-q35-7.2"},
            "guestOSInfo": {"kernelRelease": "6.1", "name": "Debian", "versionId": "12", "machine": "x86_64"},
            "conditions": [{"type": "LiveMigratable", "status": "False"}],
            "interfaces": [{"name": "default", "ipAddress": "10.0.2.2"}, {"name": "silent"}],
        },
    }))
    .unwrap();
    let pods: Vec<Pod> = serde_json::from_value(json!([
        {"metadata": {"name": "old", "labels": {"kubevirt.io/created-by": "u"}}, "status": {"phase": "Failed"}},
        {"metadata": {"name": "pod", "labels": {"kubevirt.io/created-by": "u"}}, "status": {"phase": "Running"}},
        {"metadata": {"name": "other"}, "status": {"phase": "Running"}},
    ]))
    .unwrap();
    let used = |instance: &str| Usage {
        namespace: "ns".to_owned(),
        instance: instance.to_owned(),
        user_seconds: 1.5,
        system_seconds: 0.25,
        resident_bytes: 4096,
        virtual_cpus: [(3, VirtualCpu { seconds: 1.25, delay_seconds: Some(0.5) })].into(),
        traffic: Some(Traffic {
            interface: "default".to_owned(),
            receive_bytes: 1500,
            receive_packets: 2,
            transmit_bytes: 90,
            transmit_packets: 1,
            lost: Some(Lost { receive_packets_dropped: 3, transmit_packets_dropped: 4, transmit_errors: 5 }),
        }),
        guest_memory: Some(GuestMemory {
            actual_bytes: 1,
            total_bytes: Some(2),
            free_bytes: Some(3),
            available_bytes: Some(4),
            disk_caches_bytes: None,
            swap_in_bytes: Some(6),
            swap_out_bytes: Some(7),
            major_faults: Some(8),
            minor_faults: Some(9),
        }),
        agent_report: Some(AgentReport {
            file_systems: vec![GuestFileSystem {
                disk_name: "vda1".to_owned(),
                mount_point: "/".to_owned(),
                file_system_type: "ext4".to_owned(),
                used_bytes: 5,
                total_bytes: 9,
                disk: Vec::new(),
            }],
            load: Some(LoadAverage { one_minute: 1.5, five_minutes: 0.5, fifteen_minutes: 0.25 }),
        }),
    };
    let families = told(|families| {
        let mut instances = Instances::default();
        instance(&one, &running_pods(&pods), &mut instances, families);
        usage(&instances, vec![used("vmi"), used("gone")], families);
    });
    let here = "node=node,namespace=ns,name=vmi";
    let info = format!(
        "{here},phase=running,os=<none>,workload=<none>,flavor=<none>,instance_type=<none>,preference=<none>,\
         guest_os_kernel_release=6.1,guest_os_machine=pc-q35-7.2,guest_os_arch=x86_64,guest_os_name=Debian,\
         guest_os_version_id=12,evictable=false,outdated=true,vmi_pod=pod"
    );
    let card = format!("{here},interface=default");
    let mounted = format!("{here},disk_name=vda1,mount_point=/,file_system_type=ext4");
    let address = format!("{here},network_name=default,address=10.0.2.2,type=ExternalInterface");
    for (name, labels, value) in [
        ("kubevirt_vmi_info", info.as_str(), 1.0),
        ("kubevirt_vmi_non_evictable", here, 1.0),
        ("kubevirt_vmi_status_addresses", address.as_str(), 1.0),
        ("kubevirt_vmi_number_of_outdated", "", 1.0),
        // Page tables for 128 MiB, the processes, I/O, one processor, and video memory.
        (
            "kubevirt_vmi_launcher_memory_overhead_bytes",
            "name=vmi,namespace=ns",
            f64::from((1 << 18) + ((240 + 8 + 8 + 32) << 20)),
        ),
        ("kubevirt_vmi_cpu_usage_seconds", here, 1.75),
        ("kubevirt_vmi_cpu_user_usage_seconds", here, 1.5),
        ("kubevirt_vmi_cpu_system_usage_seconds", here, 0.25),
        ("kubevirt_vmi_vcpu_seconds", &format!("{here},id=3,state=running"), 1.25),
        ("kubevirt_vmi_vcpu_delay_seconds", &format!("{here},id=3"), 0.5),
        ("kubevirt_vmi_memory_resident_bytes", here, 4096.0),
        ("kubevirt_vmi_memory_domain_bytes", here, f64::from(128 << 20)),
        ("kubevirt_vmi_network_receive_bytes", &card, 1500.0),
        ("kubevirt_vmi_network_receive_packets", &card, 2.0),
        ("kubevirt_vmi_network_transmit_bytes", &card, 90.0),
        ("kubevirt_vmi_network_transmit_packets", &card, 1.0),
        ("kubevirt_vmi_network_receive_packets_dropped", &card, 3.0),
        ("kubevirt_vmi_network_transmit_packets_dropped", &card, 4.0),
        ("kubevirt_vmi_network_transmit_errors", &card, 5.0),
        ("kubevirt_vmi_filesystem_capacity_bytes", &mounted, 9.0),
        ("kubevirt_vmi_filesystem_used_bytes", &mounted, 5.0),
        ("kubevirt_vmi_guest_load_1m", here, 1.5),
        ("kubevirt_vmi_guest_load_5m", here, 0.5),
        ("kubevirt_vmi_guest_load_15m", here, 0.25),
    ] {
        assert_eq!(families.of(name), [(labels.to_owned(), value)], "{name}");
    }
    for (name, value) in [
        ("actual_balloon_bytes", Some(1.0)),
        ("available_bytes", Some(2.0)),
        ("unused_bytes", Some(3.0)),
        ("usable_bytes", Some(4.0)),
        ("cached_bytes", None),
        ("swap_in_traffic_bytes", Some(6.0)),
        ("swap_out_traffic_bytes", Some(7.0)),
        ("pgmajfault", Some(8.0)),
        ("pgminfault", Some(9.0)),
    ] {
        let told: Vec<_> = value.map(|value| (here.to_owned(), value)).into_iter().collect();
        assert_eq!(families.of(&format!("kubevirt_vmi_memory_{name}")), told, "{name}");
    }
}
