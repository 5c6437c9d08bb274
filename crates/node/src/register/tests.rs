#![allow(clippy::unwrap_used)]

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;

use super::*;
use crate::test_server::TestServer;

fn facts() -> Facts {
    Facts {
        cores: 8,
        memory_bytes: 24 << 30,
        available_memory_bytes: 12 << 30,
        disk: Disk { total_bytes: 1 << 40, free_bytes: 1 << 39, total_inodes: 1000, free_inodes: 500 },
        tasks: 300,
        most_tasks: 4_194_304,
        kernel: "6.12.0".to_owned(),
        architecture: "amd64",
        os_image: "Debian GNU/Linux 13 (trixie)".to_owned(),
        machine_id: "m".to_owned(),
        system_uuid: String::new(),
        boot_id: "b".to_owned(),
        address: "192.0.2.7".parse().unwrap(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

#[test]
fn the_reserve_is_a_twentieth_within_bounds() {
    let mib = |mib: u64| mib << 20;
    for (memory, reserve) in [(1024, 256), (5120, 256), (20_480, 1024), (40_960, 2048), (1 << 20, 2048)] {
        assert_eq!(reserved_bytes(mib(memory)), mib(reserve), "{memory} MiB");
    }
}

#[test]
fn pressure_begins_where_a_kubelet_would_evict() {
    let pressed = |facts: &Facts| -> Vec<&'static str> {
        let found = conditions(facts);
        assert!(found[3].status && found[3].type_ == "Ready");
        found[..3].iter().filter(|condition| condition.status).map(|condition| condition.reason).collect()
    };
    assert_eq!(pressed(&facts()), [""; 0]);
    let with = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        pressed(&facts)
    };
    assert_eq!(with(&|facts| facts.available_memory_bytes = 100 << 20), [""; 0]);
    assert_eq!(
        with(&|facts| facts.available_memory_bytes = (100 << 20) - 1),
        ["KubeletHasInsufficientMemory"]
    );
    assert_eq!(with(&|facts| facts.disk.free_bytes = (1 << 40) / 10 + 1), [""; 0]);
    assert_eq!(with(&|facts| facts.disk.free_bytes = (1 << 40) / 10 - 1), ["KubeletHasDiskPressure"]);
    assert_eq!(with(&|facts| facts.disk.free_inodes = 49), ["KubeletHasDiskPressure"]);
    assert_eq!(
        with(&|facts| facts.disk.total_inodes = 0),
        [""; 0],
        "a file system without a limit of inodes"
    );
    assert_eq!(with(&|facts| facts.tasks = 4_000_000), ["KubeletHasInsufficientPID"]);
}

#[tokio::test]
async fn a_node_is_made_kept_fresh_and_made_again() {
    let server = TestServer::start().await;
    let client = server.client();
    let nodes: Api<Node> = Api::all(client.clone());
    update_node(&client, "here", &facts(), at(0)).await.unwrap();
    let made = nodes.get("here").await.unwrap();
    let status = made.status.clone().unwrap();
    assert_eq!(status.allocatable.as_ref().unwrap()["memory"].0, "23907532Ki");
    assert_eq!(status.capacity.as_ref().unwrap()["cpu"].0, "8");
    assert_eq!(made.metadata.annotations.as_ref().unwrap()[HEARTBEAT], "2027-01-15T08:00:00Z");
    let info = status.node_info.unwrap();
    assert_eq!(info.kubelet_version, concat!("v1.33.0+ferrovirt.", env!("CARGO_PKG_VERSION")));

    // Nothing changed: nothing is written within a minute.
    update_node(&client, "here", &facts(), at(59)).await.unwrap();
    assert_eq!(nodes.get("here").await.unwrap().metadata.resource_version, made.metadata.resource_version);

    // What others say of the Node stays; our labels come back.
    let mine = json!({
        "metadata": {"labels": {"mine": "yes", "kubevirt.io/schedulable": "false"}, "annotations": {"note": "n"}},
        "spec": {"unschedulable": true, "taints": [{"key": "k", "effect": "NoSchedule"}]},
    });
    nodes.patch("here", &PatchParams::default(), &Patch::Merge(&mine)).await.unwrap();
    let mut pressed = facts();
    pressed.available_memory_bytes = 1;
    update_node(&client, "here", &pressed, at(70)).await.unwrap();
    let node = nodes.get("here").await.unwrap();
    let labels = node.metadata.labels.unwrap();
    assert_eq!((labels["mine"].as_str(), labels["kubevirt.io/schedulable"].as_str()), ("yes", "true"));
    assert_eq!(node.metadata.annotations.unwrap()["note"], "n");
    let spec = node.spec.unwrap();
    assert_eq!(spec.unschedulable, Some(true));
    assert!(spec.taints.unwrap().iter().any(|taint| taint.key == "k"));
    let conditions = node.status.unwrap().conditions.unwrap();
    let times = |type_: &str| {
        let found = conditions.iter().find(|condition| condition.type_ == type_).unwrap();
        (found.status.as_str(), found.last_transition_time.as_ref().unwrap().0)
    };
    assert_eq!(times("MemoryPressure"), ("True", at(70)));
    assert_eq!(times("Ready"), ("True", at(0)));

    nodes.delete("here", &DeleteParams::default()).await.unwrap();
    update_node(&client, "here", &facts(), at(80)).await.unwrap();
    assert!(nodes.get("here").await.unwrap().status.unwrap().conditions.is_some());
}

#[test]
fn a_status_is_written_again_after_five_minutes() {
    let node = |written: Timestamp| -> Node {
        let mut node = Node::default();
        let patch = status_patch("here", &facts(), &node, written).unwrap();
        node.status = serde_json::from_value(patch["status"].clone()).unwrap();
        node
    };
    assert_eq!(status_patch("here", &facts(), &node(at(0)), at(299)), None);
    assert!(status_patch("here", &facts(), &node(at(0)), at(300)).is_some());
    assert!(status_patch("here", &facts(), &node(at(1)), at(0)).is_some(), "the clock was set back");
}

#[tokio::test]
async fn the_lease_is_renewed_and_belongs_to_the_node() {
    let server = TestServer::start().await;
    let client = server.client();
    update_node(&client, "here", &facts(), at(0)).await.unwrap();
    renew_lease(&client, "here", at(0)).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let lease = leases.get("here").await.unwrap();
    assert_eq!(lease.metadata.owner_references.unwrap()[0].kind, "Node");
    renew_lease(&client, "here", at(10)).await.unwrap();
    let spec = leases.get("here").await.unwrap().spec.unwrap();
    assert_eq!(spec.renew_time.unwrap().0, at(10));
    assert_eq!((spec.holder_identity.as_deref(), spec.lease_duration_seconds), (Some("here"), Some(40)));
}

#[test]
fn a_node_keeps_its_name_until_it_is_told_another() {
    let directory = tempfile::tempdir().unwrap();
    let name = |wanted| kept_name(directory.path(), wanted, || "host".to_owned()).unwrap();
    for (wanted, expected) in [(None, "host"), (Some("a"), "a"), (None, "a"), (Some("b"), "b"), (None, "b")] {
        assert_eq!(name(wanted), expected);
    }
    // Half a write leaves the name; an empty file is none.
    std::fs::write(directory.path().join("name.tmp"), "c").unwrap();
    assert_eq!(name(None), "b");
    std::fs::write(directory.path().join("name"), "\n").unwrap();
    assert_eq!(name(None), "host");
    std::fs::remove_file(directory.path().join("name")).unwrap();
    std::fs::create_dir(directory.path().join("name")).unwrap();
    assert!(kept_name(directory.path(), None, String::new).is_err());
}
